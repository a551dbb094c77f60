"""Gradients turned on for a call that was made with them off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["gradients_on"]


@contextmanager
def gradients_on() -> Iterator[None]:
    """``no_grad`` and ``inference_mode`` of the caller's are off inside, and back on after."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
