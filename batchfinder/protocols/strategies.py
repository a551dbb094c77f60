"""What a user may pass: noise estimators, objectives, rules, observers, clocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeAlias, runtime_checkable

from batchfinder.protocols.source import MicroBatches
from batchfinder.protocols.step import TrainStep
from batchfinder.results import BatchPlan, Candidate, Event, NoiseScale

__all__ = [
    "Advance",
    "Clock",
    "LearningRateRule",
    "NoiseEstimator",
    "Objective",
    "Observer",
    "WarmupEstimator",
]


Objective: TypeAlias = Callable[[Sequence[Candidate]], Candidate]
"""Which candidate is best. Called with candidates in increasing global batch."""

LearningRateRule: TypeAlias = Callable[[float, float, float, "NoiseScale | None"], float]
"""(base learning rate, base batch, batch, noise scale) -> learning rate at ``batch``."""

Observer: TypeAlias = Callable[[Event], None]
"""Gets every event as frozen data, in the thread of the caller."""

Clock: TypeAlias = Callable[[], float]
"""Seconds since any fixed moment, never going back; ``time.perf_counter`` outside tests."""


class Advance(Protocol):
    """Told of every step of a stage: the samples that it took; 0 steps where it is part of one."""

    def __call__(self, samples: int, steps: int = 1) -> None: ...


class NoiseEstimator(Protocol):
    """An estimator of the gradient noise scale at the current weights.

    This is the minimum. A ``WarmupEstimator`` also controls how many samples it uses, and can be
    computed from the training steps.
    """

    @property
    def name(self) -> str: ...
    def estimate(self, step: TrainStep, batches: MicroBatches, plan: BatchPlan) -> NoiseScale:
        """The noise scale at the weights as they are, which do not move.

        ``batches`` are micro-batches of ``plan.micro_batch`` samples, none of them seen before;
        iterate over them, and no further than needed.

        Raises:
            NoiseNotMeasured: where there is none.
        """
        ...


@runtime_checkable
class WarmupEstimator(NoiseEstimator, Protocol):
    """A noise estimator with everything that a warm-up of real training can make use of."""

    @property
    def along_training(self) -> bool:
        """Whether its figure is ``noise_trace / gradient_squared``.

        If so, both are also read from the training steps of the warm-up, whose gradients are
        there anyway, and ``estimate`` is asked only for what these leave open.
        """
        ...

    @property
    def samples(self) -> int:
        """Samples that one estimate may spend."""
        ...

    @property
    def confidence(self) -> float:
        """How often its interval holds the true figure, such as 0.90."""
        ...

    @property
    def warmup_steps(self) -> int | None:
        """Optimizer steps of warm-up; ``None`` for as many as the time allows, up to 200."""
        ...

    def with_budget(self, samples: int, *, at_least: int) -> Self:
        """The same, with ``samples`` to spend on at least so many micro-batches."""
        ...

    def in_optimizer_metric(self) -> Self:
        """The same over gradients as the optimizer scales them; itself where it cannot."""
        ...
