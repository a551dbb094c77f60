"""The user's own rate is the peak of the schedule, wherever its scheduler stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.run.bench import open_bench

RATE = 1e-3
Make = Callable[[torch.optim.Optimizer], Any]


def chained(optimizer: torch.optim.Optimizer) -> Any:
    warmup = schedules.LinearLR(optimizer, 0.1, total_iters=10)
    return schedules.ChainedScheduler([warmup, schedules.ExponentialLR(optimizer, 0.9)])


def in_sequence(optimizer: torch.optim.Optimizer) -> Any:
    warmup = schedules.LinearLR(optimizer, 0.01, total_iters=10)
    after = schedules.CosineAnnealingLR(optimizer, 50)
    return schedules.SequentialLR(optimizer, [warmup, after], [10])


ALONE: dict[str, Make] = {
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.25, total_iters=10),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 50),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 10),
    "CyclicLR": lambda o: schedules.CyclicLR(o, RATE / 10, RATE, cycle_momentum=False),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "LambdaLR from 0": lambda o: schedules.LambdaLR(o, lambda step: min(1.0, step / 20)),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.1, total_iters=10),
    "LinearLR down": lambda o: schedules.LinearLR(o, 1.0, 0.0, total_iters=50),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [2, 4]),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda step: 0.9),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, RATE, total_steps=100),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 50),
    "StepLR": lambda o: schedules.StepLR(o, 2),
    "ChainedScheduler": chained,
    "SequentialLR": in_sequence,
}


def training(make: Make, steps: int, *, passed: bool) -> tuple[bf.Training, Any]:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    scheduler = make(optimizer)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    rows = torch.randn(64, 8)
    loader = DataLoader(TensorDataset(rows, rows.argmax(1) % 4), batch_size=8)
    given = scheduler if passed else None
    loss = nn.CrossEntropyLoss()
    made = bf.Training(model, loader, loss_fn=loss, optimizer=optimizer, scheduler=given)
    return made, scheduler


@pytest.mark.parametrize("steps", [0, 7, 30])
@pytest.mark.parametrize(
    ("name", "passed"),
    [
        (name, passed)
        for name in ALONE
        for passed in (True, False)
        if passed or name != "CyclicLR"  # which keeps its maximum to itself
    ],
)
def test_the_base_rate_is_the_peak(name: str, passed: bool, steps: int) -> None:
    given, _ = training(ALONE[name], steps, passed=passed)
    with open_bench(given) as bench:
        assert bench.step.base_learning_rate() == pytest.approx(RATE)


TOGETHER: dict[str, Callable[[Make], Make]] = {
    "chained": lambda make: lambda o: schedules.ChainedScheduler([warmed_up(o), make(o)]),
    "in sequence": lambda make: lambda o: schedules.SequentialLR(o, [warmed_up(o), make(o)], [2]),
}


def warmed_up(optimizer: torch.optim.Optimizer) -> Any:
    return schedules.LinearLR(optimizer, 0.1, total_iters=5)


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("name", sorted(set(ALONE) - {"ChainedScheduler", "SequentialLR"}))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_base_rate_is_the_peak_beside_a_warm_up(name: str, together: str, steps: int) -> None:
    given, _ = training(TOGETHER[together](ALONE[name]), steps, passed=True)
    with open_bench(given) as bench:
        assert bench.step.base_learning_rate() == pytest.approx(RATE)


def test_a_plateau_scheduler_leaves_the_rate_that_it_came_down_to() -> None:
    given, scheduler = training(lambda o: schedules.ExponentialLR(o, 1.0), 0, passed=False)
    plateau = schedules.ReduceLROnPlateau(scheduler.optimizer, patience=0)
    assert plateau.get_last_lr() == [RATE]
    with open_bench(given) as bench:
        assert bench.step.base_learning_rate() == pytest.approx(RATE)


@pytest.mark.parametrize("name", ["OneCycleLR", "LinearLR", "SequentialLR", "ChainedScheduler"])
def test_the_report_says_which_rate_was_read_and_the_scheduler_is_put_back(name: str) -> None:
    given, scheduler = training(ALONE[name], 3, passed=True)
    before, rate = scheduler.state_dict(), given.optimizer.param_groups[0]["lr"]  # type: ignore[union-attr]
    report = bf.find_batch_size(
        given,
        memory_limit="1MiB",
        at_most=32,
        noise=None,
        budget_seconds=2,
        observe=lambda event: None,
    )
    assert report.base_learning_rate == pytest.approx(RATE)
    assert any("peak" in caveat for caveat in report.caveats), report.caveats
    assert repr(scheduler.state_dict()) == repr(before)
    assert given.optimizer.param_groups[0]["lr"] == rate  # type: ignore[union-attr]


def test_a_rate_of_zero_is_named_and_another_is_looked_for() -> None:
    given, _ = training(ALONE["StepLR"], 0, passed=False)
    optimizer = given.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    del optimizer.param_groups[0]["initial_lr"]
    optimizer.param_groups[0]["lr"] = 0.0
    report = bf.find_batch_size(
        given, at_most=16, noise=None, budget_seconds=30, observe=lambda event: None
    )
    codes = {each.code for each in report.caveats}
    assert "base.zero_rate" in codes
    assert "base.rate_found" in codes
    assert optimizer.param_groups[0]["lr"] == 0.0
    report.apply_rate(optimizer)
    assert optimizer.param_groups[0]["lr"] == report.learning_rate > 0
