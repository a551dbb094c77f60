"""Limits that are simulated by counting, and Apple's devices."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from batchfinder.run.compiler_switches import compiled_again, uncompiled
from batchfinder.run.memory.host import Defaults
from batchfinder.run.memory.ledger import Ledger
from batchfinder.units import format_bytes

__all__ = ["MpsMemory", "SimulatedMemory", "active_limit"]


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
        before = self._ledger.listening
        self._ledger.listening = now
        try:
            with uncompiled() if now else compiled_again():
                yield
        finally:
            self._ledger.listening = before


def active_limit() -> SimulatedMemory | None:
    """The simulated limit that the caller is inside of, if any: the innermost."""
    return _ACTIVE.get()


_DEFAULT_WATERMARK = 1.7  # MPSAllocator.h, default_high_watermark_ratio
_LARGEST_WATERMARK = 2.0


class MpsMemory(Defaults):
    """One Apple GPU.

    Args:
        limit: bytes; left out, the working set that Metal recommends.
        mps: ``torch.mps``, or a stand-in.
    """

    name = "Apple GPU (MPS)"
    is_simulated = False

    def __init__(
        self, limit: int | None = None, mps: Any = None, device: torch.device | None = None
    ) -> None:
        self._mps = mps if mps is not None else torch.mps
        self._recommended = int(self._mps.recommended_max_memory())
        self._limit = min(limit or self._recommended, self._recommended)
        self._ledger = Ledger(device or torch.device("mps"), self._limit)
        self._peak = 0

    def limit_bytes(self) -> int:
        return self._limit

    def held_bytes(self) -> int:
        return int(self._mps.current_allocated_memory())

    def peak_bytes(self) -> int:
        return self._peak

    def reserved_peak_bytes(self) -> None:
        """Nothing is cached."""

    def reset_peak(self) -> None:
        self._peak = self.held_bytes()

    def release(self) -> None:
        self._mps.empty_cache()

    def synchronize(self) -> None:
        self._mps.synchronize()

    def pressure(self) -> int:
        return 0

    def other_processes_bytes(self) -> int:
        return 0

    def capped(self) -> AbstractContextManager[None]:
        return self.watch()

    @contextmanager
    def watch(self, held: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        """Keep the limit by the ledger, and by the allocator for what the ledger cannot see."""
        self.synchronize()
        with self._watermark(self._limit / self._recommended):
            try:
                with self._ledger as ledger:
                    ledger.peak = 0
                    ledger.hold(held)
                    del held
                    yield
                    self.synchronize()
            finally:
                driver = int(self._mps.driver_allocated_memory())
                self._peak = max(self._ledger.peak, driver)
                self._ledger.forget()

    @contextmanager
    def _watermark(self, ratio: float) -> Iterator[None]:
        self._mps.set_per_process_memory_fraction(float(min(ratio, 1.0)))
        try:
            yield
        finally:
            self._mps.set_per_process_memory_fraction(_watermark_before())


def _watermark_before() -> float:
    """The watermark that the process started with: it cannot be read back."""
    text = os.environ.get("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "")
    try:
        ratio = float(text)
    except ValueError:
        return _DEFAULT_WATERMARK
    return ratio if 0 <= ratio <= _LARGEST_WATERMARK else _DEFAULT_WATERMARK
