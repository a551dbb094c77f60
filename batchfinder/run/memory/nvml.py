"""Who else is on an NVIDIA GPU, by name and bytes. No NVML, or a broken one, is no error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import psutil
import torch

__all__ = [
    "GpuProcess",
    "Neighbours",
    "NoNeighbours",
    "NvmlNeighbours",
    "handle_of",
    "neighbours_on",
    "nvml_and_uuid",
]


@dataclass(frozen=True)
class GpuProcess:
    """One process on a GPU (or on one slice of it). ``bytes`` is ``None`` where not told."""

    pid: int
    name: str
    bytes: int | None


class Neighbours(Protocol):
    """The processes on a device."""

    def processes(self) -> tuple[GpuProcess, ...]:
        """Every other process; empty where it cannot be told."""
        ...

    def other_bytes(self, own_reserved: int) -> int | None:
        """Bytes of other processes; ``None`` if they cannot be separated from our own."""
        ...


class NoNeighbours:
    """A device that tells nothing about its processes."""

    def processes(self) -> tuple[GpuProcess, ...]:
        return ()

    def other_bytes(self, own_reserved: int) -> int | None:
        del own_reserved
        return None


class NvmlNeighbours:
    """Processes as NVML lists them.

    Args:
        uuid: of the GPU or of the MIG slice, with or without its prefix.
        nvml: the module ``pynvml``, or a stand-in.
        own: this process's identifier, as NVML would list it.
    """

    def __init__(self, uuid: str, nvml: Any, own: int | None = None) -> None:
        self._uuid = uuid
        self._nvml = nvml
        self._own = os.getpid() if own is None else own

    def processes(self) -> tuple[GpuProcess, ...]:
        listed = self._listed() or ()
        return tuple(each for each in listed if each.pid != self._own)

    def other_bytes(self, own_reserved: int) -> int | None:
        """Bytes of other processes.

        In a container NVML may list processes by numbers of the host, so that ours is not found;
        on Windows it does not tell bytes. Both are "not told".
        """
        listed = self._listed()
        if listed is None or any(each.bytes is None for each in listed):
            return None
        if not listed and not own_reserved:
            return 0
        if not any(each.pid == self._own for each in listed):
            return None
        return sum(each.bytes or 0 for each in listed if each.pid != self._own)

    def _listed(self) -> tuple[GpuProcess, ...] | None:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        try:
            handle = handle_of(nvml, self._uuid)
            running = list(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
            with suppress(nvml.NVMLError):  # a slice of a card draws nothing
                running += nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        except nvml.NVMLError:
            return None
        finally:
            with suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
        return tuple({each.pid: self._named(each) for each in running}.values())

    def _named(self, process: Any) -> GpuProcess:
        count = process.usedGpuMemory
        try:
            name = psutil.Process(process.pid).name()
        except psutil.Error:
            name = "a process outside this container"
        return GpuProcess(process.pid, name, None if count is None else int(count))


def handle_of(nvml: Any, uuid: str) -> Any:
    """NVML's handle of a GPU or of a MIG slice, whichever prefix its identifier goes by.

    Raises:
        nvml.NVMLError: where there is none.
    """
    plain = uuid.removeprefix("GPU-").removeprefix("MIG-")
    for prefix in ("MIG-", "GPU-"):
        try:
            return nvml.nvmlDeviceGetHandleByUUID(f"{prefix}{plain}")
        except nvml.NVMLError:
            continue
    for slice_handle in _slices(nvml):
        if plain in str(nvml.nvmlDeviceGetUUID(slice_handle)):
            return slice_handle
    return nvml.nvmlDeviceGetHandleByUUID(uuid)


def _slices(nvml: Any) -> Iterator[Any]:
    """Every MIG slice of every GPU."""
    for index in range(nvml.nvmlDeviceGetCount()):
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            count = int(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu))
        except nvml.NVMLError:
            continue
        for position in range(count):
            try:
                yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, position)
            except nvml.NVMLError:
                continue  # an empty place


def neighbours_on(device: torch.device) -> Neighbours:
    """The processes on a CUDA device; the null object where NVML cannot tell."""
    nvml, uuid = nvml_and_uuid(device)
    return NoNeighbours() if nvml is None or uuid is None else NvmlNeighbours(uuid, nvml)


def nvml_and_uuid(device: torch.device) -> tuple[ModuleType | None, str | None]:
    """The module ``pynvml`` and a CUDA device's identifier, each where there is one."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return _pynvml(), None if uuid is None else str(uuid)


def _pynvml() -> ModuleType | None:
    try:
        import pynvml
    except ImportError:
        return None
    module: ModuleType = pynvml
    return module
