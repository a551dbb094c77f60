"""Race: a learning-rate rule that measures."""

from __future__ import annotations

from dataclasses import dataclass

from batchfinder.errors import InvalidArgument
from batchfinder.keywords import options_named
from batchfinder.protocols import LearningRateRule
from batchfinder.race.arithmetic import FEWEST_STEPS
from batchfinder.results import NoiseScale

__all__ = ["Race", "Raced"]


@options_named
@dataclass(frozen=True)
class Race:
    """Measure the learning rate in short trainings at rates a factor of two apart.

    Pass ``learning_rate_rule=Race()``. A race runs four to eight trainings (arms) at the
    recommended batch size, starting from the current weights, compares their held-out loss and
    restores everything. With ``training_steps``, the best rate is extrapolated to the length of the
    run by the power -2/3 for Adam, -1/4 for SGD and -1/8 for a decaying rate, if the rule's rate is
    outside the range that the length leaves open; without it, the rule's rate is only kept within a
    factor of four below the best. If the losses differ by no more than those of one rate with two
    data orders, the rule's rate is kept.

    Args:
        steps: optimizer steps of one arm. Default: 100, and up to 400 for long runs.
        ramp: steps over which the rate increases at the start of an arm.
        arms: maximum number of rates tried, not counting repeats.
        decays: whether the rate of the run decays or its weights are averaged; averaged weights are
            then evaluated. Default: inferred from ``scheduler=``.
        start: the rule whose rate is tried first. Default: that of the optimizer's family.
    """

    steps: int | None = None
    ramp: int = 20
    arms: int = 8
    decays: bool | None = None
    start: LearningRateRule | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < FEWEST_STEPS:
            raise InvalidArgument(
                f"expected Race(steps=) of at least {FEWEST_STEPS}; found {self.steps}: shorter "
                "trainings favor rates that fail later"
            )
        if self.arms < 3:
            raise InvalidArgument(
                f"expected Race(arms=) of at least 3; found {self.arms}: the best rate needs a "
                "worse one on either side"
            )
        if self.ramp < 0:
            raise InvalidArgument(f"expected Race(ramp=) of 0 or more; found {self.ramp}")


@dataclass(frozen=True)
class Raced:
    """A rule put right by a race: ``rate`` at ``batch``, and as the rule goes from there."""

    rule: LearningRateRule
    batch: int
    rate: float

    @property
    def __name__(self) -> str:
        return "race"

    def __call__(
        self, base_rate: float, base_batch: float, batch: float, noise: NoiseScale | None = None
    ) -> float:
        at_race = self.rule(base_rate, base_batch, self.batch, noise)
        return self.rate * (self.rule(base_rate, base_batch, batch, noise) / at_race)
