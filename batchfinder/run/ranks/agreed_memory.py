"""A device's memory as all ranks have it: the least room decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

from batchfinder.protocols import DeviceProcess, MemoryBackend, Ranks

__all__ = ["AgreedMemory"]


class AgreedMemory:
    """A ``MemoryBackend`` that says the same on every rank.

    The limit is the smallest one. A rank's peak is moved by the difference of its own limit to the
    smallest, and the largest counts: exact for the rank with the least room, and convex in the
    batch as each rank's is.

    Args:
        memory: of this rank's device.
        ranks: who must have room.
        rooms: filled with what each rank had left, in order of rank, by the peak that was agreed.
    """

    def __init__(
        self, memory: MemoryBackend, ranks: Ranks, rooms: dict[int, tuple[int, ...]]
    ) -> None:
        self._own, self._ranks, self._rooms = memory, ranks, rooms
        self._limits = ranks.tell("the memory limit", memory.limit_bytes())

    @property
    def name(self) -> str:
        return self._own.name

    @property
    def is_simulated(self) -> bool:
        return self._own.is_simulated

    def limit_bytes(self) -> int:
        return min(self._limits)

    def held_bytes(self) -> int:
        return self._own.held_bytes()

    def peak_bytes(self) -> int:
        own = self._own.peak_bytes()
        if self._ranks.is_over:  # read while the call is being left
            return own
        return self._agreed("the peak", own)

    def reserved_peak_bytes(self) -> int | None:
        own = self._own.reserved_peak_bytes()
        if self._ranks.is_over or own is None:
            return own
        return self._agreed("the reserved peak", own)

    def _agreed(self, what: str, own: int) -> int:
        """The largest of all ranks' peaks, each as if its limit were the smallest."""
        told = self._ranks.tell(what, own)
        rooms = tuple(limit - each for each, limit in zip(told, self._limits, strict=True))
        peak = self.limit_bytes() - min(rooms)
        self._rooms[peak] = rooms
        return peak

    def reset_peak(self) -> None:
        self._own.reset_peak()

    def release(self) -> None:
        self._own.release()

    def synchronize(self) -> None:
        self._own.synchronize()

    def pressure(self) -> int:
        """The sum over ranks: it has grown where any rank's has."""
        return sum(self._ranks.tell("the allocators' retries", self._own.pressure()))

    def other_processes_bytes(self) -> int:
        return max(self._ranks.tell("other processes", self._own.other_processes_bytes()))

    def other_processes(self) -> Sequence[DeviceProcess]:
        return self._own.other_processes()

    def non_torch_bytes(self) -> int:
        return self._own.non_torch_bytes()

    def paused(self) -> AbstractContextManager[None]:
        return self._own.paused()

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        with self._ranks.guarded("making a batch"):
            self._own.hold(tensors)

    def capped(self) -> AbstractContextManager[None]:
        return self._own.capped()

    @contextmanager
    def watch(self, held: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        with self._ranks.guarded("the memory limit"):
            watching = self._own.watch(held)
            del held
            watching.__enter__()
        try:
            yield
        except BaseException as error:
            if not watching.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            with self._ranks.guarded("the memory limit"):
                watching.__exit__(None, None, None)
