"""The host's memory: batches are made there, and every worker holds some of its own."""

from __future__ import annotations

from typing import Any

from batchfinder.run.memory import host_budget
from batchfinder.units import format_bytes

__all__ = ["check_host", "copies_of"]

_WORTH_ASKING = 64 * 1024**2  # below this, the budget need not be looked up


def copies_of(loader: Any) -> int:
    """Batches that a loader's workers hold at once: workers × prefetch factor."""
    workers = getattr(loader, "num_workers", 0) or 0
    return int(workers) * int(getattr(loader, "prefetch_factor", None) or 2)


def check_host(needed: int, size: int) -> None:
    """Refuse a batch that the host has no memory for, before the kernel kills the process.

    Raises:
        MemoryError: with the bytes needed and had; the search takes it as out of memory.
    """
    if needed < _WORTH_ASKING:
        return
    budget = host_budget()
    if needed > budget:
        raise MemoryError(
            f"a batch of {size} samples needs {format_bytes(needed)} of host memory, of which "
            f"{format_bytes(budget)} may be used"
        )
