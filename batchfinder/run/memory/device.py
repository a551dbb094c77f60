"""Devices with a caching allocator: CUDA, ROCm, XPU.

The account of one process, in bytes::

    total = free + other processes + this process
    this process = reserved by the allocator + everything else (context, libraries, NCCL)

A limit, and the peaks that are compared with it, are all of *this process*. The allocator enforces
its part by a fraction of the total that holds for reserved memory only, so what else the process
takes is subtracted before, and a reserved peak above the limit counts as out of memory afterwards:
some drivers (Windows, WSL) spill into host memory and raise nothing.

Of the two peaks only the allocated one is a line in the batch size. The reserved one also has the
blocks that the allocator holds ready, which it gives up as the limit comes near.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from batchfinder.run.memory.defaults import Defaults
from batchfinder.run.memory.driver import Driver
from batchfinder.run.memory.nvml import GpuProcess, Neighbours, NoNeighbours

__all__ = ["DeviceMemory"]


class DeviceMemory(Defaults):
    """One device, as much of it as this process may use.

    Args:
        driver: the device's functions.
        limit: bytes that this process may use, context and libraries included. Left out: all
            that other processes do not hold now, and that no cap set before forbids.
        neighbours: who else is on the device.
    """

    is_simulated = False

    def __init__(
        self, driver: Driver, limit: int | None = None, neighbours: Neighbours | None = None
    ) -> None:
        self._driver = driver
        self._neighbours = neighbours if neighbours is not None else NoNeighbours()
        # the fraction that is put back if it cannot be read: the allocator's default
        self._default_fraction = 1.0
        self._outside_at_start = 0
        most = self._most_bytes()
        self._limit = most if limit is None else min(limit, most)

    @property
    def name(self) -> str:
        return self._driver.device_name()

    def limit_bytes(self) -> int:
        return self._limit

    def held_bytes(self) -> int:
        """Bytes in tensors now."""
        return self._driver.memory_allocated()

    def peak_bytes(self) -> int:
        """The most that tensors took, and what else this process holds."""
        return self._driver.max_memory_allocated() + self._outside_now()

    def reserved_peak_bytes(self) -> int:
        """The most that the allocator had reserved, and what else this process holds."""
        return self._driver.max_memory_reserved() + self._outside_now()

    def reset_peak(self) -> None:
        self._driver.reset_peak_memory_stats()

    def release(self) -> None:
        """Hand cached blocks back to the driver."""
        self._driver.empty_cache()

    def synchronize(self) -> None:
        self._driver.synchronize()

    def pressure(self) -> int:
        return int(self._driver.memory_stats().get("num_alloc_retries", 0))

    def other_processes_bytes(self) -> int:
        """Bytes of other processes; without NVML, all that is not this process's tensors.

        The latter contains this process's own context, so only its changes tell of others.
        """
        told = self._neighbours.other_bytes(self._driver.memory_reserved())
        return self._outside_bytes() if told is None else told

    def non_torch_bytes(self) -> int:
        """Bytes of this process outside the allocator: context, libraries, NCCL.

        Without NVML they cannot be told from other processes' bytes, which are then included,
        and in ``limit_bytes`` too.
        """
        told = self._neighbours.other_bytes(self._driver.memory_reserved())
        return max(self._outside_bytes() - (told or 0), 0)

    def other_processes(self) -> tuple[GpuProcess, ...]:
        """Who else is on the device, by name and bytes; empty where it cannot be told."""
        return self._neighbours.processes()

    @contextmanager
    def watch(self, held: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        """Cap the allocator, and count the peak from here. The cap is put back afterwards."""
        del held  # the allocator knows what is alive
        self.synchronize()
        with self.capped():
            self.reset_peak()
            yield
            # an error of the device must surface inside, where it is still this step's
            self.synchronize()

    @contextmanager
    def capped(self) -> Iterator[None]:
        """The allocator's cap alone."""
        before = self._driver.get_fraction()
        _, total = self._driver.mem_get_info()
        self._outside_at_start = self.non_torch_bytes()
        room = max(self._limit - self._outside_at_start, 0)
        if not self._driver.set_fraction(min(room / total, 1.0)):
            yield
            return
        try:
            yield
        finally:
            self._driver.set_fraction(self._default_fraction if before is None else before)

    def _most_bytes(self) -> int:
        """All of the device that is not other processes', under the cap in force."""
        _, total = self._driver.mem_get_info()
        others = self._neighbours.other_bytes(self._driver.memory_reserved()) or 0
        fraction = self._driver.get_fraction()
        capped = total if fraction is None else int(fraction * total) + self.non_torch_bytes()
        return min(total - others, capped)

    def _outside_now(self) -> int:
        # a device that is full says nothing of what was pushed out into the host's memory
        return max(self.non_torch_bytes(), self._outside_at_start)

    def _outside_bytes(self) -> int:
        free, total = self._driver.mem_get_info()
        return max(total - free - self._driver.memory_reserved(), 0)
