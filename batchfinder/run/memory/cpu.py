"""The memory of a CPU, counted, and the scratch of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from batchfinder.run.memory.defaults import Defaults
from batchfinder.run.memory.host import host_budget
from batchfinder.run.memory.ledger import Ledger
from batchfinder.run.torch_internals.storages import CpuAllocations

__all__ = ["HostMemory", "Scratch", "highest"]


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


class HostMemory(Defaults):
    """What is held now plus a budget of what is free; kept by the ledger, before the kernel kills.

    The ledger does not see what a kernel takes inside one operator (convolutions and recurrent
    layers do). So some steps run under the profiler too, and their true peak corrects the
    ledger's upwards.

    Args:
        held: tensors alive now, to which the budget is added. Left out, those of the first
            ``watch`` are taken, and until then ``limit_bytes`` is the budget alone.
        budget: bytes that may be taken from now on.
    """

    name = "the machine's memory"
    is_simulated = False

    def __init__(
        self,
        device: torch.device,
        held: Iterable[torch.Tensor] | None = None,
        budget: Callable[[], int] = host_budget,
    ) -> None:
        self._device = device
        self._ledger = Ledger(device, charge_found=False)
        self._scratch = Scratch()
        self._budget = budget
        self._peak = 0
        self._held = 0
        self._limit = budget()
        self._settled = False
        if held is not None:
            self._settle(held)

    def limit_bytes(self) -> int:
        return self._limit

    def held_bytes(self) -> int:
        return self._held

    def peak_bytes(self) -> int:
        return self._peak

    def reserved_peak_bytes(self) -> None:
        """Nothing is cached."""

    def reset_peak(self) -> None:
        self._peak = self._held

    def release(self) -> None:
        """Nothing is cached that could be asked for by name."""

    def synchronize(self) -> None:
        """Operators of the CPU have ended when they return."""

    def pressure(self) -> int:
        return 0

    def other_processes_bytes(self) -> int:
        """Not told: other processes' use of the host's memory changes all the time."""
        return 0

    def capped(self) -> AbstractContextManager[None]:
        return self.watch()

    @contextmanager
    def watch(self, held: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        """Raise ``torch.OutOfMemoryError`` before the kernel would kill."""
        ledger = self._ledger
        ledger.limit = None
        ledger.hold(held)
        del held
        if not self._settled:
            self._limit = ledger.current + self._budget()
            self._settled = True
        start = ledger.peak = ledger.current
        ledger.limit = start + self._scratch.without(self._limit - start)
        try:
            with self._scratch.measured(lambda: ledger.peak - start), ledger:
                yield
        finally:
            self._peak = start + self._scratch.included(ledger.peak - start)
            self._held = ledger.current
            ledger.forget()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work inside is not counted by the ledger."""
        peak = self._ledger.peak
        try:
            with self._ledger.counting(False):
                yield
        finally:
            self._ledger.peak = peak

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors made while this was paused, until they are freed."""
        self._ledger.hold(tensors)

    def _settle(self, held: Iterable[torch.Tensor]) -> None:
        self._ledger.hold(held)
        self._limit = self._ledger.current + self._budget()
        self._settled = True
        self._ledger.forget()
