"""Every generator in use, seeded."""

from __future__ import annotations

from typing import Any

import torch

from batchfinder.run.batches.randomness import reseed

__all__ = ["seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed the generators in use. A device that was never used is left alone.

    ``torch.manual_seed`` would leave a seed behind for a device that starts later.
    """
    reseed(seed)
    for device in (torch.cuda, torch.xpu):
        if device.is_available() and _in_use(device):
            device.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _in_use(device: Any) -> bool:
    return bool(device.is_initialized())
