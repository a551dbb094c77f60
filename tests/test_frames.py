"""From the public function to the user's step it is not far."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import batchfinder
from batchfinder.run.batches import source_from

PACKAGE = str(Path(batchfinder.__file__).parent)

MOST = {
    ("probe_sizes", "run_trial"): 7,
    ("measure_sizes", "settle"): 7,
    ("estimate_noise",): 9,
    ("confirm_choice", "run_branch"): 10,
}
"""Frames of ours, that of ``find_batch_size`` counted, by functions on the way."""


def ours() -> tuple[str, ...]:
    frame, names = sys._getframe(2), []
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            names.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]  # None ends it
    return tuple(reversed(names))


@pytest.fixture(scope="module")
def ways() -> set[tuple[str, ...]]:
    """Every way to the user's code in one call."""
    seen: set[tuple[str, ...]] = set()
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 3)

    def train_step(model: Any, batch: Any) -> torch.Tensor:
        seen.add(ours())
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    labels = torch.arange(128) % 3
    data = TensorDataset(torch.nn.functional.one_hot(labels, 8) + torch.randn(128, 8), labels)
    batchfinder.find_batch_size(
        model,
        DataLoader(data, batch_size=8),
        train_step=train_step,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        at_most=32,
        noise=batchfinder.MicroBatchVariance(warmup_steps=24),
        budget_seconds=5,
        observe=lambda event: None,
    )
    return seen


@pytest.mark.parametrize("names", MOST, ids=" ".join)
def test_a_step_is_few_frames_away(names: tuple[str, ...], ways: set[tuple[str, ...]]) -> None:
    lengths = {len(way): way for way in ways if set(names) <= set(way)}
    assert lengths, f"no way through {names}"
    longest = max(lengths)
    assert longest <= MOST[names], lengths[longest]


STOPS = 15
"""Files entered one after the other from a loader to its first batch at another size."""


def test_a_loader_is_few_stops_away_from_a_batch() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(64, 4)), batch_size=8, shuffle=True)
    stops: list[str] = []

    def look(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        here = Path(code.co_filename)
        inside = str(here.parent) == f"{PACKAGE}/run/batches" and not code.co_name.startswith("<")
        if event == "call" and inside and stops[-1:] != [here.stem]:
            stops.append(here.stem)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        source_from(loader).take(16)
    finally:
        sys.setprofile(before)
    assert len(stops) <= STOPS, stops
    assert {"choose", "describe", "source"} <= set(stops)
