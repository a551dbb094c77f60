"""Fixtures and a marker for pytest, found through its entry point.

A test session that uses none of them does not import torch.

- the fixture ``assert_fits``: ``assert_fits(model, loader, batch_size=64, memory="8GiB")``;
- the fixture ``memory_limit``: ``with memory_limit("512MiB"): ...``;
- the marker ``@pytest.mark.memory_limit("512MiB")``: the whole test runs inside that limit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

__all__ = ["assert_fits", "memory_limit", "pytest_configure", "pytest_runtest_call"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, so that ``--strict-markers`` accepts it."""
    config.addinivalue_line(
        "markers",
        'memory_limit(limit, device="cpu"): run the test with no more memory than this for tensors',
    )


@pytest.fixture
def assert_fits() -> Callable[..., Any]:
    """``batchfinder.testing.assert_fits``."""
    from batchfinder import testing

    return testing.assert_fits


@pytest.fixture
def memory_limit() -> Callable[..., Any]:
    """``batchfinder.memory_limit``."""
    from batchfinder.run import memory

    return memory.memory_limit


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a marked test inside its limit."""
    marker = item.get_closest_marker("memory_limit")
    if marker is None:
        return (yield)
    from batchfinder.run import memory

    with memory.memory_limit(*marker.args, **marker.kwargs):
        return (yield)
