"""The few functions of a device with a caching allocator that are needed, as a value.

The requirements, for whoever adds a device or stands in for one in a test:

- ``memory_reserved`` is what the allocator took from the driver, ``memory_allocated`` what of it
  tensors use; the ``max_`` forms are the peaks since ``reset_peak_memory_stats``;
- ``mem_get_info`` is (free, total) as the driver sees it, all processes counted;
- a fraction of the total caps what the allocator may reserve, by the real failure path: flush the
  cache, try again, then raise an out-of-memory error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

__all__ = ["Driver", "TorchDriver"]


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
