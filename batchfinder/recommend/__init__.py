"""Which batch size to use: predicted time to a target over the sizes that were measured.

``problem``      what a recommendation is made from
``choice``       ``recommend``: candidates priced, one chosen, its limit and certainty
``decision``     the objective's plan, unless the user's own is as good; what limits it
``situation``    what binds; asked "what if?"
``candidates``   what could be chosen, its price, and how sure that is
``step_time``    noisy step times as a curve
``objectives``   what is best
``caveats``      what a reader should know
"""

from batchfinder.recommend.choice import Pair, pair_by_noise, recommend
from batchfinder.recommend.objectives import (
    fewest_samples,
    highest_throughput,
    largest,
    least_energy,
    shortest_time,
)
from batchfinder.recommend.problem import Problem

__all__ = [
    "Pair",
    "Problem",
    "fewest_samples",
    "highest_throughput",
    "largest",
    "least_energy",
    "pair_by_noise",
    "recommend",
    "shortest_time",
]
