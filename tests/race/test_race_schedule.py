"""Which schedules bring the rate down: told without a step of the scheduler."""

import math

import pytest
import torch
from torch.optim import lr_scheduler as s

from batchfinder.race.schedule import decays


@pytest.fixture
def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def warm_up(step):
    return min(1.0, (step + 1) / 100)


def warm_up_and_cosine(step):
    return warm_up(step) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / 1000)))


DECAYING = {
    "step": lambda o: s.StepLR(o, 30),
    "milestones": lambda o: s.MultiStepLR(o, [10, 20]),
    "exponential": lambda o: s.ExponentialLR(o, 0.99),
    "polynomial": lambda o: s.PolynomialLR(o, 100),
    "cosine": lambda o: s.CosineAnnealingLR(o, 100),
    "restarts": lambda o: s.CosineAnnealingWarmRestarts(o, 100),
    "one cycle": lambda o: s.OneCycleLR(o, 0.1, total_steps=100),
    "plateau": s.ReduceLROnPlateau,
    "linear down": lambda o: s.LinearLR(o, 1.0, 0.0, 100),
    "a function": lambda o: s.LambdaLR(o, warm_up_and_cosine),
    "a factor a step": lambda o: s.MultiplicativeLR(o, lambda step: 0.99),
    "warm-up, then cosine": lambda o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 10), s.CosineAnnealingLR(o, 90)], [10]
    ),
    "chained": lambda o: s.ChainedScheduler([s.ConstantLR(o), s.ExponentialLR(o, 0.9)]),
}
STEADY = {
    "linear up": lambda o: s.LinearLR(o, 0.1, 1.0, 100),
    "a factor for a while": lambda o: s.ConstantLR(o, 0.3, 5),
    "cycles": lambda o: s.CyclicLR(o, 0.01, 0.1),
    "a warm-up": lambda o: s.LambdaLR(o, warm_up),
    "factors of one": lambda o: s.MultiplicativeLR(o, lambda step: 1.0),
    "warm-up, then constant": lambda o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 10), s.ConstantLR(o, 1.0, 1)], [10]
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", DECAYING)
def test_schedules_that_bring_the_rate_down(name, optimizer):
    assert decays([DECAYING[name](optimizer)])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", STEADY)
def test_schedules_that_do_not(name, optimizer):
    assert not decays([STEADY[name](optimizer)])


def test_no_schedule_is_a_constant_rate():
    assert not decays([])


def test_one_of_several_is_enough(optimizer):
    assert decays([s.ConstantLR(optimizer), s.ExponentialLR(optimizer, 0.9)])


def test_a_function_that_knows_only_so_many_steps_is_read_that_far(optimizer):
    factors = [1.0, 0.5, 0.1]
    assert decays([s.LambdaLR(optimizer, lambda step: factors[step])])


def test_the_scheduler_is_left_as_it_was(optimizer):
    scheduler = s.LambdaLR(optimizer, warm_up_and_cosine)
    before = scheduler.state_dict()
    decays([scheduler], 100)
    assert scheduler.state_dict() == before
    assert optimizer.param_groups[0]["lr"] == 0.1 * warm_up_and_cosine(0)


def test_a_schedule_of_another_library_is_told_by_its_name():
    class CosineLRScheduler: ...

    class WarmupScheduler: ...

    assert decays([CosineLRScheduler()])
    assert not decays([WarmupScheduler()])
