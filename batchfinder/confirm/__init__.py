"""Does the choice hold? Real steps of the plan at its rate, and a short branch at twice it.

``branch`` runs steps, ``judging`` reads their losses, ``attempts`` says what to try next.
"""

from batchfinder.confirm.attempts import Attempt, accepted, confirmed, next_attempt
from batchfinder.confirm.confirming import confirm
from batchfinder.confirm.judging import Trace, judge

__all__ = ["Attempt", "Trace", "accepted", "confirm", "confirmed", "judge", "next_attempt"]
