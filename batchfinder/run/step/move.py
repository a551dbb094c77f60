"""A batch of any structure on a device."""

from __future__ import annotations

import torch

from batchfinder.protocols import Batch
from batchfinder.run.tree import children, rebuilt

__all__ = ["moved"]


def moved(batch: Batch, device: torch.device) -> Batch:
    """``batch`` with every tensor on ``device``; what has a ``.to`` of its own moves itself.

    Containers are new ones, so that a step may pop keys from its batch and be run on it again.
    """
    parts = children(batch)
    to = getattr(batch, "to", None)
    if parts is None:
        return to(device) if callable(to) else batch
    if callable(to):
        return rebuilt(batch, [part for _, part in parts]).to(device)
    return rebuilt(batch, [moved(part, device) for _, part in parts])
