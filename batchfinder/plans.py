"""What can be chosen, what was chosen and whether it held: codes and numbers, no sentences.

The words for every code stand in ``batchfinder.wording``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchfinder.html import Shown
from batchfinder.outcomes import Judgement, Limit, Role, Why
from batchfinder.rates import OptimizerFamily, UpdateEffect
from batchfinder.wording import Caveat, summary

__all__ = [
    "KNEE",
    "SAME",
    "BatchPlan",
    "Candidate",
    "Change",
    "Confirmation",
    "Counted",
    "Loading",
    "Recommendation",
    "Schedule",
    "Speedup",
]

SAME = 0.03
"""Two candidates whose prices differ by less are as good as each other."""
KNEE = 0.10
"""Without a noise scale: the share of the best throughput given up for a smaller batch."""


@dataclass(frozen=True)
class BatchPlan:
    """The composition of one optimizer step: micro-batch × accumulation steps × devices."""

    micro_batch: int
    accumulation_steps: int = 1
    world_size: int = 1

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step, over all devices."""
        return self.micro_batch * self.accumulation_steps * self.world_size

    def __str__(self) -> str:
        parts = [str(self.micro_batch)]
        if self.accumulation_steps > 1:
            parts.append(f"{self.accumulation_steps} accumulation steps")
        if self.world_size > 1:
            parts.append(f"{self.world_size} devices")
        return " x ".join(parts)


@dataclass(frozen=True)
class Candidate:
    """One global batch that could be recommended, with its cost relative to the recommended one."""

    plan: BatchPlan
    relative_time: float
    relative_samples: float
    step_seconds: float
    learning_rate: float | None = None
    peak_bytes: int | None = None
    chosen: bool = False
    relative_time_low: float = math.nan
    relative_time_high: float = math.nan
    roles: tuple[Role, ...] = ()
    """Why it is of interest beside its price."""
    joules_per_sample: float | None = None
    """``None`` where the device does not report its energy."""

    @property
    def energy_to_target(self) -> float | None:
        """Joules per sample · samples to the target, in units of the fewest samples.

        Joules per sample alone where the noise scale is not known.
        """
        joules = self.joules_per_sample
        if joules is None or not math.isfinite(self.relative_samples):
            return joules
        return joules * self.relative_samples


@dataclass(frozen=True)
class Speedup:
    """Predicted time to the same loss with the user's own batch over that with the choice.

    ``low`` to ``high`` is the 90% interval that noise scale, step times and the learning-rate
    rule leave open.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Loading:
    """A loader that is slower than the model, at the user's own batch.

    ``samples_per_second`` is what the loader delivers with ``workers`` processes,
    ``model_samples_per_second`` what the model takes; ``plan`` is what would be recommended were
    the loader never waited for.
    """

    batch_size: int
    samples_per_second: float
    model_samples_per_second: float
    workers: int
    plan: BatchPlan


@dataclass(frozen=True)
class Counted:
    """A number that a learning-rate scheduler counts its own steps by: ``OneCycleLR total_steps``.

    ``is_factor``: what the rate is multiplied by at every one of them, not how many there are.
    """

    name: str
    value: float
    is_factor: bool = False

    def at(self, steps_factor: float) -> float:
        """The number where the training has so many times the steps."""
        return self.value ** (1 / steps_factor) if self.is_factor else self.value * steps_factor


@dataclass(frozen=True)
class Schedule:
    """What the learning-rate schedulers of a training tell, at the user's own batch.

    ``steps`` is the length of the training in optimizer steps, ``None`` where they do not tell.
    ``counts_epochs``: whether ``counted`` are epochs; ``is_certain``: whether that is known, and
    not concluded from how small or large they are.
    """

    decays: bool
    steps: int | None = None
    counted: tuple[Counted, ...] = ()
    counts_epochs: bool = False
    is_certain: bool = False


@dataclass(frozen=True)
class Change:
    """From the user's batch and rate to the recommended ones. Sizes are global batches."""

    family: OptimizerFamily
    base_batch: int
    batch: int
    micro_batch: int
    base_rate: float | None = None
    rate: float | None = None
    critical: float | None = None
    dataset_length: int | None = None
    training_steps: int | None = None
    base_batch_is_yours: bool = True
    base_rate_is_yours: bool = True
    schedule: Schedule | None = None

    @property
    def factor(self) -> float:
        """How many times the samples of a step there are."""
        return self.batch / self.base_batch

    @property
    def steps_factor(self) -> float | None:
        """Optimizer steps to the same loss over those before; ``None`` without a noise scale.

        (1 + φ/B) / (1 + φ/B₀): McCandlish et al. 2018, arXiv:1812.06162, equation 2.7.
        """
        if self.critical is None:
            return None
        return (1 + self.critical / self.batch) / (1 + self.critical / self.base_batch)

    def steps_per_epoch(self, batch: int) -> int | None:
        """Optimizer steps of one epoch at a global batch; ``None`` for a stream."""
        return None if self.dataset_length is None else math.ceil(self.dataset_length / batch)


