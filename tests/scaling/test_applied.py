"""After the rates were multiplied every scheduler stays at the factor times its own rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from batchfinder.errors import InvalidArgument
from batchfinder.rates import GroupRate
from batchfinder.scaling.applied import apply_once, multiply_rates

FACTOR = 3.7

SCHEDULERS = {
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda step: (step + 1) / 20),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: schedules.StepLR(o, 2),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [3, 4]),
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.1, total_iters=4),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 10),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 10, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(
        o, 4, eta_min=1e-3
    ),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.1, 3),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 0.3, total_steps=20),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=0, min_lr=0.02),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o,
        [schedules.LinearLR(o, 0.1, total_iters=3), schedules.CosineAnnealingLR(o, 9, 1e-3)],
        [3],
    ),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.LinearLR(o, 0.5, total_iters=3), schedules.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=4),
}


def made(name: str) -> tuple[torch.optim.Optimizer, object]:
    groups = [{"params": nn.Linear(2, 2).parameters(), "lr": rate} for rate in (0.1, 0.2)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    return optimizer, SCHEDULERS[name](optimizer)


def advance(optimizer: torch.optim.Optimizer, scheduler, steps: int) -> None:
    for _ in range(steps):
        optimizer.step()
        if isinstance(scheduler, schedules.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_schedule_goes_on_at_the_factor(name: str, before: int) -> None:
    plain, own = made(name)
    scaled, other = made(name)
    advance(plain, own, before)
    advance(scaled, other, before)
    multiply_rates(scaled, FACTOR, other)
    for _ in range(6):
        for left, right in zip(plain.param_groups, scaled.param_groups, strict=True):
            assert right["lr"] == pytest.approx(FACTOR * left["lr"])
        advance(plain, own, 1)
        advance(scaled, other, 1)


def test_every_scheduler_of_torch_is_here() -> None:
    offered = {
        name
        for name, kind in vars(schedules).items()
        if isinstance(kind, type)
        and issubclass(kind, schedules.LRScheduler)
        and not name.startswith("_")
    }
    assert offered - {"LRScheduler"} <= set(SCHEDULERS)


def test_a_rate_in_a_tensor_is_multiplied_in_place() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=rate, foreach=False)
    multiply_rates(optimizer, 2.0)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.2)


def test_several_optimizers_and_schedulers_each_once() -> None:
    one, two = (torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1) for _ in range(2))
    both = [schedules.ExponentialLR(each, 0.9) for each in (one, two)]
    multiply_rates({"a": one, "b": two}, 2.0, both)
    assert [each.param_groups[0]["lr"] for each in (one, two)] == pytest.approx([0.2, 0.2])


ALONE = sorted(set(SCHEDULERS) - {"SequentialLR", "ChainedScheduler", "ReduceLROnPlateau", "SWALR"})


def warmed_up(optimizer):
    return schedules.LinearLR(optimizer, 0.25, total_iters=5)


def chained(name: str):
    return lambda o: schedules.ChainedScheduler([warmed_up(o), SCHEDULERS[name](o)])


def in_sequence(name: str):
    return lambda o: schedules.SequentialLR(o, [warmed_up(o), SCHEDULERS[name](o)], [2])


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("together", [chained, in_sequence])
@pytest.mark.parametrize("name", ALONE)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_three_steps_on_with_a_warm_up(name: str, together, before: int) -> None:
    def both():
        groups = [{"params": nn.Linear(2, 2).parameters(), "lr": rate} for rate in (0.1, 0.2)]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        scheduler = together(name)(optimizer)
        advance(optimizer, scheduler, before)
        return optimizer, scheduler

    (plain, own), (scaled, other) = both(), both()
    multiply_rates(scaled, FACTOR, other)
    for _ in range(4):
        for left, right in zip(plain.param_groups, scaled.param_groups, strict=True):
            assert right["lr"] == pytest.approx(FACTOR * left["lr"])
        advance(plain, own, 1)
        advance(scaled, other, 1)


def rates_of(*bases: float) -> tuple[GroupRate, ...]:
    return tuple(GroupRate(0, i, "SGD", base, 2.0, 2 * base) for i, base in enumerate(bases))


def test_a_second_call_is_refused() -> None:
    optimizer, scheduler = made("CosineAnnealingLR")
    apply_once(optimizer, 2.0, scheduler, rates=rates_of(0.1, 0.2))
    advance(optimizer, scheduler, 3)
    before = [group["lr"] for group in optimizer.param_groups]
    with pytest.raises(InvalidArgument, match="apply_rate was already called"):
        apply_once(optimizer, 2.0, scheduler, rates=rates_of(0.1, 0.2))
    assert [group["lr"] for group in optimizer.param_groups] == before


@pytest.mark.parametrize("name", ["StepLR", "OneCycleLR", "LambdaLR"])
def test_rates_that_were_saved_and_loaded_are_known_again(name: str) -> None:
    optimizer, scheduler = made(name)
    peaks = [group.get("max_lr", group["initial_lr"]) for group in optimizer.param_groups]
    apply_once(optimizer, 2.0, scheduler, rates=rates_of(*peaks))
    advance(optimizer, scheduler, 3)
    resumed, again = made(name)
    resumed.load_state_dict(optimizer.state_dict())
    again.load_state_dict(scheduler.state_dict())
    with pytest.raises(InvalidArgument, match="apply_rate was already called"):
        apply_once(resumed, 2.0, again, rates=rates_of(*peaks))


def test_another_search_of_the_same_training_may_go_on() -> None:
    optimizer, _ = made("StepLR")
    apply_once(optimizer, 2.0, rates=rates_of(0.1, 0.2))
    apply_once(optimizer, 2.0, rates=rates_of(0.2, 0.4))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.8])


def test_rates_that_stay_may_be_applied_again() -> None:
    optimizer, _ = made("StepLR")
    for _ in range(2):
        apply_once(optimizer, 1.0, rates=(GroupRate(0, 0, "SGD", 0.1, 1.0, 0.1),))


def test_nothing_of_it_is_saved() -> None:
    optimizer, _ = made("StepLR")
    before = set(optimizer.state_dict()["param_groups"][0])
    apply_once(optimizer, 2.0, rates=rates_of(0.1, 0.2))
    assert set(optimizer.state_dict()["param_groups"][0]) == before
