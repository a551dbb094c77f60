"""Draws of our own that leave the generators of torch, numpy and Python as they were.

Datasets that augment and collate functions that mask draw from the global generators. Only the
host's are meant: batches are made there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["kept", "reseed", "seeded"]


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
    """The three global generators seeded inside, and put back afterwards."""
    with kept():
        reseed(seed)
        yield