@dataclass(frozen=True)
class Recommendation(Shown):
    """The choice, its learning rate and the constraint that limits it."""

    plan: BatchPlan
    learning_rate: float | None
    learning_rate_rule: str
    """The name of the rule."""
    limited_by: Limit
    candidates: tuple[Candidate, ...]
    why: Why = Why.FASTEST
    objective: str = "shortest_time"
    """The name of what was best."""
    rule_factor: float = 1.0
    """``learning_rate`` over the rule's: 2 where twice of it trained faster, 0.5 once halved."""
    speedup: Speedup | None = None
    """Against the user's own batch; ``None`` where that is the choice, or cannot be run."""
    loading: Loading | None = None
    """Where the loader is slower than the model."""
    change: Change | None = None
    learning_rate_range: tuple[float, float] | None = None
    """Global batches between which the rule is trusted."""
    within_noise: tuple[int, int] | None = None
    """Smallest and largest global batch that the measurements cannot tell from the choice."""
    caveats: tuple[Caveat, ...] = ()

    def __str__(self) -> str:
        return summary.recommended(
            [
                (
                    str(each.plan),
                    each.chosen,
                    each.relative_time,
                    each.relative_samples,
                    each.learning_rate,
                    each.peak_bytes,
                    [role.value for role in each.roles],
                )
                for each in self.candidates
            ],
            plan=str(self.plan),
            rate=self.learning_rate,
            limited_by=self.limited_by.value,
            caveats=self.caveats,
        )


@dataclass(frozen=True)
class Confirmation(Shown):
    """Dozens of real steps with one plan and learning rate, and a short branch at twice the rate.

    ``at_double_rate`` is ``None`` if twice the rate was not tried. ``detail`` is the message of the
    device if it ran out of memory.
    """

    plan: BatchPlan
    learning_rate: float | None
    steps: int
    judgement: Judgement
    at_double_rate: Judgement | None = None
    first_loss: float = math.nan
    last_loss: float = math.nan
    double_rate_last_loss: float = math.nan
    double_rate_lead: float | None = None
    """How much further the loss fell at twice the rate, as a share of its fall at the rate: the
    lower end of what the scatter allows. ``None`` where the two were not compared."""
    peak_bytes: int | None = None
    seconds: float = 0.0
    detail: str = ""
    effect: UpdateEffect | None = None
    """What the updates at the rate itself did; ``None`` where that was not looked at."""

    @property
    def held(self) -> bool:
        """Whether the plan held at its rate."""
        return self.judgement.is_good

    @property
    def double_rate_held(self) -> bool | None:
        """Whether twice the rate held too; ``None`` where it was not tried."""
        return None if self.at_double_rate is None else self.at_double_rate.is_good

    @property
    def out_of_memory(self) -> bool:
        """Whether memory, or an index limit, is why it failed."""
        return self.judgement.is_about_size

    def __str__(self) -> str:
        rate, first = self.learning_rate, self.first_loss
        rows = [("at the rate", rate, self.steps, self.judgement.value, first, self.last_loss)]
        if self.at_double_rate is not None and rate is not None:
            last = self.double_rate_last_loss
            twice = self.at_double_rate.value
            rows.append(("at twice the rate", 2 * rate, self.steps, twice, first, last))
        return summary.confirmed(plan=str(self.plan), rate=rate, held=self.held, rows=rows)
