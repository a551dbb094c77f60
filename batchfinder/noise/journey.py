"""The warm-up itself: which steps are measured, and where the weights are held still."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from batchfinder.errors import NoiseNotMeasured
from batchfinder.formulas import Moments
from batchfinder.noise.draws import Epochs
from batchfinder.noise.hazards import NORM_BATCH
from batchfinder.noise.look import Point
from batchfinder.noise.metric import MATURE, metric_of
from batchfinder.noise.micro_batch import MicroBatchVariance
from batchfinder.noise.room import NoRoom, NoRoomToUpdate
from batchfinder.noise.walk import Walk, cut
from batchfinder.noise.way import Seen, Way

PIECES = 2
"""Micro-batches per measured step. Two cost least; the precision of |G|² hangs on the samples, and
only by a factor of 1 / (1 - 1/pieces) on how they are cut."""

STRIDE = 4
"""Every so many steps one is measured, where that gives samples enough."""

LOOKS = 8
"""Moments in the second half at which samples beyond those trained on are looked at."""

FEWEST_GROUPS = 4
"""Micro-batches compared at one such moment, and points pooled to one figure."""

WANTED = 8.0
"""Samples wanted in the second half, as a multiple of the noise scale in the first: three times
the noise scale gives ±40%, and it may have more than doubled by then."""


def travel(way: Way, steps: int) -> tuple[Way, Seen]:
    """Train ``steps`` optimizer steps, and gather points on the way.

    The way given back has smaller micro-batches where memory ran out.

    Raises:
        NoRoom: where memory runs out even with micro-batches of 1.
    """
    journey = _Journey(way, steps)
    seen = journey.go()
    return journey.way, seen


@dataclass
class _Journey:
    way: Way
    steps: int
    seen: Seen = field(default_factory=Seen)
    stride: int = STRIDE
    extra: int = 0

    def __post_init__(self) -> None:
        way = self.way
        self.walk = Walk(way.step, Epochs(way.source, way.seed), way.hazards.sum_reduced)
        self._cut()
        self.grows_up = way.own and self.steps >= 2 * MATURE
        self.first = max(self.steps // 4, MATURE if self.grows_up else 0) + 1
        half = self.steps / 2
        self.visits = {self.steps - round(index * half / LOOKS) for index in range(LOOKS)}

    def _cut(self) -> None:
        self.whole = cut(self.way.base_batch, self.way.micro_batch, 1)
        self.pieces = cut(self.way.base_batch, self.way.micro_batch, PIECES)

    def go(self) -> Seen:
        for number in range(1, self.steps + 1):
            if self.way.out_of_time():
                break
            if self.grows_up and number >= self.first:
                self.seen.metric = self.walk.metric = metric_of(self.way.step)
            self._one(number)
            if number == self.steps // 2:
                self._plan_second_half()
            if self.extra and number in self.visits:
                self._look()
        self.way.step.zero_grad()
        self.seen.caveats.extend(self.walk.caveats())
        return self.seen

    def _one(self, number: int) -> None:
        """One optimizer step, measured where it is its turn."""
        turn = number >= self.first and (number - self.first) % self.stride == 0
        found = self._trained(turn and self.way.splits and not self.walk.in_parts)
        self.seen.steps = number
        if found is not None and not self.walk.in_parts:
            self.seen.points.append(Point(number, found))

    def _trained(self, measured: bool) -> Moments | None:
        """One optimizer step, in ever smaller micro-batches until memory lasts."""
        while True:
            try:
                return self._attempted(measured)
            except NoRoomToUpdate:
                raise
            except NoRoom as error:
                largest = max(self.pieces if measured else self.whole)
                if largest == 1:
                    raise
                self._shrink(largest // 2, error)

    def _attempted(self, measured: bool) -> Moments | None:
        if measured:
            return self.walk.train_and_measure(self.pieces)
        self.walk.train(self.whole)
        return None

    def _shrink(self, size: int, reason: NoRoom) -> None:
        """Go on with micro-batches of ``size``, and samples not seen yet."""
        self.way = replace(self.way, micro_batch=size)
        self._cut()
        self.seen.caveats.append(
            f"{reason} after {self.seen.steps} warm-up steps: they went on with micro-batches of "
            f"{size}, accumulated to the same batch"
        )

    def _plan_second_half(self) -> None:
        """How many of its steps to measure, and how many samples to look at beside."""
        way, most = self.way, getattr(self.way.estimator, "samples", 4096)
        recent = self.seen.since(self.steps / 4)
        if not recent:  # a warm-up of a few steps may not have come to one measured
            self.extra = most
            return
        try:
            lately = way.pooling(self.seen)(recent, way.micro_batch)
        except NoiseNotMeasured:  # all zero so far: other samples may not be
            self.stride = 1
            return
        wanted = min(most, round(WANTED * lately.value)) if lately.is_bounded else most
        coming = (self.steps - self.steps // 2) * way.base_batch
        self.stride = min(STRIDE, max(1, coming // max(wanted, 1)))
        self.extra = max(0, wanted - coming)

    def _look(self) -> None:
        """Hold the weights still and look at some samples more."""
        way, seen, samples = self.way, self.seen, self.extra // LOOKS
        estimator, size = way.estimator, min(way.size, way.largest_look)
        if isinstance(estimator, MicroBatchVariance):
            size = look_size(way, samples)
            count = max(FEWEST_GROUPS, samples // size)
            estimator = replace(
                estimator,
                micro_batches=count,
                samples=count * size,
                narrow_enough=0,
                preconditioned=seen.preconditioned or estimator.preconditioned,
            )
        self.walk.epochs.left = 0
        try:
            found = way.estimate(estimator, size, seen.steps)
        except NoiseNotMeasured as error:
            if isinstance(error, NoRoom):
                self.way = replace(way, room=max(1, size // 2))
                self.extra *= size > 1
            seen.caveats.append(f"after {seen.steps} steps no noise scale was found: {error}")
            return
        seen.looks.append(replace(found, after_steps=seen.steps))
        moments = Moments(found.gradient_squared, found.noise_trace, found.samples, 2)
        if math.isfinite(moments.gradient_squared + moments.noise_trace):
            seen.points.append(Point(seen.steps, moments))


def look_size(way: Way, samples: int) -> int:
    """A micro-batch as large as in training, but never so large that few can be compared."""
    most = way.largest_look
    if way.source.ceiling is not None:
        most = min(most, max(1, way.source.ceiling // (2 * FEWEST_GROUPS)))
    if way.hazards.batch_norm:
        return min(max(NORM_BATCH, way.base_batch), most)
    return max(1, min(way.size, most, samples // FEWEST_GROUPS))
