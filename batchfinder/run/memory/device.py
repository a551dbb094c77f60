"""The memory of a GPU, through torch's caching allocator."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from batchfinder.run.memory.defaults import Defaults
from batchfinder.run.memory.nvml import GpuProcess, Neighbours, NoNeighbours

__all__ = ["DeviceMemory", "Driver", "TorchDriver", "is_fragmented", "may_expand"]


class Driver(Protocol):
    """What ``DeviceMemory`` asks of a device."""

    def synchronize(self) -> None: ...
    def empty_cache(self) -> None: ...
    def memory_allocated(self) -> int: ...
    def memory_reserved(self) -> int: ...
    def max_memory_allocated(self) -> int: ...
    def max_memory_reserved(self) -> int: ...
    def reset_peak_memory_stats(self) -> None: ...
    def memory_stats(self) -> Mapping[str, Any]: ...
    def mem_get_info(self) -> tuple[int, int]: ...
    def get_fraction(self) -> float | None:
        """The cap in force; ``None`` where it cannot be read."""
        ...

    def set_fraction(self, fraction: float) -> bool:
        """Set the cap; ``False`` where the device has none."""
        ...

    def device_name(self) -> str: ...


class TorchDriver:
    """One device of torch's.

    Args:
        device: which one; without an index, the device that is current now.
        allocator: the module with the memory functions: ``torch.cuda`` (also ROCm), or
            ``torch.accelerator`` for any other device.
        module: the device's own module, such as ``torch.xpu``; left out, ``allocator``.
    """

    def __init__(
        self, device: torch.device, allocator: Any = torch.cuda, module: Any = None
    ) -> None:
        self._torch = allocator
        self._module: Any = module if module is not None else allocator
        index: int | None = device.index
        if index is None:  # some of the functions want one
            device = torch.device(device.type, self._module.current_device())
        self._device = device

    def synchronize(self) -> None:
        self._torch.synchronize(self._device)

    def empty_cache(self) -> None:
        self._torch.empty_cache()

    def memory_allocated(self) -> int:
        return int(self._torch.memory_allocated(self._device))

    def memory_reserved(self) -> int:
        return int(self._torch.memory_reserved(self._device))

    def max_memory_allocated(self) -> int:
        return int(self._torch.max_memory_allocated(self._device))

    def max_memory_reserved(self) -> int:
        return int(self._torch.max_memory_reserved(self._device))

    def reset_peak_memory_stats(self) -> None:
        self._torch.reset_peak_memory_stats(self._device)

    def memory_stats(self) -> Mapping[str, Any]:
        stats: Mapping[str, Any] = self._torch.memory_stats(self._device)
        return stats

    def mem_get_info(self) -> tuple[int, int]:
        # newer torch has it for every accelerator, older torch in the device's own module
        newer: Any = getattr(self._torch, "get_memory_info", None)
        free, total = (newer or self._module.mem_get_info)(self._device)
        return int(free), int(total)

    def get_fraction(self) -> float | None:
        getter = getattr(self._module, "get_per_process_memory_fraction", None)  # since torch 2.7
        return None if getter is None else float(getter(self._device))

    def set_fraction(self, fraction: float) -> bool:
        setter = getattr(self._module, "set_per_process_memory_fraction", None)
        if setter is None:
            return False
        setter(float(fraction), self._device)
        return True

    def device_name(self) -> str:
        namer = getattr(self._module, "get_device_name", None)
        return str(namer(self._device)) if namer is not None else self._device.type


class DeviceMemory(Defaults):
    """One device, as much of it as this process may use.

    Args:
        driver: the device's functions.
        limit: bytes that this process may use, context and libraries included. Default: all
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

        Without NVML they cannot be separated from other processes' bytes, which are then included,
        and in ``limit_bytes`` too.
        """
        told = self._neighbours.other_bytes(self._driver.memory_reserved())
        return max(self._outside_bytes() - (told or 0), 0)

    def other_processes(self) -> tuple[GpuProcess, ...]:
        """Who else is on the device, by name and bytes; empty where it cannot be told."""
        return self._neighbours.processes()

    @contextmanager
    def watch(self, held: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        """Cap the allocator, and count the peak from here. The cap is restored afterwards."""
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


_UNITS = {"bytes": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_AMOUNT = r"([\d.]+) (bytes|[KMGT]iB|B)\b"

# c10/cuda/CUDACachingAllocator.cpp, c10/xpu/XPUCachingAllocator.cpp: "CUDA out of memory. Tried to
# allocate 2.69 GiB. ... 2.75 GiB is reserved by PyTorch but unallocated."
_ASKED = re.compile(rf"Tried to allocate {_AMOUNT}")
_UNALLOCATED = re.compile(rf"{_AMOUNT} is reserved by PyTorch but unallocated")


def is_fragmented(message: str) -> bool:
    """Whether more was reserved but unallocated than the failed allocation asked for."""
    asked, unallocated = _ASKED.search(message), _UNALLOCATED.search(message)
    if asked is None or unallocated is None:
        return False
    return _bytes(unallocated) >= _bytes(asked)


def may_expand(device: torch.device, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the device's allocator knows expandable segments, and does not use them yet.

    The names are those of torch's documentation; the newer one stands for every device.
    """
    if device.type != "cuda":
        return False
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
    settings = " ".join(environment.get(name, "") for name in names)
    return re.search(r"expandable_segments\s*:\s*true", settings, re.IGNORECASE) is None


def _bytes(found: re.Match[str]) -> float:
    return float(found[1]) * _UNITS[found[2]]
