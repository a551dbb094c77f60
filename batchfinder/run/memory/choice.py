"""Which back-end a device gets, and the public way to make a device small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import MemoryBackend
from batchfinder.run.memory.cpu import HostMemory
from batchfinder.run.memory.device import DeviceMemory, TorchDriver
from batchfinder.run.memory.mps import MpsMemory
from batchfinder.run.memory.nvml import neighbours_on
from batchfinder.run.memory.simulated import SimulatedMemory
from batchfinder.units import parse_bytes

__all__ = ["BACKENDS", "backend_for", "memory_limit"]


def backend_for(
    device: torch.device,
    limit: int | str | None = None,
    *,
    held: Iterable[torch.Tensor] | None = None,
) -> MemoryBackend:
    """The memory of ``device``, with ``limit`` in bytes (or as ``"512MiB"``) if one is given.

    On a CPU a limit is simulated; without one, the machine's real memory is budgeted, to which
    the bytes of ``held`` (tensors alive now) are added. On a GPU a limit caps this process.

    Raises:
        InvalidArgument: where the limit is no amount of bytes, or the device is of no known kind
            and no limit is given.
    """
    count = None if limit is None else parse_bytes(limit)
    make = BACKENDS.get(device.type)
    if make is not None:
        return make(device, count, held)
    if count is None:
        raise InvalidArgument(
            f"the memory of a device of type {device.type!r} cannot be read: pass memory_limit=, "
            f"or use one of {', '.join(sorted(BACKENDS))}"
        )
    return SimulatedMemory(device, count)


_Maker = Callable[[torch.device, int | None, Iterable[torch.Tensor] | None], MemoryBackend]


def _cpu(
    device: torch.device, limit: int | None, held: Iterable[torch.Tensor] | None
) -> MemoryBackend:
    return HostMemory(device, held) if limit is None else SimulatedMemory(device, limit)


def _cuda(
    device: torch.device, limit: int | None, held: Iterable[torch.Tensor] | None
) -> MemoryBackend:
    del held  # the allocator knows what is alive
    return DeviceMemory(TorchDriver(device), limit, neighbours_on(device))


def _mps(
    device: torch.device, limit: int | None, held: Iterable[torch.Tensor] | None
) -> MemoryBackend:
    del held  # likewise
    return MpsMemory(limit, device=device)


def _accelerator(
    device: torch.device, limit: int | None, held: Iterable[torch.Tensor] | None
) -> MemoryBackend:
    del held  # likewise
    return DeviceMemory(TorchDriver(device, torch.accelerator, getattr(torch, device.type)), limit)


BACKENDS: Mapping[str, _Maker] = MappingProxyType(
    {"cpu": _cpu, "cuda": _cuda, "mps": _mps, "xpu": _accelerator}
)
"""The back-end of each kind of device."""


@contextmanager
def memory_limit(
    limit: int | str, device: torch.device | str | None = None
) -> Iterator[MemoryBackend]:
    """Limit the memory of the code inside the context, as if the device were that small.

    On the CPU (the default), the bytes of live tensors are counted operator by operator, and
        exceeding the limit raises ``torch.OutOfMemoryError``: a test that a model trains in 8 GiB
        needs no GPU. Existing tensors count from the first operator that uses them. On CUDA and
        XPU, the allocator of this process is capped, and the cap is restored afterwards.

    On the CPU, the tensors that operators take and return count, but not the memory that a kernel
        allocates internally: 26% of the peak that torch's profiler reports for a small CNN
        (docs/tables/prediction.md).

    Inside the context, ``find_batch_size`` uses this limit.

    Args:
        limit: bytes, or text such as ``"512MiB"`` (binary) or ``"8GB"`` (decimal).
        device: the device to limit. Default: the CPU.

    Yields:
        The memory, whose ``peak_bytes()`` is the peak so far.

    Raises:
        InvalidArgument: if ``limit`` is not a number of bytes.
        torch.OutOfMemoryError: (inside the context) if the limit is exceeded.
    """
    memory = backend_for(torch.device(device if device is not None else "cpu"), limit)
    with memory.capped():
        yield memory
