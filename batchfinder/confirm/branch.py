"""Real training steps of one plan at one rate, watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch

from batchfinder.confirm.judging import Trace
from batchfinder.meter import unmetered
from batchfinder.protocols import Advance, Batch, BatchSource, MemoryBackend, TrainStep
from batchfinder.results import BatchPlan, Judgement
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.batches import endless
from batchfinder.run.oom import Verdict
from batchfinder.run.trial import tensors_in

__all__ = ["run_branch"]

OPENING = 8
"""Batches whose loss is read before the first update."""
LONGEST_AT = 1
"""The step that takes the longest batch: the second, when the optimizer's state exists."""

FAILURES = {
    Verdict.OUT_OF_MEMORY: Judgement.OUT_OF_MEMORY,
    Verdict.INDEX_LIMIT: Judgement.INDEX_LIMIT,
}


@dataclass
class _Record:
    """Losses so far, still on the device."""

    opening: list[torch.Tensor] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    retries_when_settled: int | None = None
    """The allocator's retries half-way: those before were its cache settling."""

    def trace(self, failure: Judgement | None, detail: str, peak: int | None) -> Trace:
        opening, losses = ([float(loss) for loss in part] for part in (self.opening, self.losses))
        return Trace(tuple(opening), tuple(losses), failure, detail, peak)


def run_branch(
    step: TrainStep,
    source: BatchSource,
    memory: MemoryBackend,
    plan: BatchPlan,
    *,
    steps: int,
    ramp: int,
    advance: Advance = unmetered,
) -> Trace:
    """``steps`` optimizer steps on the rebuilt loader, the rate rising linearly over ``ramp``.

    No cache is emptied between steps, and the second step takes the longest batch there is; its
    loss is left out of the trace. The rate is what ``step`` has now; weights move.

    Raises:
        DeviceLost: where the device cannot be used again in this process.
        Exception: a mistake in the user's code, as itself, with a note.
    """
    memory.release()  # what earlier stages left in the cache is no pressure of this plan's
    memory.reset_peak()
    record = _Record()
    run = _Run(step, source, memory, plan, record, steps, ramp, advance)
    try:
        attempt(run, step=step, memory=memory, size=plan.micro_batch, doing="the confirmation")
    except Shortage as shortage:
        return record.trace(FAILURES[shortage.verdict], shortage.message[:200], run.peak)
    step.zero_grad()
    if record.retries_when_settled is not None and memory.pressure() > record.retries_when_settled:
        return record.trace(Judgement.AT_THE_EDGE, "", run.peak)
    return record.trace(None, "", run.peak)


@dataclass
class _Run:
    """The steps of one branch; ``peak`` is that of its memory."""

    step: TrainStep
    source: BatchSource
    memory: MemoryBackend
    plan: BatchPlan
    record: _Record
    steps: int
    ramp: int
    advance: Advance
    peak: int = field(default=0, init=False)

    def __call__(self) -> None:
        try:
            self._train()
        finally:  # before a clean-up could change what the memory says
            self.peak = self.memory.peak_bytes()

    def _train(self) -> None:
        step, source, memory, plan = self.step, self.source, self.memory, self.plan
        feed = endless(source, plan.micro_batch)
        with memory.watch(step.holdings()):
            ordinary = partial(_drawn, memory, partial(next, feed))
            longest = partial(_drawn, memory, partial(source.take, plan.micro_batch))
            _open(step, ordinary, self.record)
            for number in range(self.steps):
                if number == self.steps // 2:
                    self.record.retries_when_settled = memory.pressure()
                draw = longest if number == LONGEST_AT else ordinary
                with _at(step, min(1.0, (number + 1) / max(1, self.ramp))):
                    loss = _whole_step(step, draw, plan.accumulation_steps)
                self.advance(plan.micro_batch * plan.accumulation_steps)
                if draw is ordinary:
                    self.record.losses.append(loss)
                    if not bool(torch.isfinite(loss)) and not step.updates_itself:
                        break
            memory.synchronize()


def _drawn(memory: MemoryBackend, draw: Callable[[], Batch]) -> Batch:
    """A batch as in a trial: its making is the loader's and not counted, itself is."""
    with memory.paused():
        batch = draw()
    memory.hold(tensors_in(batch))
    return batch


def _open(step: TrainStep, draw: Callable[[], Batch], record: _Record) -> None:
    """Losses at the start, without an update; once where the step cannot do without."""
    for _ in range(OPENING):
        step.zero_grad()
        record.opening.append(step.forward_backward(draw()))
        if step.updates_itself:
            break
    step.zero_grad()


def _whole_step(step: TrainStep, draw: Callable[[], Batch], count: int) -> torch.Tensor:
    step.zero_grad()
    losses = [step.forward_backward(draw(), scale=1 / count) for _ in range(count)]
    step.update()
    return torch.stack(losses).mean()


@contextmanager
def _at(step: TrainStep, share: float) -> Iterator[None]:
    """The step at a share of its rate."""
    step.scale_learning_rate(share)
    try:
        yield
    finally:
        step.scale_learning_rate(1 / share)
