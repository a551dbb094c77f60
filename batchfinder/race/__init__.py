"""The learning rate measured instead of predicted: short trainings side by side.

``rule`` is the value that a caller passes, ``arithmetic`` decides which rate is tried next and what
the tried ones say, ``arms`` trains one, and ``racing`` is one whole race.
"""

from batchfinder.race.arithmetic import carried, clipped, race_steps, steps_at
from batchfinder.race.arms import Course
from batchfinder.race.racing import Finish, length_of, race_rates, run_arms
from batchfinder.race.rule import Race, Raced

__all__ = [
    "Course",
    "Finish",
    "Race",
    "Raced",
    "carried",
    "clipped",
    "length_of",
    "race_rates",
    "race_steps",
    "run_arms",
    "steps_at",
]
