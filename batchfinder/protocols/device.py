"""A device's memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


__all__ = ["DeviceProcess", "MemoryBackend"]


class DeviceProcess(Protocol):
    """One process that holds memory on a device."""

    @property
    def pid(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def bytes(self) -> int | None:
        """``None`` where it is not told."""
        ...


class MemoryBackend(Protocol):
    """The memory of a device: its limit, its peak, and how to release cached memory.

    Requirements: ``peak_bytes`` is the most that tensors took since ``reset_peak``, with what else
    the process holds on the device, and comparable with ``limit_bytes``; inside ``watch`` the limit
    is enforced by raising an out-of-memory error.
    """

    @property
    def name(self) -> str: ...
    @property
    def is_simulated(self) -> bool: ...
    def limit_bytes(self) -> int: ...
    def held_bytes(self) -> int: ...
    def peak_bytes(self) -> int: ...
    def reserved_peak_bytes(self) -> int | None:
        """Like ``peak_bytes``, of what a caching allocator reserved; ``None`` without one."""
        ...

    def reset_peak(self) -> None: ...
    def release(self) -> None: ...
    def synchronize(self) -> None: ...
    def pressure(self) -> int:
        """How often the allocator had to flush its cache, ever; 0 where it cannot be told."""
        ...

    def other_processes_bytes(self) -> int:
        """Bytes that other processes hold on the device now; 0 where it cannot be told."""
        ...

    def other_processes(self) -> Sequence[DeviceProcess]:
        """Who those are; empty where it cannot be told."""
        ...

    def non_torch_bytes(self) -> int:
        """Bytes that this process holds on the device outside torch's allocator."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Work inside is not counted, where anything is; the peak stays what it was."""
        ...

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors made while it was paused, until they are freed.

        Nothing where the device's own allocator counts.

        Raises:
            torch.OutOfMemoryError: where they pass the limit.
        """
        ...

    def watch(self, held: Iterable[torch.Tensor] = ()) -> AbstractContextManager[None]:
        """Enforce the limit and follow the peak; ``held`` are tensors alive before it."""
        ...

    def capped(self) -> AbstractContextManager[None]:
        """Enforce the limit for work that is not ours, as ``memory_limit`` does."""
        ...
