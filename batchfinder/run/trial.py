"""One trial: whole training steps at one micro-batch, and how they ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from batchfinder.errors import DeviceLost
from batchfinder.protocols import Batch, BatchSource, Clock, MemoryBackend, TrainStep
from batchfinder.results import Outcome, Trial
from batchfinder.run.memory.fragmentation import is_fragmented
from batchfinder.run.memory.host import host_budget
from batchfinder.run.oom import Sign, Verdict, is_about_size, sign_of
from batchfinder.run.recover import recover
from batchfinder.units import format_bytes

__all__ = ["run_trial", "run_undisturbed", "tensors_in"]

MOST_STEPS = 8
"""A caching allocator was seen to settle within three steps, up to the largest size that trains."""

NOTICEABLE_BYTES = 64 * 1024**2
NOTICEABLE_SHARE = 0.01
"""Another process's change above both of these, the share being of the limit, disturbs a trial."""


def run_trial(
    step: TrainStep,
    source: BatchSource,
    memory: MemoryBackend,
    size: int,
    *,
    steps: int = 2,
    clock: Clock = time.perf_counter,
) -> Trial:
    """Whole steps at ``size``, update included, until memory is steady; the peak is over all.

    Memory is steady once ``steps`` steps in a row pass without an allocator retry, which is at
    once where nothing is cached. The first steps near the limit make a caching allocator flush
    and regroup its blocks, and cost nothing afterwards; only where the retries go on, for
    ``MOST_STEPS`` steps, is a size at the edge.

    Out of memory with more bytes reserved but unallocated than were asked for is a matter of
    layout as much as of size: the steps are tried once more from a released cache.

    Weights and optimizer state are the caller's to put back. Nothing of a step that failed is
    alive when this returns.

    Raises:
        DeviceLost: where the device cannot be used again in this process.
        Exception: a mistake in the user's code, as itself, with a note of the size and stage.
    """
    step.zero_grad()
    memory.release()
    pressure, others = memory.pressure(), memory.other_processes_bytes()
    started = clock()
    ending = _attempt(step, source, memory, size, steps)
    if ending.fragmented:
        _recover(step, memory, size)
        ending = _attempt(step, source, memory, size, steps)
    peak, reserved = memory.peak_bytes(), memory.reserved_peak_bytes()
    seconds = clock() - started
    if ending.outcome in (Outcome.FITS, Outcome.AT_THE_EDGE):
        ending = _unless_spilled(ending, memory, peak if reserved is None else reserved)
        step.zero_grad()
        memory.release()
    else:
        _recover(step, memory, size)
    changed = abs(memory.other_processes_bytes() - others)
    return Trial(
        batch_size=size,
        outcome=ending.outcome,
        peak_bytes=peak if ending.has_peak else None,
        seconds=seconds,
        disturbed=changed > max(NOTICEABLE_BYTES, NOTICEABLE_SHARE * memory.limit_bytes()),
        note=ending.note,
        reserved_bytes=reserved if ending.has_peak else None,
        retries=memory.pressure() - pressure,
    )


def run_undisturbed(
    step: TrainStep,
    source: BatchSource,
    memory: MemoryBackend,
    size: int,
    **options: Any,
) -> Trial:
    """``run_trial``, once more where another process disturbed it; the second one counts."""
    trial = run_trial(step, source, memory, size, **options)
    return run_trial(step, source, memory, size, **options) if trial.disturbed else trial


@dataclass(frozen=True)
class _Ending:
    """How a trial ended, as plain text: an exception kept would keep its tensors."""

    outcome: Outcome
    note: str = ""
    has_peak: bool = True
    fragmented: bool = False
    """Whether what was asked for was there, in pieces."""


