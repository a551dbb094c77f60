"""A size that leaves a training too few optimizer steps is not recommended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchfinder.recommend import largest, recommend
from batchfinder.results import Counted, Limit, Schedule
from tests.support.recommend_cases import affine, problem


def long_enough(**more):
    return problem(affine(half_speed=4000), 2000, base_batch=32, base_is_yours=True, **more)


def test_without_a_length_the_batch_is_free() -> None:
    assert recommend(long_enough()).plan.global_batch > 256


@pytest.mark.parametrize(
    ("steps", "schedule", "most"),
    [
        (800, None, 128),
        (800, Schedule(decays=False), 128),
        (800, Schedule(decays=True), 51),
        (2000, Schedule(decays=True), 128),
        (100, None, 32),
    ],
)
def test_the_same_epochs_keep_enough_steps(steps, schedule, most) -> None:
    found = recommend(long_enough(training_steps=steps, schedule=schedule))
    assert found.plan.global_batch <= most
    assert 2 * found.plan.global_batch > most or found.plan.global_batch == 32
    assert found.limited_by is Limit.UPDATES
    (said,) = (c for c in found.caveats if c.code == "recommend.few_updates")
    assert f"above {most} " in said


def test_the_schedule_tells_the_length_where_the_caller_does_not() -> None:
    told = Schedule(True, 2000, (Counted("CosineAnnealingLR T_max", 2000),))
    found = recommend(long_enough(schedule=told))
    assert found.plan.global_batch <= 128
    (said,) = (c for c in found.caveats if c.code == "recommend.few_updates")
    assert "read from CosineAnnealingLR T_max: pass training_steps=" in said
    sure = recommend(long_enough(schedule=replace(told, is_certain=True)))
    assert not any("pass training_steps=" in c for c in sure.caveats)


def test_what_the_caller_says_goes_before_what_the_schedule_tells() -> None:
    told = Schedule(True, 100)
    found = recommend(long_enough(schedule=told, training_steps=10**6))
    assert found.plan.global_batch > 256
    assert found.limited_by is not Limit.UPDATES


def test_an_objective_of_the_callers_own_is_obeyed() -> None:
    found = recommend(replace(long_enough(training_steps=100), objective=largest))
    assert found.plan.global_batch == max(m.batch_size for m in long_enough().measurements)


def test_a_decayed_run_is_told_how_long_its_schedule_must_be() -> None:
    found = recommend(long_enough(training_steps=10_000, schedule=Schedule(True)))
    (said,) = (c for c in found.caveats if c.code == "recommend.decays")
    change = found.change
    assert change is not None and change.steps_factor is not None
    assert f"{round(change.steps_factor * 10_000):,} steps instead of 10,000" in said
    assert f"epochs has {round(10_000 / change.factor):,}" in said
    plain = recommend(long_enough(training_steps=10_000))
    assert not any(c.code == "recommend.decays" for c in plain.caveats)
