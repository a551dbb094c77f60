"""One trial: whole training steps at one micro-batch, and how they ended."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

import torch

from batchfinder.protocols import Batch, BatchSource, Clock, MemoryBackend, Setup, TrainStep
from batchfinder.results import Outcome, Trial
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.memory import host_budget, is_fragmented
from batchfinder.run.oom import Verdict
from batchfinder.units import format_bytes

__all__ = ["run_trial", "run_undisturbed", "tensors_in"]

MOST_STEPS = 16
"""A caching allocator settled within eleven steps, up to the largest size that trains; most within
three (``tests/support/edge_on_an_h200.jsonl``)."""

NOTICEABLE_BYTES = 64 * 1024**2
NOTICEABLE_SHARE = 0.01
"""Another process's change above both of these, the share being of the limit, disturbs a trial."""


def run_trial(
    setup: Setup[TrainStep],
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
    step, source, memory = setup.step, setup.source, setup.memory
    step.zero_grad()
    memory.release()
    pressure, others = memory.pressure(), memory.other_processes_bytes()
    started = clock()
    for is_last in (False, True):
        run = _Run(memory, clock, steps)
        try:
            with (
                attempt(step, size, run.doing, memory=memory),
                run.read_at_its_end(),
                step.ranks.guarded("a trial"),
            ):
                batch = source.take(size)
                own = _crowded_host(source, memory, batch)  # on one rank it ends the trial on all
                every = step.ranks.tell("the host's memory", own)
                crowded = next((each for each in every if each is not None), None)
                if crowded is None:
                    run.phase = _Phase.FORWARD_BACKWARD if step.parameters() else _Phase.FORWARD
                    with memory.watch(chain(step.holdings(), tensors_in(batch))):
                        while run.goes_on():
                            with run.one_step():
                                step.zero_grad()
                                step.forward_backward(batch)
                                run.phase = _Phase.UPDATE
                                step.update()
                ending = crowded or run.ending()
        except Shortage as shortage:
            ending = _failed(shortage, run.phase)
            if is_fragmented(shortage.message) and not is_last:
                batch = None
                memory.release()
                continue
        break
    batch = None
    if ending.outcome in (Outcome.FITS, Outcome.AT_THE_EDGE):
        used = run.peak if run.reserved is None else run.reserved
        ending = _unless_spilled(ending, memory, used)
    step.zero_grad()
    memory.release()
    changed = abs(memory.other_processes_bytes() - others)
    return Trial(
        batch_size=size,
        outcome=ending.outcome,
        peak_bytes=run.peak if ending.has_peak else None,
        seconds=run.ended - started,
        disturbed=changed > max(NOTICEABLE_BYTES, NOTICEABLE_SHARE * memory.limit_bytes()),
        note=ending.note,
        reserved_bytes=run.reserved if ending.has_peak else None,
        retries=memory.pressure() - pressure,
        step_seconds=ending.step_seconds,
    )


def run_undisturbed(
    setup: Setup[TrainStep],
    size: int,
    **options: Any,
) -> Trial:
    """``run_trial``, once more where another process disturbed it; the second one counts."""
    trial = run_trial(setup, size, **options)
    return run_trial(setup, size, **options) if trial.disturbed else trial


class _Phase(StrEnum):
    """What a trial is at."""

    LOADING = "loading"
    FORWARD = "the forward pass"
    FORWARD_BACKWARD = "forward and backward"
    UPDATE = "update"


@dataclass(frozen=True)
class _Ending:
    """How a trial ended."""

    outcome: Outcome
    note: str = ""
    has_peak: bool = True
    step_seconds: float = 0.0


@dataclass
class _Run:
    """How far the steps of one trial came, and what the memory said at their end."""

    memory: MemoryBackend
    clock: Clock
    wanted: int
    phase: _Phase = _Phase.LOADING
    taken: int = 0
    steady: int = 0
    fastest: float = math.inf
    peak: int = 0
    reserved: int | None = None
    ended: float = 0.0

    def doing(self) -> str:
        return f"{self.phase} of a trial"

    def goes_on(self) -> bool:
        """Whether memory is not known to be steady yet."""
        return self.steady < self.wanted and self.taken < max(self.wanted, MOST_STEPS)

    @contextmanager
    def one_step(self) -> Iterator[None]:
        """One step, from forward to update, timed."""
        self.phase = _Phase.FORWARD_BACKWARD
        pressure, began = self.memory.pressure(), self.clock()
        yield
        self.memory.synchronize()
        self.taken, self.fastest = self.taken + 1, min(self.fastest, self.clock() - began)
        self.steady = self.steady + 1 if self.memory.pressure() == pressure else 0

    @contextmanager
    def read_at_its_end(self) -> Iterator[None]:
        """Read the peaks, before a clean-up could change what the memory says."""
        try:
            yield
        except Exception:  # not Ctrl-C, which waits for no other rank
            self._read()
            raise
        self._read()

    def _read(self) -> None:
        self.peak, self.reserved = self.memory.peak_bytes(), self.memory.reserved_peak_bytes()
        self.ended = self.clock()

    def ending(self) -> _Ending:
        outcome = Outcome.FITS if self.steady >= self.wanted else Outcome.AT_THE_EDGE
        return _Ending(outcome, step_seconds=self.fastest)


def _failed(shortage: Shortage, phase: _Phase) -> _Ending:
    index = shortage.verdict is Verdict.INDEX_LIMIT
    return _Ending(
        Outcome.INDEX_LIMIT if index else Outcome.OUT_OF_MEMORY,
        f"in {phase}: {shortage.message[:300]}",
        has_peak=phase is not _Phase.LOADING,
    )


def _unless_spilled(ending: _Ending, memory: MemoryBackend, used: int) -> _Ending:
    """Some drivers spill into host memory and raise nothing: then more was used than there is."""
    limit = memory.limit_bytes()
    if used <= limit:
        return ending
    return _Ending(
        Outcome.OUT_OF_MEMORY,
        f"ran, but used {format_bytes(used)}, more than the limit of {format_bytes(limit)}",
    )


def _crowded_host(source: BatchSource, memory: MemoryBackend, batch: Batch) -> _Ending | None:
    """The host's memory may end before the device's: every worker holds batches of its own."""
    copies = source.worker_copies
    if memory.is_simulated or not copies:
        return None
    needed = copies * sum(part.numel() * part.element_size() for part in tensors_in(batch))
    budget = host_budget()
    if needed <= budget:
        return None
    return _Ending(
        Outcome.OUT_OF_MEMORY,
        f"host memory: the loader's workers would hold {copies} batches, which need "
        f"{format_bytes(needed)} of the available {format_bytes(budget)}; fewer workers or a "
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
