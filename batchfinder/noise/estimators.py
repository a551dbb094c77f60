"""Any estimator as one that a warm-up can work with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from batchfinder.protocols import MicroBatches, NoiseEstimator, TrainStep, WarmupEstimator
from batchfinder.results import BatchPlan, NoiseScale

SAMPLES = 1024
"""Samples that one estimate may spend, where the estimator does not say."""


@dataclass(frozen=True)
class OnlyEstimates:
    """An estimator that has ``estimate`` and no more, kept within its budget by its batches."""

    estimator: NoiseEstimator
    samples: int = SAMPLES
    least: int = 1
    along_training: bool = False
    confidence: float = 0.90
    warmup_steps: int | None = None

    @property
    def name(self) -> str:
        return self.estimator.name

    def with_budget(self, samples: int, *, at_least: int) -> Self:
        return replace(self, samples=samples, least=at_least)

    def in_optimizer_metric(self) -> Self:
        return self

    def estimate(self, step: TrainStep, batches: MicroBatches, plan: BatchPlan) -> NoiseScale:
        most = max(self.least, self.samples // plan.micro_batch)
        return self.estimator.estimate(step, batches.first(most), plan)


def warmup_estimator(given: NoiseEstimator) -> WarmupEstimator:
    """``given`` itself where it is a whole ``WarmupEstimator``, else with what it lacks."""
    return given if isinstance(given, WarmupEstimator) else OnlyEstimates(given)
