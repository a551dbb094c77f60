"""The search on real trials: exact maxima, memory that is not monotone, and no growth."""

from __future__ import annotations

import gc
from typing import Any

import psutil
import pytest
import torch
from memory_cases import CPU, Made, PlainStep, squared_error, whole_step
from memory_models import TRAININGS
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder
from batchfinder.probe import SearchSpace, probe
from batchfinder.protocols import Setup
from batchfinder.results import Outcome
from batchfinder.run.memory import backend_for
from batchfinder.run.memory.ledger import Ledger
from batchfinder.run.trial import run_trial

FIVE = (
    "perceptron, SGD",
    "CNN with BatchNorm",
    "Transformer, Adam",
    "UNet",
    "LSTM",
)
LARGEST = 24
LIMITED_SIZES = (3, 8, 17)


def prepared(name: str) -> tuple[PlainStep, Made]:
    step, source = TRAININGS[name].make()
    whole_step(step, source.take(2))  # the optimizer's state is there
    return step, source


def largest_that_fits(step: PlainStep, source: Made, limit: int, resolution: float = 0) -> int:
    memory = backend_for(CPU, limit)
    space = SearchSpace(limit_bytes=limit, resolution=resolution, start=2)
    trials = probe(lambda size: run_trial(Setup(step, source, memory), size), space)
    return max((trial.batch_size for trial in trials if trial.fits), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIVE)
def test_the_true_maximum_is_hit_exactly(name: str) -> None:
    step, source = prepared(name)
    wide = backend_for(CPU, "8GiB")
    peaks = {
        size: run_trial(Setup(step, source, wide), size, steps=1).peak_bytes or 0
        for size in range(1, LARGEST + 1)
    }
    for size in LIMITED_SIZES:
        # between the need of this size and of the next one
        limit = (peaks[size] + peaks[size + 1]) // 2
        true = max(each for each, peak in peaks.items() if peak <= limit)
        assert true < LARGEST
        assert largest_that_fits(step, source, limit) == true
        memory = backend_for(CPU, limit)
        assert run_trial(Setup(step, source, memory), true).fits
        assert not run_trial(Setup(step, source, memory), true + 1).fits


@pytest.mark.slow
def test_to_the_byte() -> None:
    step, source = prepared("Transformer, Adam")
    peak = run_trial(Setup(step, source, backend_for(CPU, "8GiB")), 5).peak_bytes
    assert peak is not None
    assert run_trial(Setup(step, source, backend_for(CPU, peak)), 5).peak_bytes == peak
    assert not run_trial(Setup(step, source, backend_for(CPU, peak - 1)), 5).fits


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*FIVE, "CNN, checkpointing", "Transformer, bf16 autocast", "branches, SGD"]
)
def test_wherever_it_fails_no_byte_is_left(name: str) -> None:
    """Limits from the model alone up to the peak, so that every part of the step fails once."""
    step, source = prepared(name)
    peak = run_trial(Setup(step, source, backend_for(CPU, "8GiB")), 8).peak_bytes
    held = sum(tensor.numel() * tensor.element_size() for tensor in step.holdings())
    assert peak is not None
    stages = set()
    with Ledger(CPU) as everything:
        everything.hold(step.holdings())
        before = everything.current
        for tenth in range(1, 10):
            limit = held + (peak - held) * tenth // 10
            trial = run_trial(Setup(step, source, backend_for(CPU, limit)), 8)
            stages.add(trial.note.split(":")[0])
            assert trial.outcome is Outcome.OUT_OF_MEMORY
            assert everything.current == before, trial.note
    assert "in forward and backward" in stages


class Switching(nn.Module):
    """Takes a large workspace for even chunks of its batch only: memory is not monotone."""

    def __init__(self, period: int, workspace: int) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.period, self.workspace = period, workspace

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) // self.period % 2:
            inputs = inputs + torch.zeros(self.workspace)[:16]
        return self.layer(inputs)


@pytest.mark.parametrize("period", [1, 3, 7, 16])
@pytest.mark.parametrize("limit", [20_000, 50_000, 90_000])
@pytest.mark.parametrize("resolution", [0.0, 0.05])
def test_memory_that_is_not_monotone_ends_in_a_size_that_was_run(
    period: int, limit: int, resolution: float
) -> None:
    model = Switching(period, 8_000)
    step = PlainStep(model, squared_error, torch.optim.SGD(model.parameters(), lr=0.1))
    source = Made(lambda size: (torch.zeros(size, 16), torch.zeros(size, 16)))
    found = largest_that_fits(step, source, limit, resolution)
    assert found >= 1
    assert run_trial(Setup(step, source, backend_for(CPU, limit)), found).fits


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def one_search(**options: Any) -> int:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(256, 32), torch.randint(0, 4, (256,)))
    model = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    loader = DataLoader(data, batch_size=8, shuffle=True)
    return batchfinder.max_batch_size(model, loader, **options).max_batch_size


@pytest.mark.slow
def test_fifty_searches_leave_nothing() -> None:
    process = psutil.Process()
    found = {one_search(memory_limit="200KB") for _ in range(5)}
    tensors, resident = live_tensors(), process.memory_info().rss
    objects = len(gc.get_objects())
    found |= {one_search(memory_limit="200KB") for _ in range(50)}
    assert len(found) == 1
    assert live_tensors() == tensors
    assert len(gc.get_objects()) - objects < 50  # less than one object a search
    assert process.memory_info().rss - resident < 8 * 2**20
    assert "resize_" not in vars(torch.UntypedStorage)
