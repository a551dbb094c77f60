"""What find_batch_size found, as frozen data that knows no way of showing it."""

from __future__ import annotations

from dataclasses import dataclass

from batchfinder.results import (
    Candidate,
    Confirmation,
    Environment,
    GroupRate,
    Limit,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    ProbeResult,
    RaceResult,
    RankFacts,
    Recommendation,
    Trial,
)
from batchfinder.wording import Caveat

__all__ = ["ReportData"]


@dataclass(frozen=True, eq=False)
class ReportData:
    """What a report holds: the choice, and the evidence for it.

    ``unit`` is what batch sizes count ("samples", or "tokens" under a token budget);
    ``seconds`` is the time that each stage took.
    """

    recommendation: Recommendation
    probe: ProbeResult
    measurements: tuple[Measurement, ...]
    noise_scale: NoiseScale | None
    """The gradient noise scale of the training as a whole; ``None`` where it was left out."""
    confirmation: Confirmation | None
    state_restored: bool
    """Whether checksums from before and after agree."""
    caveats: tuple[Caveat, ...]
    """What was assumed and what was not measured, as sentences."""
    environment: Environment
    base_batch_size: int | None
    base_learning_rate: float | None
    unit: str = "samples"
    seconds: tuple[tuple[str, float], ...] = ()
    race: RaceResult | None = None
    """The race of learning rates; ``None`` where there was none."""
    ranks: tuple[RankFacts, ...] = ()
    """What each rank has; empty where one process searched."""
    rates: tuple[GroupRate, ...] = ()
    """Every parameter group's rate and what it becomes; all are multiplied by one factor."""
    loader: tuple[tuple[str, str], ...] | None = None

    @property
    def batch_size(self) -> int:
        """The micro-batch per device: what goes into ``DataLoader(batch_size=…)``. It was run."""
        return self.recommendation.plan.micro_batch

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches per optimizer step, at least 1."""
        return self.recommendation.plan.accumulation_steps

    @property
    def world_size(self) -> int:
        """Devices that train together."""
        return self.recommendation.plan.world_size

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step: batch size × accumulation steps × devices."""
        return self.recommendation.plan.global_batch

    @property
    def learning_rate(self) -> float | None:
        """The rate for the global batch; ``None`` where no base rate is known."""
        return self.recommendation.learning_rate

    @property
    def own_batch_size(self) -> int | None:
        """The base batch size where it is the caller's or their loader's; ``None`` if assumed."""
        change = self.recommendation.change
        return self.base_batch_size if change is None or change.base_batch_is_yours else None

    @property
    def rate_factor(self) -> float | None:
        """By how much every learning rate is multiplied; ``None`` where no rate is recommended."""
        if self.learning_rate is None or not self.base_learning_rate:
            return None
        return self.learning_rate / self.base_learning_rate

    @property
    def learning_rate_rule(self) -> str:
        """The name of the rule that gave the learning rate."""
        return self.recommendation.learning_rate_rule

    @property
    def max_batch_size(self) -> int:
        """The largest micro-batch that was run and fitted."""
        return self.probe.max_batch_size

    @property
    def limited_by(self) -> Limit:
        """The constraint that, relaxed, would have changed the choice."""
        return self.recommendation.limited_by

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every memory trial, in order."""
        return self.probe.trials

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every global batch that could be recommended, priced against the recommended one."""
        return self.recommendation.candidates

    @property
    def memory(self) -> MemoryBreakdown:
        """Where the peak memory goes."""
        return self.probe.memory
