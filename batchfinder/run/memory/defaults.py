"""What a memory back-end answers where there is nothing to say or do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from batchfinder.protocols import DeviceProcess

__all__ = ["Defaults"]


class Defaults:
    """The members of ``MemoryBackend`` that not every device can do more in."""

    def other_processes(self) -> Sequence[DeviceProcess]:
        return ()

    def non_torch_bytes(self) -> int:
        return 0

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """The device's own allocator counts."""
