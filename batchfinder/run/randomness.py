"""Random numbers of our own, and the generators of torch, numpy and Python as they were.

Datasets that augment and collate functions that mask draw from the global generators. ``kept`` and
``seeded`` mean only the host's: batches are made there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["in_use", "kept", "kept_with", "reseed", "seed_everything", "seeded"]


@contextmanager
def kept() -> Iterator[None]:
    """The three global generators put back on the way out."""
    python, numpy, host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(host)


def reseed(seed: int) -> None:
    """Seed the three global generators; only ever inside ``kept``.

    Apart from ``kept``, because reading numpy's state takes twenty times as long as seeding it
    and every sample is seeded.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**63)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The three global generators seeded inside, and restored afterwards."""
    with kept():
        reseed(seed)
        yield


@contextmanager
def kept_with(device: torch.device) -> Iterator[None]:
    """The global generators, and that of a CUDA ``device``, put back on the way out."""
    with kept(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_everything(seed: int) -> None:
    """Seed the generators in use. A device that was never used is left alone.

    ``torch.manual_seed`` would leave a seed behind for a device that starts later.
    """
    reseed(seed)
    for device in (torch.cuda, torch.xpu):
        if device.is_available() and in_use(device):
            device.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def in_use(device: Any) -> bool:
    return bool(device.is_initialized())
