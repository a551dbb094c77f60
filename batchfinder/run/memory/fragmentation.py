"""Memory that is there in pieces: reserved by a caching allocator, but no block large enough."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch

__all__ = ["is_fragmented", "may_expand"]

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


def may_expand(device: torch.device, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the device's allocator knows expandable segments, and does not use them yet.

    The names are those of torch's documentation; the newer one stands for every device.
    """
    if device.type != "cuda":
        return False
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
    settings = " ".join(environment.get(name, "") for name in names)
    return re.search(r"expandable_segments\s*:\s*true", settings, re.IGNORECASE) is None


def _bytes(found: re.Match[str]) -> float:
    return float(found[1]) * _UNITS[found[2]]
