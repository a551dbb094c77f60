"""What is fixed along one warm-up, and what was seen along it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

from batchfinder.noise.draws import Draws, samples_in
from batchfinder.noise.hazards import Hazards
from batchfinder.noise.look import Point, Pooling
from batchfinder.noise.metric import EUCLIDEAN, Metric
from batchfinder.noise.micro_batch import MicroBatchVariance
from batchfinder.noise.room import attempt
from batchfinder.protocols import BatchSource, Clock, NoiseEstimator, TrainStep
from batchfinder.results import BatchPlan, NoiseScale


@dataclass(frozen=True)
class Way:
    """What stays the same along one warm-up."""

    step: TrainStep
    source: BatchSource
    base_batch: int
    micro_batch: int
    estimator: NoiseEstimator
    hazards: Hazards
    deadline: tuple[Clock, float] | None
    seed: int
    room: float = math.inf
    """The largest micro-batch for which memory may last beside gradients and their sketches."""

    @property
    def own(self) -> bool:
        """Whether the estimator is ours, which can be had along with the training."""
        return isinstance(self.estimator, MicroBatchVariance)

    @property
    def splits(self) -> bool:
        """Whether training steps may be cut smaller than the user's own micro-batch."""
        return self.own and self.base_batch >= 2 and not self.hazards.batch_norm

    @property
    def largest_look(self) -> int:
        """The largest micro-batch to look at beside the training."""
        return int(max(1, min(self.micro_batch, self.room)))

    @property
    def size(self) -> int:
        """The micro-batch that the user's training works with."""
        return min(self.base_batch, self.micro_batch)

    def pooling(self, seen: Seen) -> Pooling:
        population = samples_in(self.source)
        confidence = getattr(self.estimator, "confidence", 0.90)
        name = " ".join(filter(None, (self.estimator.name, seen.metric.name)))
        return Pooling(name, confidence, self.source.unit, population)

    def out_of_time(self) -> bool:
        return self.deadline is not None and self.deadline[0]() > self.deadline[1]

    def estimate(self, estimator: NoiseEstimator, size: int, salt: int) -> NoiseScale:
        """``estimator`` at the weights as they are.

        Raises:
            NoiseNotMeasured: where there is none, or no memory for it (``NoRoom``).
        """
        draws = Draws.fresh(
            self.source,
            size,
            self.seed + 7919 * (salt + 1),
            sum_reduced=self.hazards.sum_reduced,
            deadline=self.deadline,
        )
        work = partial(estimator.estimate, self.step, draws, BatchPlan(size))
        return attempt(self.step, size, work)


@dataclass
class Seen:
    """What was seen along the way."""

    points: list[Point] = field(default_factory=list)
    looks: list[NoiseScale] = field(default_factory=list)
    steps: int = 0
    metric: Metric = EUCLIDEAN
    caveats: list[str] = field(default_factory=list)

    @property
    def preconditioned(self) -> bool:
        return self.metric is not EUCLIDEAN

    def since(self, step: float, until: float = math.inf) -> list[Point]:
        return [point for point in self.points if step < point.step <= until]
