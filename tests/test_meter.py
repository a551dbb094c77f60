"""How far a stage is: when it is told, and what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from batchfinder.meter import Meter
from batchfinder.outcomes import Stage


class Watch:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told_after(turns: Iterable[tuple[float, int]], samples: int = 8, **given: Any) -> list[Any]:
    """What is told after each of ``turns``, given as (seconds, steps)."""
    watch = Watch()
    heard: list[Any] = []
    meter = Meter(Stage.NOISE, heard.append, clock=watch, **given)
    for seconds, steps in turns:
        watch.now += seconds
        meter(samples, steps=steps)
    return heard


def run(steps: int, each: float, **given: Any) -> list[Any]:
    return told_after([(each, 1)] * steps, 32, **given)


def test_a_stage_of_two_seconds_tells_nothing() -> None:
    assert run(199, 0.01, of=200) == []


def test_it_is_told_twice_a_second_at_most() -> None:
    heard = run(80, 0.125, of=80)
    assert [event.seconds for event in heard] == [2 + half / 2 for half in range(17)]


def test_slow_steps_are_each_told() -> None:
    assert [event.done for event in run(4, 3.0, of=4)] == [1, 2, 3, 4]


def test_what_is_told() -> None:
    last = run(24, 0.125, of=32)[-1]
    assert (last.stage, last.done, last.of, last.unit) == (Stage.NOISE, 24, 32, "steps")
    assert (last.samples_per_second, last.seconds_left) == (256.0, 1.0)


def test_the_time_ends_it_where_that_comes_first() -> None:
    assert run(24, 0.125, of=400, seconds=4.0)[-1].seconds_left == 1.0
    assert run(24, 0.125)[-1].seconds_left is None


def test_a_part_of_a_step_counts_its_samples_and_no_step() -> None:
    heard = told_after([(4, 0)], of=2)
    assert (heard[0].done, heard[0].samples_per_second, heard[0].seconds_left) == (0, 2.0, None)


def test_more_steps_than_planned_are_never_more_than_of() -> None:
    last = run(24, 0.125, of=20)[-1]
    assert (last.done, last.of, last.seconds_left) == (24, 24, 0.0)


def test_what_is_done_before_the_first_step_is_no_part_of_a_step() -> None:
    """Losses read before a confirmation: half a minute, and then a step a second."""
    heard = told_after([(30, 0), (1, 1)], of=10)
    assert [event.seconds_left for event in heard] == [None, 9.0]
