"""Does the choice hold? Real steps of the plan at its rate, and a short branch at twice it.

``branch`` runs steps, ``judging`` reads their losses, ``attempts`` says what to try next, and
``raising`` when the rate may be higher.
"""

from batchfinder.confirm.attempts import Attempt, Known, accepted, confirmed, next_attempt
from batchfinder.confirm.confirming import confirm
from batchfinder.confirm.judging import Trace, judge, lead
from batchfinder.confirm.raising import Bolder, bolder, leads, raised

__all__ = [
    "Attempt",
    "Bolder",
    "Known",
    "Trace",
    "accepted",
    "bolder",
    "confirm",
    "confirmed",
    "judge",
    "lead",
    "leads",
    "next_attempt",
    "raised",
]
