"""Memory that kernels take inside one operator, which the ledger does not see.

Torch's profiler sees every allocation of the CPU's allocator. One step under it, beside the
ledger, gives the ratio of the true rise of memory to the ledger's; the largest ratio seen is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["AllocationRecord", "Scratch", "highest"]

AGAIN = 2.0
"""A step is profiled again once steps have grown by this factor: scratch varies with the size."""


class Scratch:
    """The correction from the ledger's rise of memory to the true one; 1 where it is unknown."""

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
        with AllocationRecord() as record:
            yield
        self._last = self._profiled = max(ledger_rise(), 1)
        self.ratio = max(self.ratio, highest(record.changes) / self._profiled)


class AllocationRecord:
    """Every allocation of the CPU's allocator while it is entered, in order.

    The older of torch's two profilers, since the newer one writes on the standard error stream.
    Where it is missing, or another one is running, nothing is recorded.
    """

    def __init__(self) -> None:
        self.changes: list[int] = []
        self._is_on = False

    def __enter__(self) -> AllocationRecord:
        try:
            _profiler()._enable_profiler_legacy(_memory_only())
        except (AttributeError, RuntimeError, TypeError):
            return self
        self._is_on = True
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_on:
            return
        self._is_on = False
        threads = _profiler()._disable_profiler_legacy()
        events: list[Any] = [event for thread in threads for event in thread]
        start = next((event for event in events if event.name() == "__start_profile"), None)
        timed = [
            (start.cpu_elapsed_us(event) if start is not None else 0.0, event.cpu_memory_usage())
            for event in events
            if event.kind() == "memory_alloc"
        ]
        self.changes = [count for _, count in sorted(timed, key=lambda pair: pair[0])]


def _profiler() -> Any:
    """Where torch keeps it; not part of its typed interface."""
    return torch.autograd


def _memory_only() -> Any:
    shapes, stack, flops, modules = False, False, False, False
    return _profiler().ProfilerConfig(
        _profiler().ProfilerState.CPU,
        shapes,
        True,  # memory
        stack,
        flops,
        modules,
        torch._C._profiler._ExperimentalConfig(),
    )


def highest(changes: Iterable[int]) -> int:
    """The highest running sum of bytes taken (above 0) and freed (below)."""
    total = peak = 0
    for count in changes:
        total += count
        peak = max(peak, total)
    return peak
