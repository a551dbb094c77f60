"""A limit that is not kept for a while, on any kind of memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch

from batchfinder.protocols import MemoryBackend

__all__ = ["charge", "paused"]


def paused(memory: MemoryBackend) -> AbstractContextManager[None]:
    """Work inside is not counted, where ``memory`` counts at all; the peak stays what it was."""
    pause = getattr(memory, "paused", nullcontext)
    context: AbstractContextManager[None] = pause()
    return context


def charge(memory: MemoryBackend, tensors: Iterable[torch.Tensor]) -> None:
    """Count tensors made while ``memory`` was paused, until they are freed.

    A device's own allocator counts by itself: nothing happens there.

    Raises:
        torch.OutOfMemoryError: where they pass the limit.
    """
    hold = getattr(memory, "hold", None)
    if hold is not None:
        hold(tensors)
