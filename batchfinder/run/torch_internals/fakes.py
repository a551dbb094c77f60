"""Fake tensors, which have a shape, a type and a device, and no bytes.

Without them nothing can be predicted; everything else works.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

__all__ = ["FakeTensor", "FakeTensorMode", "unlogged"]


@contextmanager
def unlogged() -> Iterator[None]:
    """Torch logs what fails under fake tensors, traceback and all; the caller gets it raised."""
    logger = logging.getLogger(FakeTensorMode.__module__)

    def nothing(_: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)
