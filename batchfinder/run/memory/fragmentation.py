"""Memory that is there in pieces: reserved by a caching allocator, but no block large enough."""

from __future__ import annotations

import re

__all__ = ["is_fragmented"]

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


def _bytes(found: re.Match[str]) -> float:
    return float(found[1]) * _UNITS[found[2]]
