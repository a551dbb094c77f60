"""What surrounds one device's step: the loader's workers and the other ranks."""

from __future__ import annotations

from typing import Any

import torch

from batchfinder.run.batches import workers_of

__all__ = ["loader_overlaps", "world_size"]


def loader_overlaps(loader: Any) -> bool:
    """Whether the next batch is made beside the step, by worker processes."""
    return workers_of(loader) > 0


def world_size() -> int:
    """Devices that share one optimizer step; 1 where nothing is distributed."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return int(distributed.get_world_size())
