"""The choice checked by training: real steps of the plan at its rate, and a branch at twice it.

``confirming``   ``confirm``: the branches of one plan
``branch``       runs steps, ``judging`` reads their losses
``retry``        what to try next where a plan does not hold
``higher_rate``  when the rate may be higher
``procedure``    ``confirm_recommendation``: the whole of it
``constants``    how long, how far, how often
``stage``        the same within a call
"""

from batchfinder.confirm.branch import STEPS, Trace, judge, lead
from batchfinder.confirm.confirming import confirm
from batchfinder.confirm.procedure import (
    HigherRate,
    confirm_recommendation,
    higher_rate,
    leads,
    try_higher_rate,
)
from batchfinder.confirm.retry import (
    Attempt,
    OwnPair,
    Run,
    confirm_with_retries,
    is_confirmed,
    never,
    next_attempt,
)

__all__ = [
    "STEPS",
    "Attempt",
    "HigherRate",
    "OwnPair",
    "Run",
    "Trace",
    "confirm",
    "confirm_recommendation",
    "confirm_with_retries",
    "higher_rate",
    "is_confirmed",
    "judge",
    "lead",
    "leads",
    "never",
    "next_attempt",
    "try_higher_rate",
]
