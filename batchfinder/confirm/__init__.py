"""The choice checked by training: real steps of the plan at its rate, and a branch at twice it.

``confirming``   ``confirm``: the branches of one plan
``branch``       runs steps and judges them: how long, how far, how often
``retry``        what to try next where a plan does not hold
``procedure``    ``confirm_recommendation``: the whole of it, a higher rate too
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
