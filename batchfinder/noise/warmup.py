"""The warm-up itself: which steps are measured, and where the weights are held still."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from batchfinder.errors import NoiseNotMeasured, OutOfTime
from batchfinder.formulas import Moments
from batchfinder.noise.context import (
    FEWEST_GROUPS,
    Point,
    WarmupContext,
    WarmupRecord,
)
from batchfinder.noise.gradient_hooks import MATURE, metric_of
from batchfinder.noise.sampling import TrainingBatches
from batchfinder.noise.training_loop import FARTHEST_AHEAD, THE_UPDATE, TrainingLoop
from batchfinder.run.attempt import Shortage
from batchfinder.wording import Caveat

PIECES = 2
"""Micro-batches per measured step. Two cost least; the precision of |G|² hangs on the samples, and
only by a factor of 1 / (1 - 1/pieces) on how they are cut."""

STRIDE = 4
"""Every so many steps one is measured, where that gives samples enough."""

ESTIMATES = 8
"""Moments in the second half at which samples beyond those trained on are measured."""

EARLY_MOMENTS = (0.18, 0.34)
"""Shares of a warm-up after which they are too, where nothing comes with the training."""

FEWEST_STEPS, FEWEST_SHARE = 20, 0.18
"""No warm-up is ended before so many steps, and this share of what it usually takes."""

EARLIEST = 8
"""After so many steps measuring begins, where a few may be enough."""

BETWEEN_CHECKS = 12
"""Every so many steps a warm-up may end, since what the rest may show changes nothing."""

WANTED = 8.0
"""Samples wanted in the second half, as a multiple of the noise scale in the first: three times
the noise scale gives ±40%, and it may have more than doubled by then."""

LEAST = 3.0
"""Samples that will do, likewise."""

SPARE = 0.5
"""Of the time left, for the second half where more samples are measured in it than trained on."""


@dataclass
class Warmup:
    """``steps`` optimizer steps, and points gathered along them.

    ``context`` has smaller micro-batches afterwards where memory ran out.
    """

    context: WarmupContext
    steps: int
    usual: int
    """Steps that it would take with more time."""
    record: WarmupRecord = field(default_factory=WarmupRecord)
    stride: int = STRIDE
    extra: int = 0
    """Samples to measure in the second half beside those trained on."""
    reserve: int = 0
    """As many more, where the first of them show that they do not do."""

    def __post_init__(self) -> None:
        context = self.context
        batches = TrainingBatches(context.source, context.seed)
        self.loop = TrainingLoop(context.step, batches, context.hazards.sum_reduced)
        self._cut()
        self.matures = context.estimator.along_training and self.steps >= 2 * MATURE
        begin = self.steps // 4 if context.is_enough is None else min(EARLIEST, self.steps // 4)
        self.first = max(begin, MATURE if self.matures else 0) + 1
        self._spread(ESTIMATES)
        self.checks = {round(self.steps * share / 10) for share in range(5, 10)}
        self.checks.update(range(2 * BETWEEN_CHECKS, self.steps, BETWEEN_CHECKS))
        if context.is_enough is not None and not context.splits:
            self.extra = self._most()
            self.moments |= {round(self.steps * share) for share in EARLY_MOMENTS}

    def _is_enough(self, number: int) -> bool:
        """Whether all that the whole warm-up may come to show decides the same."""
        fewest = max(FEWEST_STEPS, round(FEWEST_SHARE * self.usual))
        if self.context.is_enough is None or number < fewest:
            return False
        try:
            return self.context.is_enough(self.context.outcomes(self.record, self.usual))
        except NoiseNotMeasured:
            return False

    def _cut(self) -> None:
        self.whole = self.context.parts(1)
        # each rank's micro-batch is one to compare, and steps need not be cut for it
        self.pieces = self.context.parts(PIECES if self.context.step.ranks.alone else 1)

    def run(self) -> None:
        """Train.

        Raises:
            Shortage: where memory runs out even with micro-batches of 1.
        """
        begun = self.context.now()
        for number in range(1, self.steps + 1):
            if self.context.out_of_time():
                break
            if self.matures and number >= self.first:
                self.record.metric = self.loop.metric = metric_of(self.context.step)
            try:
                self._advance(number)
            except OutOfTime:  # no samples could be read before the call's end
                break
            if number == self.steps // 2:
                self._plan_second_half(begun)
            looks = self.extra > 0 and number in self.moments
            if looks:
                self._estimate()
                self._ask_for_more()
            if (looks or number in self.checks) and self._is_enough(number):
                self.record.enough = number < self.steps
                break
        self.context.step.zero_grad()
        self.record.caveats.extend(self.loop.caveats())

    def _advance(self, number: int) -> None:
        """One optimizer step, measured where it is its turn; smaller until memory lasts."""
        measured = self._is_measured(number)
        while True:
            sizes = self.pieces if measured else self.whole
            try:
                found = self.loop.train(sizes, measured=measured, coming=self._coming(number))
                break
            except Shortage as error:
                smaller = self.context.smaller(max(sizes))
                if smaller is None or error.doing == THE_UPDATE:
                    raise
                self._shrink(smaller, error)
        self.record.steps = number
        self.context.advance(self.context.base_batch)
        if found is not None and not self.loop.in_parts:
            self.record.points.append(Point(number, found))

    def _is_measured(self, number: int) -> bool:
        turn = number >= self.first and (number - self.first) % self.stride == 0
        return turn and self.context.splits and not self.loop.in_parts

    def _coming(self, number: int) -> Iterator[int]:
        """The micro-batches of the steps after ``number``, as far as they are planned."""
        for each in range(number + 1, min(self.steps, number + FARTHEST_AHEAD) + 1):
            stops = each - 1 == self.steps // 2 or (self.extra and each - 1 in self.moments)
            if stops:  # then the second half is planned, or other samples are measured
                return
            yield from self.pieces if self._is_measured(each) else self.whole

    def _shrink(self, size: int, reason: Shortage) -> None:
        """Go on with micro-batches of ``size``, and samples not seen yet."""
        self.context = replace(self.context, micro_batch=size)
        self._cut()
        self.record.caveats.append(
            Caveat("noise.smaller", why=str(reason), steps=self.record.steps, size=size)
        )

    def _plan_second_half(self, begun: float) -> None:
        """How many of its steps to measure, and how many samples beside."""
        context, most = self.context, self._most()
        recent = self.record.since(self.steps / 4)
        if not recent:  # a warm-up of a few steps may not have come to one measured
            self.extra = most
            return
        try:
            lately = context.pooling(self.record)(recent, context.micro_batch)
        except NoiseNotMeasured:  # all zero so far: other samples may not be
            self.stride = 1
            return
        samples = max(most, context.estimator.samples)
        wanted = round(WANTED * lately.value) if lately.is_bounded else samples
        if self.record.estimates:  # whose interval is one moment's: few points have none
            lately = self.record.estimates[-1]
            wanted = samples if not lately.is_bounded else round(WANTED * lately.high)
            wanted = max(wanted, samples // 4)
        wanted = min(wanted, samples)
        each = context.base_batch * context.step.ranks.replicas
        coming = (self.steps - self.steps // 2) * each if context.splits else 0
        if wanted > most and not self._has_time_for(wanted - coming, begun):
            wanted = samples = most
        self.reserve = samples - wanted if self.record.estimates else 0
        self.stride = min(STRIDE, max(1, coming // max(wanted, 1)))
        self.extra = max(0, wanted - coming)
        of_one = FEWEST_GROUPS * context.estimate_size(self.extra // ESTIMATES)
        self._spread(min(ESTIMATES, max(FEWEST_GROUPS, self.extra // of_one)))

    def _ask_for_more(self) -> None:
        """Where few samples were planned and the first of them do not do: as many as usual."""
        late = self.record.since(self.steps / 2)
        if self.reserve <= 0 or len(late) != FEWEST_GROUPS:
            return
        with suppress(NoiseNotMeasured):
            found = self.context.pooling(self.record)(late, self.context.micro_batch)
            if not found.is_bounded or LEAST * found.value > self.extra:
                self.extra += self.reserve

    def _spread(self, looks: int) -> None:
        """So many moments over the second half, the last of them at its end."""
        self.looks, half = looks, self.steps / 2
        self.moments = {self.steps - round(index * half / looks) for index in range(looks)}

    def _has_time_for(self, extra: int, begun: float) -> bool:
        """Whether the rest of the steps and ``extra`` samples leave half of the time."""
        context, taken = self.context, self.record.steps * self.context.base_batch
        if context.deadline is None:  # nobody says how much there is
            return False
        now = context.now()
        left = self.steps * context.base_batch - taken + extra
        return (now - begun) / taken * left <= SPARE * (context.deadline[1] - now)

    def _most(self) -> int:
        """Samples that are measured at any rate, where wanted: as many as are trained on."""
        context = self.context
        if not context.estimator.along_training:  # nothing comes with the training
            return context.estimator.samples * ESTIMATES
        return min(context.estimator.samples, max(1, self.steps) * context.base_batch)

    def _estimate(self) -> None:
        """Hold the weights still and measure some more samples."""
        context, record, samples = self.context, self.record, self.extra // self.looks
        size = context.estimate_size(samples)
        count = max(FEWEST_GROUPS, samples // size)
        estimator = context.estimator.with_budget(count * size, at_least=count)
        if record.preconditioned:
            estimator = estimator.in_optimizer_metric()
        self.loop.batches.left = 0
        try:
            found = context.estimate(estimator, size, record.steps)
        except (NoiseNotMeasured, Shortage) as error:
            if isinstance(error, Shortage):
                smaller = context.smaller(size)
                self.context = replace(context, largest=smaller or 1)
                self.extra *= smaller is not None
            elif context.out_of_time():  # which is said by itself
                return
            record.caveats.append(Caveat("noise.moment", steps=record.steps, why=str(error)))
            return
        record.estimates.append(replace(found, after_steps=record.steps))
        moments = Moments(found.gradient_squared, found.noise_trace, found.samples, 2)
        if math.isfinite(moments.gradient_squared + moments.noise_trace):
            record.points.append(Point(record.steps, moments))
