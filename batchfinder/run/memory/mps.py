"""Apple's GPUs: no peak counter, and memory that swaps long before anything is raised.

So the ledger follows the tensors, the driver's own figure is read after the step (it holds what
kernels took, and the cache), and the allocator's watermark is lowered to the limit meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from batchfinder.run.memory.defaults import Defaults
from batchfinder.run.memory.ledger import Ledger

__all__ = ["MpsMemory"]

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
        self._mps.set_per_process_memory_fraction(min(self._limit / self._recommended, 1.0))
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
            self._mps.set_per_process_memory_fraction(_watermark_before())


def _watermark_before() -> float:
    """The watermark that the process started with: it cannot be read back."""
    text = os.environ.get("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "")
    try:
        ratio = float(text)
    except ValueError:
        return _DEFAULT_WATERMARK
    return ratio if 0 <= ratio <= _LARGEST_WATERMARK else _DEFAULT_WATERMARK
