"""The CUDA back-end on a real GPU; skipped, by name, where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from memory_cases import Made, PlainStep, squared_error
from torch import nn

from batchfinder.protocols import Setup
from batchfinder.results import Outcome
from batchfinder.run.memory import backend_for, memory_limit
from batchfinder.run.trial import run_trial

pytestmark = pytest.mark.cuda

GIB = 1024**3
WIDTH = 4096
GPU = torch.device("cuda")


class DoomedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        return gradients[0]


class Model(nn.Module):
    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.one, self.two = (nn.Linear(WIDTH, WIDTH, device="cuda") for _ in range(2))
        self.fails = fails

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        first, second = torch.tanh(self.one(inputs)), torch.tanh(self.two(inputs))
        if self.fails == "backward":
            second = DoomedBackward.apply(second)
        if self.fails == "forward":
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        return first + second


class DoomedSgd(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


def training(fails: str = "") -> tuple[PlainStep, Made]:
    model = Model(fails)
    kind = DoomedSgd if fails == "update" else torch.optim.SGD
    step = PlainStep(model, squared_error, kind(model.parameters(), lr=0.1), device=GPU)
    return step, Made(lambda size: tuple(torch.zeros(2, size, WIDTH, device="cuda")))


def test_the_cap_holds_and_is_put_back() -> None:
    with memory_limit("4GiB", "cuda") as memory:
        kept = torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(3 * GIB, dtype=torch.uint8, device="cuda")
        assert memory.limit_bytes() == 4 * GIB
        del kept
    memory.release()
    torch.empty(5 * GIB, dtype=torch.uint8, device="cuda")
    memory.release()


def test_the_peak_is_comparable_with_the_limit() -> None:
    step, source = training()
    memory = backend_for(GPU, "4GiB")
    trial = run_trial(Setup(step, source, memory), 64)
    weights = 2 * (WIDTH * WIDTH + WIDTH) * 4
    assert trial.fits and trial.peak_bytes is not None
    assert 2 * weights < trial.peak_bytes < 4 * GIB


@pytest.mark.parametrize("fails", ["forward", "backward", "update"])
def test_nothing_of_a_failed_trial_is_held(fails: str) -> None:
    step, source = training(fails)
    memory = backend_for(GPU, "4GiB")
    run_trial(Setup(step, source, memory), 8)  # the libraries' workspaces are there
    before = memory.held_bytes()
    trial = run_trial(Setup(step, source, memory), 4096)
    assert trial.outcome is Outcome.OUT_OF_MEMORY
    assert memory.held_bytes() == before


def test_the_next_size_up_fails_under_the_cap() -> None:
    step, source = training()
    memory = backend_for(GPU, "2GiB")
    low, high = 1, 1 << 18
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        fits = run_trial(Setup(step, source, memory), middle).fits
        low, high = (middle, high) if fits else (low, middle)
    assert run_trial(Setup(step, source, memory), low).fits
    assert not run_trial(Setup(step, source, memory), int(high * 1.03)).fits


def test_no_neighbour_appears_during_a_quiet_trial() -> None:
    step, source = training()
    memory = backend_for(GPU, "4GiB")
    run_trial(Setup(step, source, memory), 8)
    assert not run_trial(Setup(step, source, memory), 8).disturbed
