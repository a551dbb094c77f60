"""Real training steps of one plan at one rate, watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch

from batchfinder.confirm.judging import Trace
from batchfinder.errors import DeviceLost
from batchfinder.protocols import Batch, BatchSource, MemoryBackend, TrainStep
from batchfinder.results import BatchPlan
from batchfinder.run.batches import endless
from batchfinder.run.memory import charge, paused
from batchfinder.run.oom import Verdict, sign_of
from batchfinder.run.recover import recover
from batchfinder.run.trial import tensors_in

__all__ = ["run_branch"]

OPENING = 8
"""Batches whose loss is read before the first update."""
LONGEST_AT = 1
"""The step that takes the longest batch: the second, when the optimizer's state exists."""


@dataclass
class _Record:
    """Losses so far, still on the device."""

    opening: list[torch.Tensor] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    retries_when_settled: int | None = None
    """The allocator's retries half-way: those before were its cache settling."""

    def trace(self, failure: str, out_of_memory: bool, peak: int | None) -> Trace:
        opening, losses = ([float(loss) for loss in part] for part in (self.opening, self.losses))
        return Trace(tuple(opening), tuple(losses), failure, out_of_memory, peak)


def run_branch(
    step: TrainStep,
    source: BatchSource,
    memory: MemoryBackend,
    plan: BatchPlan,
    *,
    steps: int,
    ramp: int,
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
    failure = _attempt(step, source, memory, plan, record, steps=steps, ramp=ramp)
    peak = memory.peak_bytes()
    if failure:
        recover(step, memory)
        return record.trace(failure, out_of_memory=True, peak=peak)
    step.zero_grad()
    if record.retries_when_settled is not None and memory.pressure() > record.retries_when_settled:
        edge = "the allocator went on flushing its cache: too close to the memory limit"
        return record.trace(edge, out_of_memory=True, peak=peak)
    return record.trace("", out_of_memory=False, peak=peak)


def _attempt(
    step: TrainStep,
    source: BatchSource,
    memory: MemoryBackend,
    plan: BatchPlan,
    record: _Record,
    *,
    steps: int,
    ramp: int,
) -> str:
    """Empty, or what the device said. No reference to a failed step survives this call."""
    try:
        feed = endless(source, plan.micro_batch)
        with memory.watch(step.holdings()):
            ordinary = partial(_drawn, memory, partial(next, feed))
            longest = partial(_drawn, memory, partial(source.take, plan.micro_batch))
            _open(step, ordinary, record)
            for number in range(steps):
                if number == steps // 2:
                    record.retries_when_settled = memory.pressure()
                draw = longest if number == LONGEST_AT else ordinary
                with _at(step, min(1.0, (number + 1) / max(1, ramp))):
                    loss = _whole_step(step, draw, plan.accumulation_steps)
                if draw is ordinary:
                    record.losses.append(loss)
                    if not bool(torch.isfinite(loss)) and not step.updates_itself:
                        break
            memory.synchronize()
    except Exception as error:
        if not _is_about_size(error, plan.micro_batch):
            error.add_note(f"batchfinder: while confirming batch size {plan.micro_batch}")
            raise
        said = str(error).partition("\n")[0][:200]
        return f"{sign_of(error).verdict.value}: {said}"
    return ""


def _drawn(memory: MemoryBackend, draw: Callable[[], Batch]) -> Batch:
    """A batch as in a trial: its making is the loader's and not counted, itself is."""
    with paused(memory):
        batch = draw()
    charge(memory, tensors_in(batch))
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


def _is_about_size(error: Exception, micro_batch: int) -> bool:
    """Whether a smaller batch may do; a lost device is raised as such."""
    sign = sign_of(error)
    if sign.verdict is Verdict.DEVICE_LOST:
        raise DeviceLost(
            f"the device was lost while confirming {micro_batch}: every later call on it fails. "
            "Restart the process"
        ) from error
    return sign.verdict is not Verdict.OTHER and (sign.certain or micro_batch > 1)
