"""Quiet progress and one thread, so that every test reads the same wherever it runs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterator
from functools import partial

import pytest
import torch

from batchfinder.measure import stage


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHFINDER_QUIET", "1")


@pytest.fixture(autouse=True)
def short_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole calls time their sizes in visits of a few milliseconds, as many as they need."""
    monkeypatch.setattr(stage, "Effort", partial(stage.Effort, visit_seconds=0.005))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collecting makes hundreds of thousands of objects that stay: nothing in it is garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="module")
def frozen() -> list[int]:
    """How many modules were loaded when the garbage collector was last told to leave them alone."""
    return [0]


@pytest.fixture(autouse=True)
def what_stays_is_no_garbage(frozen: list[int]) -> None:
    """A clean-up collects garbage; torch's own objects alone keep it a quarter of a second.

    At the beginning of a file, and wherever modules have been loaded since.
    """
    if len(sys.modules) > frozen[0] + 100:
        gc.collect()
        gc.freeze()
        frozen[0] = len(sys.modules)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped, by name, where there is none."""
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs an NVIDIA GPU")
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(skip)
