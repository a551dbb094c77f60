"""Memory that kernels take inside one operator, which the ledger does not see.

Torch's profiler sees every allocation of the CPU's allocator. One step under it, beside the
ledger, gives the ratio of the true rise of memory to the ledger's; the largest ratio seen is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from batchfinder.run.profiler_internals import CpuAllocations

__all__ = ["Scratch", "highest"]

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
        with CpuAllocations() as record:
            yield
        self._last = self._profiled = max(ledger_rise(), 1)
        self.ratio = max(self.ratio, highest(record.changes) / self._profiled)


def highest(changes: Iterable[int]) -> int:
    """The highest running sum of bytes taken (above 0) and freed (below)."""
    total = peak = 0
    for count in changes:
        total += count
        peak = max(peak, total)
    return peak
