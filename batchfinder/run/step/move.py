"""A batch of any structure on a device."""

from __future__ import annotations

import torch

from batchfinder.protocols import Batch
from batchfinder.run.batches.structure import children, rebuilt

__all__ = ["moved"]


def moved(batch: Batch, device: torch.device) -> Batch:
    """``batch`` with every tensor on ``device``; what has a ``.to`` of its own moves itself."""
    to = getattr(batch, "to", None)
    if callable(to):
        return to(device)
    parts = children(batch)
    if parts is None:
        return batch
    return rebuilt(batch, [moved(part, device) for _, part in parts])
