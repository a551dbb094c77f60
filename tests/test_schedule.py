"""Which schedules bring the rate down: told without a step of the scheduler."""

import functools
import math

import pytest
import torch
from torch.optim import lr_scheduler as s

import batchfinder as bf
from batchfinder.results import BatchPlan, Change, Counted, Schedule
from batchfinder.schedule import decays, schedule_of
from batchfinder.wording.advice import advice


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


def transformers_like(optimizer):
    def share(step, *, num_warmup_steps, num_training_steps):
        if step < num_warmup_steps:
            return step / num_warmup_steps
        return max(0.0, (num_training_steps - step) / (num_training_steps - num_warmup_steps))

    given = functools.partial(share, num_warmup_steps=30, num_training_steps=300)
    return s.LambdaLR(optimizer, given)


LENGTHS = {
    "one cycle": (lambda o: s.OneCycleLR(o, 0.1, total_steps=40), 40, False),
    "transformers": (transformers_like, 300, False),
    "cosine over steps": (lambda o: s.CosineAnnealingLR(o, 800), 800, False),
    "cosine over epochs": (lambda o: s.CosineAnnealingLR(o, 14), 14 * 100, True),
    "linear down": (lambda o: s.LinearLR(o, 1.0, 0.0, 800), 800, False),
    "warm-up alone": (lambda o: s.LinearLR(o, 0.1, 1.0, 200), None, False),
    "polynomial": (lambda o: s.PolynomialLR(o, 700), 700, False),
    "in sequence": (
        lambda o: s.SequentialLR(
            o, [s.LinearLR(o, 0.1, 1.0, 100), s.CosineAnnealingLR(o, 900)], [100]
        ),
        1000,
        False,
    ),
    "chained": (
        lambda o: s.ChainedScheduler([s.LinearLR(o, 0.1, 1.0, 9), s.CosineAnnealingLR(o, 500)]),
        500,
        False,
    ),
    "steps without an end": (lambda o: s.StepLR(o, 30), None, True),
    "exponential": (lambda o: s.ExponentialLR(o, 0.99), None, False),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_how_long_the_training_is(name, optimizer) -> None:
    make, steps, in_epochs = LENGTHS[name]
    told = schedule_of([make(optimizer)], 3200, 32)  # 100 steps an epoch
    assert told is not None
    assert (told.steps, told.counts_epochs) == (steps, in_epochs)


def test_counts_of_a_stream_are_steps(optimizer) -> None:
    told = schedule_of([s.CosineAnnealingLR(optimizer, 14)], None, 32)
    assert told is not None
    assert (told.steps, told.counts_epochs, told.is_certain) == (14, False, False)


def test_no_scheduler_tells_nothing() -> None:
    assert schedule_of([], 3200, 32) is None


COUNTS = {
    "one cycle": (lambda o: s.OneCycleLR(o, 0.1, total_steps=40), {"OneCycleLR total_steps": 40}),
    "transformers": (transformers_like, {"num_warmup_steps": 30, "num_training_steps": 300}),
    "cyclic": (
        lambda o: s.CyclicLR(o, 0.01, 0.1, 300, 100),
        {"CyclicLR step_size_up": 300, "CyclicLR step_size_down": 100},
    ),
    "in sequence": (
        lambda o: s.SequentialLR(
            o, [s.LinearLR(o, 0.1, 1.0, 100), s.CosineAnnealingLR(o, 900)], [100]
        ),
        {
            "LinearLR total_iters": 100,
            "CosineAnnealingLR T_max": 900,
            "SequentialLR milestone": 100,
        },
    ),
    "milestones": (lambda o: s.MultiStepLR(o, [600]), {"MultiStepLR milestone": 600}),
    "steps": (lambda o: s.StepLR(o, 600), {"StepLR step_size": 600}),
    "restarts": (
        lambda o: s.CosineAnnealingWarmRestarts(o, 600),
        {"CosineAnnealingWarmRestarts T_0": 600},
    ),
    "exponential": (lambda o: s.ExponentialLR(o, 0.99), {"ExponentialLR gamma": 0.99}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_counted_in_steps(name, optimizer) -> None:
    make, counts = COUNTS[name]
    told = schedule_of([make(optimizer)], 3200, 32)
    assert told is not None
    assert {each.name: each.value for each in told.counted} == pytest.approx(counts)


def test_new_numbers_of_what_is_counted() -> None:
    assert Counted("T_max", 800).at(0.25) == 200
    assert Counted("gamma", 0.99, is_factor=True).at(0.25) == pytest.approx(0.99**4)


def advised(schedule):
    change = Change("sgd", 32, 128, 128, critical=96.0, schedule=schedule)
    assert change.steps_factor == pytest.approx(1.75 / 4)
    (said,) = (each for each in advice(change, BatchPlan(128)) if "scheduler counts" in each)
    return said


def test_the_new_numbers_are_listed() -> None:
    counted = (Counted("num_warmup_steps", 80), Counted("num_training_steps", 1600))
    assert advised(Schedule(True, 1600, counted, is_certain=True)) == (
        "Your scheduler counts steps: num_warmup_steps 80 -> 35, num_training_steps 1,600 -> 700 "
        "for the same loss (for the same epochs, num_training_steps -> 400)."
    )


def test_counts_of_epochs_change_only_with_the_epochs() -> None:
    counted = (Counted("CosineAnnealingLR T_max", 16),)
    assert advised(Schedule(True, 1600, counted, counts_epochs=True)) == (
        "Your scheduler counts epochs: CosineAnnealingLR T_max 16 -> 28 for the same loss (for "
        "the same epochs, CosineAnnealingLR T_max -> 16)."
    )


def test_a_call_reads_the_schedule() -> None:
    rows = torch.randn(4096, 8)
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = bf.find_batch_size(
        model,
        torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(rows, rows.argmax(1) % 4), batch_size=8
        ),
        loss_fn=torch.nn.CrossEntropyLoss(),
        optimizer=optimizer,
        scheduler=s.OneCycleLR(optimizer, 0.1, total_steps=600),
        memory_limit="1MiB",
        at_most=64,
        budget_seconds=3,
        observe=lambda event: None,
    )
    change = report.recommendation.change
    assert change is not None and change.schedule is not None
    assert (change.training_steps, change.schedule.decays) == (600, True)
    assert report.global_batch_size <= 9
    assert bf.Report.from_json(report.to_json()) == report
