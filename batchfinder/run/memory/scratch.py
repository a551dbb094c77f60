"""Memory that kernels take inside one operator, which the ledger does not see.

The profiler sees every allocation of the CPU's allocator. One step under it, beside the ledger,
gives the ratio of the true rise of memory to the ledger's; the largest ratio seen is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["Scratch", "highest", "memory_changes"]

AGAIN = 2.0
"""A step is profiled again once steps have grown by this factor: scratch varies with the size."""


class Scratch:
    """The correction from the ledger's rise of memory to the true one."""

    def __init__(self) -> None:
        self.ratio = 1.0
        self._profiled = 0
        self._last = 0

    def included(self, rise: int) -> int:
        """The rise of memory, scratch included, where the ledger saw ``rise`` bytes."""
        return int(rise * self.ratio)

    def without(self, rise: int) -> int:
        """The rise that the ledger may see, where ``rise`` bytes may be taken in truth."""
        return int(rise / self.ratio)

    @contextmanager
    def measured(self, ledger_rise: Callable[[], int]) -> Iterator[None]:
        """Follow the work inside; where steps have grown since, with the profiler.

        Memory that is freed inside but was taken before is not reported to the profiler: drop
        gradients before, or the ratio comes out too large.
        """
        if self._last < AGAIN * self._profiled:
            yield
            self._last = ledger_rise()
            return
        changes: list[tuple[int, int]] = []
        with profile(
            activities=[ProfilerActivity.CPU],
            profile_memory=True,
            on_trace_ready=lambda done: changes.extend(memory_changes(done)),
        ):
            yield
        self._last = self._profiled = max(ledger_rise(), 1)
        self.ratio = max(self.ratio, highest(changes) / self._profiled)


def highest(changes: Iterable[tuple[int, int]]) -> int:
    """The highest running sum of (moment, bytes), in the order of the moments."""
    total = peak = 0
    for _, count in sorted(changes, key=lambda change: change[0]):
        total += count
        peak = max(peak, total)
    return peak


def memory_changes(done: profile) -> list[tuple[int, int]]:
    """(moment, bytes taken or freed) of every allocation on the CPU that was profiled."""
    assert done.profiler is not None and done.profiler.kineto_results is not None  # it has run
    changes: list[tuple[int, int]] = []
    pending: list[Any] = list(done.profiler.kineto_results.experimental_event_tree())
    while pending:
        event = pending.pop()
        pending.extend(event.children)
        kind, fields = event.typed
        if kind is torch._C._profiler._EventType.Allocation and fields.device.type == "cpu":
            changes.append((event.start_time_ns, fields.alloc_size))
    return changes
