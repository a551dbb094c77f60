"""The search does not go where a step takes too long, and says so."""

from __future__ import annotations

import pytest

from batchfinder.probe import (
    SearchSpace,
    guided,
    not_tried_for_time,
    probe,
    step_seconds_at,
    within_time,
)
from batchfinder.results import Outcome, Trial

GIB = 2**30


def timed(seconds, limit: int = 16 * GIB, bytes_per_sample: int = 600_000):
    """Trials of a device whose steps take ``seconds(size)``."""

    def run(size: int) -> Trial:
        peak = 10**8 + bytes_per_sample * size
        outcome = Outcome.FITS if peak <= limit else Outcome.OUT_OF_MEMORY
        return Trial(size, outcome, peak, 2 * seconds(size), step_seconds=seconds(size))

    return run


@pytest.mark.parametrize("floor", [0.0, 0.007, 0.5])
@pytest.mark.parametrize("guess", [None, 26_068])
@pytest.mark.parametrize("start", [1, 2, 64])
def test_no_step_takes_longer_than_its_share(floor: float, guess: int | None, start: int) -> None:
    run = timed(lambda size: floor + 0.004 * size)
    space = SearchSpace(start, limit_bytes=16 * GIB, first_guess=guess)
    search = within_time(guided, 10.0)
    trials = probe(run, space, propose=search)
    assert max(trial.step_seconds for trial in trials) <= 10.0
    largest = max(trial.batch_size for trial in trials)
    assert floor + 0.004 * largest >= 10.0 / 2  # not far below what time allows
    assert len(trials) <= 14
    slow = not_tried_for_time(trials, space, guided, 10.0)
    assert slow is not None
    size, seconds = slow
    assert size > largest and seconds == pytest.approx(floor + 0.004 * size, rel=0.05)


@pytest.mark.parametrize("guess", [None, 26_068])
def test_the_users_own_size_is_tried_however_long_it_takes_and_no_larger_one(
    guess: int | None,
) -> None:
    run = timed(lambda size: 0.01 * size)
    space = SearchSpace(limit_bytes=16 * GIB, first_guess=guess)
    trials = probe(run, space, propose=within_time(guided, 1.0, 300))
    assert max(trial.batch_size for trial in trials) == 300
    assert all(trial.batch_size <= 100 for trial in trials if trial.batch_size != 300)
    slow = not_tried_for_time(trials, space, guided, 1.0, 300)
    assert slow is not None and slow[0] > 300


@pytest.mark.parametrize("guess", [None, 26_068])
def test_steps_that_are_slow_from_the_first_do_not_end_the_search_below_the_users_own(
    guess: int | None,
) -> None:
    run = timed(lambda size: 0.75 * size)
    space = SearchSpace(limit_bytes=16 * GIB, first_guess=guess)
    trials = probe(run, space, propose=within_time(guided, 3.0, 64))
    assert max(trial.batch_size for trial in trials) == 64
    assert len(trials) <= 4


def test_an_own_size_that_memory_has_no_room_for_is_not_waited_for() -> None:
    run = timed(lambda size: 0.001 * size, limit=GIB)
    space = SearchSpace(limit_bytes=GIB)
    trials = probe(run, space, propose=within_time(guided, 10.0, 5000))
    assert max(trial.batch_size for trial in trials if trial.fits) < 5000


def test_a_quick_training_is_searched_to_its_end() -> None:
    run = timed(lambda size: 0.001 * size**0.5)
    space = SearchSpace(limit_bytes=16 * GIB)
    trials = probe(run, space, propose=within_time(guided, 10.0))
    assert trials == probe(run, space)
    assert not_tried_for_time(trials, space, guided, 10.0) is None


def test_a_cold_start_does_not_end_the_search() -> None:
    """The first step of a process takes 0.4 s whatever its size; the next one a millisecond."""
    warm = []

    def run(size: int) -> Trial:
        seconds = 0.001 if warm else 0.4
        warm.append(size)
        return Trial(size, Outcome.FITS, 10**8 + size, 2 * seconds, step_seconds=seconds)

    space = SearchSpace(ceiling=512, limit_bytes=GIB)
    trials = probe(run, space, propose=within_time(guided, 0.5))
    assert max(trial.batch_size for trial in trials) == 512


def test_a_search_that_memory_ended_is_not_said_to_be_ended_by_time() -> None:
    run = timed(lambda size: 0.004 * size, limit=GIB)
    space = SearchSpace(limit_bytes=GIB)
    trials = probe(run, space, propose=within_time(guided, 10.0))
    assert not_tried_for_time(trials, space, guided, 10.0) is None


def test_the_expected_seconds_of_one_size_are_in_proportion() -> None:
    trials = [Trial(2, Outcome.FITS, step_seconds=0.01)]
    assert step_seconds_at(trials, 200) == pytest.approx(1.0)
    assert step_seconds_at([], 200) is None


def test_the_expected_seconds_of_two_sizes_are_on_their_line() -> None:
    points = [Trial(size, Outcome.FITS, step_seconds=0.5 + 0.01 * size) for size in (10, 100)]
    assert step_seconds_at(points, 1000) == pytest.approx(10.5)


def test_between_sizes_that_ran_the_expected_seconds_are_between_theirs() -> None:
    seen = ((1, 0.1), (64, 1.4), (128, 3.4), (370, 9.9))
    points = [Trial(size, Outcome.FITS, step_seconds=seconds) for size, seconds in seen]
    assert step_seconds_at(points, 64) == pytest.approx(1.4)
    assert step_seconds_at(points, 96) == pytest.approx(2.4)


def test_two_sizes_whose_times_scatter_do_not_hide_how_they_rise() -> None:
    """On a busy machine 32 took longer than 64; one sample shows how short a step can be."""
    seen = ((1, 0.3), (32, 2.1), (64, 1.94))
    points = [Trial(size, Outcome.FITS, step_seconds=seconds) for size, seconds in seen]
    assert step_seconds_at(points, 512) == pytest.approx(1.94 + (1.94 - 0.3) / 64 * 448)
    flat = [Trial(size, Outcome.FITS, step_seconds=0.007) for size in (1, 8, 64)]
    assert step_seconds_at(flat, 512) == pytest.approx(0.007)


def test_steps_that_grow_faster_than_in_proportion_are_expected_in_proportion() -> None:
    points = [Trial(size, Outcome.FITS, step_seconds=0.01 * size**2) for size in (10, 20)]
    assert step_seconds_at(points, 40) == pytest.approx(8.0)


def test_each_size_is_announced_with_the_trials_before_it() -> None:
    told = []
    trials = probe(
        timed(lambda size: 0.1),
        SearchSpace(ceiling=4),
        before=lambda size, before: told.append((size, len(before))),
    )
    assert told == [(trial.batch_size, count) for count, trial in enumerate(trials)]
