"""A small study with a clock that is told the time: a linear fit, steps of known cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from fakes import FakeClock
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.compare import Comparison, compare_batch_sizes
from batchfinder.training import Training

TRUTH = torch.tensor([[1.0], [-2.0], [0.5]])


def data(count: int = 256, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=generator)
    return TensorDataset(inputs, inputs @ TRUTH + 0.01 * torch.randn(count, 1, generator=generator))


def step_cost(size: int) -> float:
    """Seconds: a fixed cost of one, and one more at 64 samples."""
    return 1 + size / 64


class Timed:
    """A loader whose every batch takes the time of a whole step."""

    def __init__(self, size: int, clock: FakeClock) -> None:
        self.size, self.clock, self.dataset = size, clock, data()

    def __iter__(self) -> Any:
        for batch in DataLoader(self.dataset, batch_size=self.size, shuffle=True, drop_last=True):
            self.clock.pass_by(step_cost(self.size))
            yield batch


def linear() -> nn.Module:
    return nn.Linear(3, 1)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05)


def study(
    sizes: tuple[int, ...] | None = (8, 32),
    *,
    make_model: Callable[[], nn.Module] = linear,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = sgd,
    **changes: Any,
) -> Comparison:
    clock = FakeClock()

    def make_training() -> nn.Module | Training:
        model = make_model()
        return Training(model, optimizer=make_optimizer(model)) if make_optimizer else model

    options: dict[str, Any] = {
        "make_loader": lambda size: Timed(size, clock),
        "loss_fn": nn.functional.mse_loss,
        "validation_loader": DataLoader(data(seed=1), batch_size=100),
        "warmup_steps": 0,
        "epochs": 4,
        "looks": 8,
        "base_batch_size": 8,
    }
    with patch("batchfinder.compare.study.perf_counter", clock):
        return compare_batch_sizes(make_training, sizes=sizes, **{**options, **changes})
