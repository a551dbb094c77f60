"""At which rate, and how accumulated, each size of a study is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchfinder.protocols import LearningRateRule
from batchfinder.report import Report
from batchfinder.results import NoiseScale

__all__ = ["Pairs"]


@dataclass(frozen=True)
class Pairs:
    """The rate and the accumulation steps of every size: a report's own, else the rule's."""

    rule: LearningRateRule
    base_rate: float
    base: int
    noise: NoiseScale | None
    report: Report | None

    def rate_at(self, size: int) -> float:
        """The report's rate at its own size, else the rule's."""
        noise = self.noise
        if self.report is not None:
            if size == self.report.global_batch_size and self.report.learning_rate is not None:
                return self.report.learning_rate
            noise = noise or self.report.noise_scale
        return self.rule(self.base_rate, self.base, size, noise)

    def rates_at(self, size: int, factors: Sequence[float]) -> list[float]:
        """The grid around the rate of a size; beside a report's rate at the user's size, theirs."""
        rates = [self.rate_at(size) * factor for factor in factors]
        own = self.report is not None and size == self.base
        if own and not any(math.isclose(each, self.base_rate, rel_tol=1e-6) for each in rates):
            rates.append(self.base_rate)
        return rates

    def accumulation_at(self, size: int) -> int:
        """Into how many micro-batches a step is cut."""
        if self.report is None or size != self.report.global_batch_size:
            return 1
        return self.report.accumulation_steps * self.report.world_size
