"""A garbage collector that passes over the frameworks' objects, and a fresh state of Accelerate."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

try:
    from accelerate.state import AcceleratorState, GradientState
except ImportError:
    AcceleratorState = GradientState = None


@pytest.fixture(autouse=True, scope="module")
def frozen_imports() -> Iterator[None]:
    """Half a million objects of the frameworks' modules make every collection take 0.7 s."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def fresh_accelerator_state() -> Iterator[None]:
    """Accelerate keeps one state for a process; older Trainers put its precision there too."""
    with patch.dict(os.environ):
        yield
    if AcceleratorState is not None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
