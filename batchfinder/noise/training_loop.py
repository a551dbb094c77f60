"""Optimizer steps of the user's own training, which can be measured as they are taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from batchfinder.errors import LossIsNotFinite
from batchfinder.formulas import Moments, moments
from batchfinder.meter import unmetered
from batchfinder.noise.gradient_hooks import EUCLIDEAN, Metric
from batchfinder.noise.preflight import hazards_in_room
from batchfinder.noise.reduced import gradient_reader
from batchfinder.noise.sampling import Allowed, TrainingBatches, any_size, cut, nearest_allowed
from batchfinder.protocols import Advance, BatchSource, TrainStep
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.wording import Caveat

THE_UPDATE = "the optimizer's update"
"""Which no smaller micro-batch makes smaller."""

FARTHEST_AHEAD = 64
"""Steps whose sizes are told beforehand."""

_NOT_FINITE_IN_A_ROW = 5


@dataclass
class TrainingLoop:
    """Optimizer steps of the user's own batch, each cut into micro-batches whose norms are read.

    The update is the same as that of the whole batch (up to batch norm), so that the measurement
    costs the norms and nothing else.
    """

    step: TrainStep
    batches: TrainingBatches
    sum_reduced: bool
    losses: list[float] = field(default_factory=list)
    not_finite: int = 0
    in_parts: bool = False
    metric: Metric = EUCLIDEAN

    def train(
        self, sizes: Sequence[int], *, measured: bool = False, coming: Iterable[int] = ()
    ) -> Moments | None:
        """One optimizer step over micro-batches of ``sizes``.

        Its moments where it is ``measured`` and they are finite. ``coming`` are the micro-batches
        of the next steps.

        Raises:
            Shortage: where memory ran out; before the update, unless it was ``doing`` that.
        """
        step = self.step
        squares, weights = [], []
        loss = 0.0
        hooks = gradient_reader(step, self.metric) if measured else None
        with attempt(step, max(sizes)), hooks or nullcontext():
            batches = self.batches.take(sizes, coming)
            counts = [self.batches.source.count(batch) for batch in batches]
            total = sum(counts)
            whole = step.loss_scale() * (total if self.sum_reduced else 1)
            step.zero_grad()
            for batch, count in zip(batches, counts, strict=True):
                share = count / total
                part = step.forward_backward(batch, 1.0 if self.sum_reduced else share)
                loss += float(part) * (1 / total if self.sum_reduced else share)
                weights.append(share * step.weight)
                if hooks is not None:
                    reading = hooks.read(whole * weights[-1])
                    self.in_parts |= not reading.whole
                    squares.append(reading.squared_norm)
            self._note(loss)
            found = None
            if hooks is not None:
                mean = hooks.mean_square(whole * sum(weights))
                own = [total * weight for weight in weights], squares, self.in_parts
                every = step.ranks.tell("norms of gradients", own)
                counted = [samples for each, _, _ in every for samples in each]
                squares = [square for _, each, _ in every for square in each]
                self.in_parts = any(in_parts for _, _, in_parts in every)
                if math.isfinite(mean + sum(squares)):
                    found = moments(counted, squares, mean)
                else:
                    self.not_finite += 1
        with attempt(step, max(sizes), THE_UPDATE):
            step.update()
        return found

    def _note(self, loss: float) -> None:
        self.losses.append(loss)
        last = self.losses[-_NOT_FINITE_IN_A_ROW:]
        if len(last) == _NOT_FINITE_IN_A_ROW and not any(map(math.isfinite, last)):
            raise LossIsNotFinite(
                f"expected a finite loss at the user's own batch size and learning rate "
                f"({self.step.learning_rate():.6g}); found none in {len(last)} consecutive "
                "steps, up "
                f"to step {len(self.losses)}: check the data and the learning rate"
            )

    def caveats(self) -> list[Caveat]:
        """What the losses and gradients along the way gave reason to say."""
        said: list[Caveat] = []
        if self.not_finite:
            said.append(Caveat("noise.steps_not_finite", count=self.not_finite))
        quarter = len(self.losses) // 4
        if quarter >= 5:
            first, last = (
                sum(part) / quarter for part in (self.losses[:quarter], self.losses[-quarter:])
            )
            if last > first:
                said.append(Caveat("noise.loss_rose", first=first, last=last))
        return said


def train_steps(
    step: TrainStep,
    source: BatchSource,
    *,
    batch: int,
    micro_batch: int,
    steps: int,
    seed: int = 0,
    allowed: Allowed = any_size,
    advance: Advance = unmetered,
) -> int:
    """Take ``steps`` optimizer steps of ``batch`` samples, which stay taken; the micro-batch used.

    Accumulated from micro-batches of ``micro_batch``, or of the next half that is ``allowed`` where
    memory runs out. ``advance`` is told of every step.

    Raises:
        Shortage: where memory runs out with micro-batches of 1 too, or in the update.
        LossIsNotFinite: where the training has no finite loss.
    """
    hazards = hazards_in_room(step, source, seed, micro_batch, allowed=allowed, advance=advance)
    loop = TrainingLoop(step, TrainingBatches(source, seed), hazards.sum_reduced)
    taken = 0
    while taken < steps:
        try:
            sizes = cut(batch, micro_batch, 1, allowed)
            loop.train(sizes, coming=sizes * min(steps - taken - 1, FARTHEST_AHEAD))
            taken += 1
            advance(batch)
        except Shortage as error:
            smaller = nearest_allowed(micro_batch // 2, allowed, micro_batch // 2)
            if smaller is None or error.doing == THE_UPDATE:
                raise
            micro_batch = smaller
    step.zero_grad()
    return micro_batch
