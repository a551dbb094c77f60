"""A small device made of the CPU's own memory: the limit is kept by the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from batchfinder.run.memory.defaults import Defaults
from batchfinder.run.memory.ledger import Ledger
from batchfinder.run.switches import compiled_again, uncompiled
from batchfinder.units import format_bytes

__all__ = ["SimulatedMemory", "active_limit"]

# Dispatch modes belong to a thread; so does the limit that the caller is inside of.
_ACTIVE: ContextVar[SimulatedMemory | None] = ContextVar("batchfinder_memory_limit", default=None)


class SimulatedMemory(Defaults):
    """A limit in bytes on the tensors of one kind of device, kept exactly and on any machine.

    What kernels allocate inside one operator is not counted: the limit is defined by the ledger,
    not by the machine. While it is in force, passing it raises ``torch.OutOfMemoryError``.
    """

    is_simulated = True

    def __init__(self, device: torch.device, limit: int) -> None:
        self.device = device
        self._ledger = Ledger(device, limit)
        self._limit = limit
        self._depth = 0
        self._held = 0

    @property
    def name(self) -> str:
        return f"simulated: {format_bytes(self._limit)} of {self.device.type} memory"

    def limit_bytes(self) -> int:
        return self._limit

    def held_bytes(self) -> int:
        """Bytes alive now; outside ``watch``, those alive when the last one ended."""
        return self._ledger.current if self._depth else self._held

    def peak_bytes(self) -> int:
        return self._ledger.peak

    def reserved_peak_bytes(self) -> None:
        """Nothing is cached."""

    def reset_peak(self) -> None:
        self._ledger.peak = self._ledger.current

    def release(self) -> None:
        """Nothing is cached."""

    def synchronize(self) -> None:
        """Operators of the CPU have ended when they return."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def pressure(self) -> int:
        return 0

    def other_processes_bytes(self) -> int:
        return 0

    @contextmanager
    def watch(self, held: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        """Keep the limit. The peak starts again from what is ``held``.

        Raises:
            torch.OutOfMemoryError: where ``held`` alone passes the limit, or the work inside does.
        """
        with self._entered(), self._listening(True):
            self.reset_peak()
            self._ledger.hold(held)
            # a caller's list of gradients must not keep them alive during its own step
            del held
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work inside is not counted, as the book-keeping of a search is not; nor is its peak."""
        peak = self._ledger.peak
        try:
            with self._listening(False):
                yield
        finally:
            self._ledger.peak = peak

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors made while this was paused, until they are freed."""
        self._ledger.hold(tensors)

    @contextmanager
    def capped(self) -> Iterator[None]:
        """The limit kept, and found by ``active_limit``."""
        token = _ACTIVE.set(self)
        try:
            with self.watch():
                yield
        finally:
            _ACTIVE.reset(token)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        self._depth += 1
        try:
            if self._depth > 1:
                yield
            else:
                with self._ledger:
                    yield
        finally:
            self._depth -= 1
            self._held = self._ledger.current
            if not self._depth:
                self._ledger.forget()

    @contextmanager
    def _listening(self, now: bool) -> Iterator[None]:
        with self._ledger.counting(now), uncompiled() if now else compiled_again():
            yield


def active_limit() -> SimulatedMemory | None:
    """The simulated limit that the caller is inside of, if any: the innermost."""
    return _ACTIVE.get()
