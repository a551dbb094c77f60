"""Which batch size to use: predicted time to a target over the sizes that were measured.

``choice.recommend`` is the room's door. ``situation`` holds what binds, ``steadying`` evens out
noisy times, ``candidates`` prices what could be chosen, ``objectives`` say what is best, ``limits``
what would have changed the choice, ``uncertainty`` how sure it is, ``wording`` says it.
"""

from batchfinder.recommend.choice import recommend
from batchfinder.recommend.objectives import (
    fewest_samples,
    highest_throughput,
    largest,
    least_energy,
    shortest_time,
)
from batchfinder.recommend.settle import settled

__all__ = [
    "fewest_samples",
    "highest_throughput",
    "largest",
    "least_energy",
    "recommend",
    "settled",
    "shortest_time",
]
