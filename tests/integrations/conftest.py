"""A fresh state of Accelerate for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

try:
    from accelerate.state import AcceleratorState, GradientState
except ImportError:
    AcceleratorState = GradientState = None


@pytest.fixture(autouse=True)
def fresh_accelerator_state() -> Iterator[None]:
    """Accelerate keeps one state for a process; older Trainers put its precision there too."""
    with patch.dict(os.environ):
        yield
    if AcceleratorState is not None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
