"""Real training steps of one plan at one rate, watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch

from batchfinder.confirm.judging import Trace
from batchfinder.meter import unmetered
from batchfinder.protocols import Advance, Batch, MemoryBackend, Setup, TrainStep
from batchfinder.results import BatchPlan, Judgement
from batchfinder.run.attempt import Shortage, attempt
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
    """Losses so far, still on the device, and the peak of the memory."""

    opening: list[torch.Tensor] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    retries_when_settled: int | None = None
    """The allocator's retries half-way: those before were its cache settling."""

    peak: int | None = None
    """``None`` where memory was not watched."""

    @contextmanager
    def watching(self, memory: MemoryBackend, step: TrainStep) -> Iterator[None]:
        """Watch, and read the peak before a clean-up could change what the memory says."""
        try:
            with memory.watch(step.holdings()):
                yield
        except Exception:  # not Ctrl-C, which waits for no other rank
            self.peak = memory.peak_bytes()
            raise
        self.peak = memory.peak_bytes()

    def trace(self, failure: Judgement | None = None, detail: str = "") -> Trace:
        opening, losses = ([float(loss) for loss in part] for part in (self.opening, self.losses))
        return Trace(tuple(opening), tuple(losses), failure, detail, self.peak)


def run_branch(
    setup: Setup[TrainStep],
    plan: BatchPlan,
    batches: Iterator[Batch],
    *,
    steps: int,
    ramp: int,
    watched: bool = True,
    advance: Advance = unmetered,
) -> Trace:
    """``steps`` optimizer steps on ``batches``, the rate rising linearly over ``ramp``.

    No cache is emptied between steps, and the second step takes the longest batch there is; its
    loss is left out of the trace. The rate is what ``step`` has now; weights move. Memory need not
    be ``watched`` where that counts every operator, and the plan has run so before.

    Raises:
        DeviceLost: where the device cannot be used again in this process.
        Exception: a mistake in the user's code, as itself, with a note.
    """
    step, source, memory = setup.step, setup.source, setup.memory
    memory.release()  # what earlier stages left in the cache is no pressure of this plan's
    memory.reset_peak()
    record = _Record()
    ordinary, longest = partial(next, batches), partial(source.take, plan.micro_batch)
    if watched:
        ordinary, longest = (partial(_drawn, memory, draw) for draw in (ordinary, longest))
    try:
        with (
            attempt(step, plan.micro_batch, "the confirmation", memory=memory),
            record.watching(memory, step) if watched else nullcontext(),
            step.ranks.guarded("the confirmation"),
        ):
            for _ in range(OPENING):
                step.zero_grad()
                record.opening.append(step.forward_backward(ordinary()))
                advance(plan.micro_batch, steps=0)
                if step.updates_itself:  # it gives no loss without an update
                    break
            step.zero_grad()
            for number in range(steps):
                if number == steps // 2:
                    record.retries_when_settled = memory.pressure()
                draw = longest if number == LONGEST_AT else ordinary
                with _at(step, min(1.0, (number + 1) / max(1, ramp))):
                    step.zero_grad()
                    losses = []
                    for _ in range(plan.accumulation_steps):
                        losses.append(
                            step.forward_backward(draw(), scale=1 / plan.accumulation_steps)
                        )
                    step.update()
                advance(plan.micro_batch * plan.accumulation_steps)
                if draw is ordinary:
                    record.losses.append(torch.stack(losses).mean())
                    if not bool(torch.isfinite(record.losses[-1])) and not step.updates_itself:
                        break
            memory.synchronize()
    except Shortage as shortage:
        return record.trace(FAILURES[shortage.verdict], shortage.message[:200])
    step.zero_grad()
    if record.retries_when_settled is not None and memory.pressure() > record.retries_when_settled:
        return record.trace(Judgement.AT_THE_EDGE)
    return record.trace()


def _drawn(memory: MemoryBackend, draw: Callable[[], Batch]) -> Batch:
    """A batch as in a trial: its making is the loader's and not counted, itself is."""
    with memory.paused():
        batch = draw()
    memory.hold(tensors_in(batch))
    return batch


@contextmanager
def _at(step: TrainStep, share: float) -> Iterator[None]:
    """The step at a share of its rate."""
    step.scale_learning_rate(share)
    try:
        yield
    finally:
        step.scale_learning_rate(1 / share)
