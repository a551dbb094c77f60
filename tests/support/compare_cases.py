"""A small study with a clock that is told the time: a linear fit, steps of known cost."""

from __future__ import annotations

from typing import Any

import torch
from fakes import FakeClock
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.compare import Comparison, compare_batch_sizes

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


def study(sizes: tuple[int, ...] = (8, 32), **changes: Any) -> Comparison:
    clock = FakeClock()
    options: dict[str, Any] = {
        "make_optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
        "loss_fn": torch.nn.functional.mse_loss,
        "validation_loader": DataLoader(data(seed=1), batch_size=100),
        "clock": clock,
        "warmup_steps": 0,
        "epochs": 4,
        "looks": 8,
        "base_batch_size": 8,
    }
    return compare_batch_sizes(
        changes.pop("make_model", lambda: torch.nn.Linear(3, 1)),
        changes.pop("make_loader", lambda size: Timed(size, clock)),
        sizes,
        **{**options, **changes},
    )