def _attempt(
    step: TrainStep, source: BatchSource, memory: MemoryBackend, size: int, steps: int
) -> _Ending:
    """Steps until memory is steady. No reference to a failed step survives this call."""
    stage = "loading"
    try:
        batch = source.take(size)
        crowded = _crowded_host(source, memory, batch)
        if crowded is not None:
            return crowded
        stage = "forward and backward"
        steady = taken = 0
        with memory.watch(_held(step, batch)):
            while steady < steps and taken < max(steps, MOST_STEPS):
                pressure = memory.pressure()
                step.zero_grad()
                stage = "forward and backward"
                step.forward_backward(batch)
                stage = "update"
                step.update()
                memory.synchronize()
                taken += 1
                steady = steady + 1 if memory.pressure() == pressure else 0
    except Exception as error:
        sign = sign_of(error)
        if sign.verdict is Verdict.DEVICE_LOST:
            raise DeviceLost(_lost(error, size, stage)) from error
        if not is_about_size(sign, size):
            error.add_note(f"batchfinder: in {stage} of a trial at batch size {size}")
            raise
        return _failed(sign, error, stage)
    return _Ending(Outcome.FITS if steady >= steps else Outcome.AT_THE_EDGE)


def _recover(step: TrainStep, memory: MemoryBackend, size: int) -> None:
    """Clean up; the device's own errors surface late, and may do so here."""
    try:
        recover(step, memory)
    except RuntimeError as error:
        if sign_of(error).verdict is Verdict.DEVICE_LOST:
            raise DeviceLost(_lost(error, size, "clean-up")) from error
        raise


def _held(step: TrainStep, batch: Batch) -> Iterator[torch.Tensor]:
    yield from step.holdings()
    yield from tensors_in(batch)


def _failed(sign: Sign, error: Exception, stage: str) -> _Ending:
    text = " ".join(str(error).split())
    outcome = Outcome.INDEX_LIMIT if sign.verdict is Verdict.INDEX_LIMIT else Outcome.OUT_OF_MEMORY
    return _Ending(
        outcome,
        f"in {stage}: {text[:300]}",
        has_peak=stage != "loading",
        fragmented=is_fragmented(text),
    )


def _lost(error: Exception, size: int, stage: str) -> str:
    return (
        f"the device was lost in {stage} at batch size {size} ({str(error).splitlines()[0]}): "
        "every later call on it fails. Restart the process; isolate=make runs every trial in a "
        "process of its own"
    )


def _unless_spilled(ending: _Ending, memory: MemoryBackend, used: int) -> _Ending:
    """Some drivers spill into host memory and raise nothing: then more was used than there is."""
    limit = memory.limit_bytes()
    if used <= limit:
        return ending
    return _Ending(
        Outcome.OUT_OF_MEMORY,
        f"ran, but with {format_bytes(used)}, more than the {format_bytes(limit)} there are",
    )


def _crowded_host(source: BatchSource, memory: MemoryBackend, batch: Batch) -> _Ending | None:
    """The host's memory may end before the device's: every worker holds batches of its own."""
    copies = int(getattr(source, "worker_copies", 0))
    if memory.is_simulated or not copies:
        return None
    needed = copies * sum(part.numel() * part.element_size() for part in tensors_in(batch))
    budget = host_budget()
    if needed <= budget:
        return None
    return _Ending(
        Outcome.OUT_OF_MEMORY,
        f"host memory: the loader's workers would hold {copies} batches, "
        f"{format_bytes(needed)} of the {format_bytes(budget)} to be had; fewer workers or a "
        "smaller prefetch_factor would allow more",
        has_peak=False,
    )


def tensors_in(batch: Batch) -> Iterator[torch.Tensor]:
    """Every tensor in a batch, however nested."""
    if isinstance(batch, torch.Tensor):
        yield batch
        return
    for part in _parts(batch):
        yield from tensors_in(part)


def _parts(batch: Any) -> Iterator[Any]:
    if isinstance(batch, Mapping):
        yield from batch.values()
    elif isinstance(batch, list | tuple):
        yield from batch
    elif is_dataclass(batch) and not isinstance(batch, type):
        yield from (getattr(batch, field.name) for field in fields(batch))
    elif hasattr(batch, "__dict__"):
        yield from (value for value in vars(batch).values() if isinstance(value, torch.Tensor))
