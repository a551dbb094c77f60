"""How the gradient noise scale is estimated."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

from batchfinder.protocols.source import MicroBatches
from batchfinder.protocols.step import TrainStep
from batchfinder.results import BatchPlan, NoiseScale

__all__ = ["NoiseEstimator", "WarmupEstimator"]


class NoiseEstimator(Protocol):
    """How the gradient noise scale is estimated at the weights as they are.

    This much is required. One that is also a ``WarmupEstimator`` says itself what it spends, and
    can be had from the training steps themselves.
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
