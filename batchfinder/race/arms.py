"""One arm: a short real training from the start at one rate, judged on batches left out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean, pstdev

import torch

from batchfinder.protocols import Batch, BatchSource, Setup, TrainStep
from batchfinder.race.arithmetic import averaged_share
from batchfinder.results import BatchPlan, RaceArm

__all__ = ["Average", "Course", "Passes", "Start"]

_RISE, _SPREADS = 2.0, 4.0
"""An arm has run away where a loss lies this many times the start's loss above it, and this many
deviations of single batches besides: three times the start's loss, where that is far from 0."""


@dataclass(frozen=True)
class Passes:
    """The data in one order: the first micro-batches are held out, the others trained on.

    Where a pass ends a new one begins in the same order, without the batches held out.
    """

    source: BatchSource
    micro_batch: int
    held: int
    seed: int

    def held_out(self) -> Iterator[Batch]:
        """The micro-batches that are never trained on: the same at every call."""
        self.source.rewind(self.seed)
        for _ in range(self.held):
            yield self.source.draw(self.micro_batch)

    def training(self) -> Iterator[Batch]:
        """Micro-batches to train on, without end."""
        each_pass = self.micro_batches_per_pass
        while True:
            for _ in self.held_out():
                pass
            if each_pass is None:
                while True:
                    yield self.source.draw(self.micro_batch)
            for _ in range(each_pass):
                yield self.source.draw(self.micro_batch)

    @property
    def micro_batches_per_pass(self) -> int | None:
        """How many micro-batches one pass trains on; ``None`` where it has no known end."""
        length = self.source.length if self.source.unit == "samples" else None
        return None if length is None else length // self.micro_batch - self.held


class Average:
    """A running average of the weights, kept on ``device`` in at least single precision.

    At step t it moves by 6 / (t + 5) of the way to the weights.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], device: torch.device | None = None
    ) -> None:
        self._parameters = list(parameters)
        self._step = 0
        self._values = [
            parameter.detach().to(device or parameter.device, _wide(parameter.dtype), copy=True)
            for parameter in self._parameters
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self._step += 1
        share = averaged_share(self._step)
        for value, parameter in zip(self._values, self._parameters, strict=True):
            value.lerp_(parameter.detach().to(value.device, value.dtype), share)

    @torch.no_grad()
    def put_in(self) -> None:
        """Give the parameters the averaged values."""
        for value, parameter in zip(self._values, self._parameters, strict=True):
            parameter.copy_(value)


Start = Callable[[float], None]
"""Puts weights, optimizer and random numbers back to the start, and sets a rate."""


@dataclass
class Course:
    """What all arms of one race share. ``start_loss`` is looked at once, before the first.

    Args:
        setup: the training, whose weights move and are the caller's to put back at the end; where
            batches come from, by ``rewind`` and ``draw``; and where the limit is enforced.
        plan: the batch of one optimizer step.
        start: puts everything back and sets the rate of an arm.
        steps: optimizer steps of an arm.
        ramp: over how many of them the rate rises.
        held: optimizer batches left out of training.
        averaged: whether the running average of the weights is judged, not the weights.
        average_on: where the average is kept; ``None`` is beside the parameters.
        seed: of the first data order.
    """

    setup: Setup[TrainStep]
    plan: BatchPlan
    start: Start
    steps: int
    ramp: int
    held: int
    averaged: bool = False
    average_on: torch.device | None = None
    seed: int = 0
    _opening: list[float] = field(default_factory=list)

    @property
    def start_loss(self) -> float:
        """The mean loss of the batches held out at the start; NaN before the first arm."""
        return fmean(self._opening) if self._opening else math.nan

    def arm(self, rate: float, order: int = 1) -> RaceArm:
        """Train from the start at ``rate`` on one order of the data; the loss afterwards.

        Judged in training mode: under batch norm by the statistics of the batches themselves,
        since running ones lag behind the weights, and no others exist for averaged weights.
        """
        self.start(rate)
        passes = Passes(
            self.setup.source,
            self.plan.micro_batch,
            self.held * self.plan.accumulation_steps,
            self.seed + order - 1,
        )
        with self.setup.memory.watch(self.setup.step.holdings()):
            if not self._opening:
                self._opening = list(self._losses(passes))
                self.start(rate)
            taken, average = self._train(passes)
            found = (math.inf, 0.0) if taken < self.steps else self._judged(passes, average)
            self.setup.memory.synchronize()
        loss, error = found
        return RaceArm(rate, loss, taken, order, error)

    def _train(self, passes: Passes) -> tuple[int, Average | None]:
        """How many steps were taken before a loss ran away, and the average where it is kept."""
        step = self.setup.step
        average = Average(step.parameters(), self.average_on) if self.averaged else None
        feed, count = passes.training(), self.plan.accumulation_steps
        for number in range(1, self.steps + 1):
            step.zero_grad()
            with _at(step, min(1.0, number / max(1, self.ramp))):
                losses = [step.forward_backward(batch, 1 / count) for batch in islice(feed, count)]
                if self._ran_away(float(torch.stack(losses).mean())):
                    step.zero_grad()
                    return number - 1, average
                step.update()
            if average is not None:
                average.update()
        step.zero_grad()
        return self.steps, average

    def _judged(self, passes: Passes, average: Average | None) -> tuple[float, float]:
        """The loss and its standard error."""
        if average is not None:
            average.put_in()
        losses = list(self._losses(passes))
        loss = fmean(losses)
        if self._ran_away(loss):
            return math.inf, 0.0
        return loss, pstdev(losses) / math.sqrt(max(1, len(losses) - 1))

    def _losses(self, passes: Passes) -> Iterator[float]:
        for batch in passes.held_out():
            loss = float(self.setup.step.forward_backward(batch))
            self.setup.step.zero_grad()
            yield loss

    def _ran_away(self, loss: float) -> bool:
        start = self.start_loss
        most = start + _RISE * abs(start) + _SPREADS * pstdev(self._opening)
        return not loss <= most  # NaN too


@contextmanager
def _at(step: TrainStep, share: float) -> Iterator[None]:
    """The step at a share of its rate."""
    step.scale_learning_rate(share)
    try:
        yield
    finally:
        step.scale_learning_rate(1 / share)


def _wide(kind: torch.dtype) -> torch.dtype:
    return torch.promote_types(kind, torch.float32) if kind.is_floating_point else kind
