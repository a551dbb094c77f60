"""The search, case by case."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from probe_cases import run_on, true_maximum

from batchfinder.errors import InvalidArgument
from batchfinder.probe import SearchSpace, guided, has_ended, memory_line, probe
from batchfinder.results import Limit, MemoryBreakdown, Outcome, ProbeResult, Trial

MIB = 2**20


def line(size: int) -> int:
    return 10 * MIB + 50_000 * size


def flat_then_line(size: int) -> int:
    return max(60 * MIB + 1_000 * size, line(size))


def square(size: int) -> int:
    return 10 * MIB + 3_000 * size**2


def fits(size: int, peak: int | None = None, *, disturbed: bool = False) -> Trial:
    return Trial(size, Outcome.FITS, peak, disturbed=disturbed)


def fails(size: int, peak: int | None = None, *, disturbed: bool = False) -> Trial:
    return Trial(size, Outcome.OUT_OF_MEMORY, peak, disturbed=disturbed)


# A wall that memory does not show ---------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 47, 257, 1000])
@pytest.mark.parametrize("curve", [None, lambda size: MIB, lambda size: MIB + 1000 * size])
def test_a_wall_is_found_exactly_with_at_most_four_failures(rows: int, curve) -> None:
    search = run_on(curve, SearchSpace(limit_bytes=2**34, resolution=0), rows=rows)
    assert search.found == rows
    assert rows in search.sizes
    assert rows + 1 in search.sizes  # the certificate
    assert search.failures <= 4


@pytest.mark.parametrize("outcome", [Outcome.INDEX_LIMIT, Outcome.AT_THE_EDGE, Outcome.KILLED])
def test_whatever_does_not_fit_bounds_the_search(outcome: Outcome) -> None:
    space = SearchSpace(limit_bytes=2**34, resolution=0)
    search = run_on(line, space, rows=300, outcome=outcome)
    assert search.found == 300
    assert {trial.outcome for trial in search.trials if not trial.fits} == {outcome}


def test_a_model_that_keeps_out_of_memory_far_below_the_limit_is_still_searched_cheaply() -> None:
    space = SearchSpace(limit_bytes=2**34)
    search = run_on(line, space, rows=5000)
    assert search.found >= 5000 / 1.02
    assert len(search.trials) <= 30


# Steering by the line ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [16 * MIB, 64 * MIB, 256 * MIB, 2048 * MIB, 40960 * MIB])
def test_a_line_needs_no_failure_and_little_more_than_one_full_trial(limit: int) -> None:
    search = run_on(line, SearchSpace(limit_bytes=limit))
    largest = true_maximum(line, limit)
    assert largest / 1.02 <= search.found <= largest
    assert search.failures == 0
    assert search.cost(largest) < 1.6


@pytest.mark.parametrize("curve", [line, flat_then_line, square])
@pytest.mark.parametrize("limit", [66 * MIB, 96 * MIB, 256 * MIB, 2048 * MIB])
def test_curves_of_training_steps_within_two_failures(curve, limit: int) -> None:
    search = run_on(curve, SearchSpace(limit_bytes=limit))
    largest = true_maximum(curve, limit)
    assert largest / 1.02 <= search.found <= largest
    assert search.failures <= 2
    assert search.cost(largest) < 8


@pytest.mark.parametrize("curve", [line, flat_then_line, square])
def test_the_exact_maximum_has_a_certificate(curve) -> None:
    search = run_on(curve, SearchSpace(limit_bytes=256 * MIB, resolution=0))
    largest = true_maximum(curve, 256 * MIB)
    assert search.found == largest
    assert largest + 1 in search.sizes


def test_no_jump_goes_further_than_eight_times_what_ran() -> None:
    sizes = run_on(line, SearchSpace(limit_bytes=40960 * MIB)).sizes
    assert all(after <= 8 * before for before, after in pairwise(sizes))


def test_a_plateau_is_climbed_to_the_ceiling() -> None:
    space = SearchSpace(limit_bytes=64 * MIB, ceiling=5000)
    assert run_on(lambda size: 30 * MIB + 50_000 * min(size, 4), space).found == 5000


def test_a_failure_below_a_success_does_not_hide_it() -> None:
    """A convolution that switches its algorithm: 5 … 8 fail, 9 … 40 run."""
    trials = [fits(1), fits(2), fits(4), fails(8), fits(32)]
    assert guided(trials, SearchSpace()) == 64


def test_nothing_fits_ends_at_the_smallest_size() -> None:
    search = run_on(line, SearchSpace(start=100, limit_bytes=MIB))
    assert search.sizes == [100, 25, 6, 1]
    assert search.found == 0


def test_a_start_that_is_too_large_is_left_downwards() -> None:
    search = run_on(line, SearchSpace(start=4096, limit_bytes=64 * MIB, resolution=0))
    assert search.found == true_maximum(line, 64 * MIB)


# A first guess ----------------------------------------------------------------------------------


def test_a_right_guess_needs_one_full_trial() -> None:
    largest = true_maximum(line, 256 * MIB)
    search = run_on(line, SearchSpace(limit_bytes=256 * MIB, first_guess=largest))
    assert len(search.trials) == 2
    assert search.failures == 0
    assert search.found >= largest / 1.02


@pytest.mark.parametrize("error", [0.01, 0.5, 0.8, 0.9, 1.12, 1.25, 2, 50])
@pytest.mark.parametrize("resolution", [0, 0.02])
def test_a_wrong_guess_never_changes_the_answer(error: float, resolution: float) -> None:
    largest = true_maximum(line, 256 * MIB)
    guess = int(largest * error)
    space = SearchSpace(limit_bytes=256 * MIB, first_guess=guess, resolution=resolution)
    search = run_on(line, space)
    assert search.found >= largest / (1 + resolution)
    assert search.failures <= 2


# Ceilings, multiples, powers of two -------------------------------------------------------------


@pytest.mark.parametrize("ceiling", [1, 2, 3, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("start", [1, 32, 10**6])
@pytest.mark.parametrize("guess", [None, 10**9, "the ceiling"])
def test_the_ceiling_is_reached_and_never_passed(ceiling: int, start: int, guess) -> None:
    guess = ceiling if guess == "the ceiling" else guess
    space = SearchSpace(start, ceiling, limit_bytes=64 * MIB, first_guess=guess)
    search = run_on(line, space)
    assert search.found == ceiling
    assert max(search.sizes) == ceiling
    assert search.failures == 0


def test_only_multiples_are_tried() -> None:
    space = SearchSpace(limit_bytes=64 * MIB, resolution=0, multiple_of=8)
    search = run_on(line, space)
    largest = true_maximum(line, 64 * MIB)
    assert all(size % 8 == 0 for size in search.sizes)
    assert search.found == largest - largest % 8


@pytest.mark.parametrize("resolution", [0, 0.02])
def test_only_powers_of_two_are_tried(resolution: float) -> None:
    space = SearchSpace(limit_bytes=64 * MIB, resolution=resolution, powers_of_two=True)
    search = run_on(line, space)
    assert all(size & (size - 1) == 0 for size in search.sizes)
    assert search.found == 1024
    assert search.failures == (1 if resolution == 0 else 0)


@pytest.mark.parametrize(
    ("options", "smallest"),
    [
        ({"floor": 2}, 2),
        ({"floor": 3, "multiple_of": 8}, 8),
        ({"floor": 9, "multiple_of": 8}, 16),
        ({"floor": 3, "powers_of_two": True}, 4),
    ],
)
def test_nothing_below_the_floor_is_tried(options: dict, smallest: int) -> None:
    assert run_on(line, SearchSpace(start=100, limit_bytes=MIB, **options)).sizes[-1] == smallest
    found = run_on(line, SearchSpace(limit_bytes=64 * MIB, **options))
    assert min(found.sizes) == smallest
    assert found.found >= 1024


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ceiling": 0}, "ceiling of at least 1; found 0: leave it out"),
        ({"start": 0}, "start of at least 1; found 0: leave it out"),
        ({"multiple_of": 0}, "multiple_of of at least 1; found 0: leave it out"),
        ({"floor": 0}, "floor of at least 1; found 0: leave it out"),
        ({"floor": 2, "ceiling": 1}, "ceiling 1 is below the smallest size"),
        ({"limit_bytes": 0}, "limit_bytes of at least 1; found 0: leave it out"),
        ({"resolution": 1.0}, "resolution from 0"),
        ({"resolution": -0.1}, "resolution from 0"),
        ({"ceiling": 5, "multiple_of": 8}, "ceiling 5 is below the smallest size"),
        ({"multiple_of": 12, "powers_of_two": True}, "no power of two is a multiple of 12"),
    ],
)
def test_a_space_that_cannot_be_meant(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        SearchSpace(**arguments)


# The loop ---------------------------------------------------------------------------------------


def test_a_disturbed_trial_is_repeated_once_and_the_repetition_counts() -> None:
    outcomes = {4: [fails(4, disturbed=True), fits(4, disturbed=True)]}

    def run(size: int) -> Trial:
        return outcomes[size].pop(0) if outcomes.get(size) else fits(size)

    trials = probe(run, SearchSpace(ceiling=8))
    assert [trial.batch_size for trial in trials] == [1, 2, 4, 4, 8]


def test_a_disturbed_success_that_failed_when_repeated_is_no_answer() -> None:
    trials = (fits(1), fits(2, disturbed=True), fails(2))
    memory = MemoryBreakdown(0, 0, 0, 0, 0.0, 0, MIB)
    assert ProbeResult(trials, memory, Limit.MEMORY).max_batch_size == 1
    assert guided(trials, SearchSpace()) is None


def test_a_disturbed_trial_is_repeated_whatever_the_search() -> None:
    def upwards(trials, space):
        tried = {trial.batch_size for trial in trials}
        return len(tried) + 1 if len(tried) < 3 else None

    trials = probe(lambda size: fits(size, disturbed=size > 1), SearchSpace(), propose=upwards)
    assert [trial.batch_size for trial in trials] == [1, 2, 2, 3, 3]


def test_a_search_has_not_ended_while_a_trial_is_to_be_repeated() -> None:
    space = SearchSpace(ceiling=2)
    assert has_ended([fits(1), fits(2)], space)
    assert not has_ended([fits(1), fits(2, disturbed=True)], space)
    assert has_ended([fits(1), fits(2, disturbed=True), fits(2, disturbed=True)], space)


def test_the_budget_waits_for_a_success_that_holds() -> None:
    outcomes = iter([fits(1, disturbed=True), fails(1)])
    assert len(probe(lambda size: next(outcomes), SearchSpace(), enough=lambda: False)) == 2
    outcomes = iter([fails(4, disturbed=True), fits(4), fits(8)])
    trials = probe(lambda size: next(outcomes), SearchSpace(start=4), enough=lambda: True)
    assert [trial.fits for trial in trials] == [False, True]


def test_every_trial_is_observed_in_order() -> None:
    seen: list[object] = []
    trials = probe(fits, SearchSpace(ceiling=50), observe=seen.append)
    assert tuple(seen) == trials


def test_a_saved_search_goes_on_where_it_ended() -> None:
    space = SearchSpace(limit_bytes=64 * MIB, resolution=0)
    whole = run_on(line, space).trials
    for count in range(len(whole)):
        rest = iter(whole[count:])
        again = probe(lambda size, rest=rest: next(rest), space, trials=whole[:count])
        assert again == whole


def test_a_spent_budget_ends_the_search_after_something_fits() -> None:
    trials = probe(fits, SearchSpace(), enough=lambda: True)
    assert [trial.batch_size for trial in trials] == [1]


@pytest.mark.parametrize(("own", "sizes"), [(32, [1, 32]), (None, [1]), (1, [1]), (200, [1, 100])])
def test_a_spent_budget_waits_for_a_trial_of_the_user_s_own_size(own, sizes) -> None:
    trials = probe(fits, SearchSpace(ceiling=100), enough=lambda: True, own=own)
    assert [trial.batch_size for trial in trials] == sizes


def test_a_spent_budget_does_not_wait_for_an_own_size_that_cannot_fit() -> None:
    outcomes = iter([fits(1), fails(2), fails(32)])
    asked = iter([False, True, True])
    trials = probe(lambda size: next(outcomes), SearchSpace(), enough=lambda: next(asked), own=32)
    assert [trial.batch_size for trial in trials] == [1, 2]


def test_a_users_search_is_driven_and_checked() -> None:
    def upwards(trials, space):
        return len(trials) + 1 if len(trials) < 3 else None

    assert [t.batch_size for t in probe(fits, SearchSpace(), propose=upwards)] == [1, 2, 3]
    with pytest.raises(InvalidArgument, match="proposed 3; expected a size from 1 to the ceiling"):
        probe(fits, SearchSpace(ceiling=2), propose=upwards)
    with pytest.raises(InvalidArgument, match="proposed 5 again"):
        probe(fits, SearchSpace(), propose=lambda trials, space: 5)


# The memory line --------------------------------------------------------------------------------


def test_the_memory_line_through_exact_points() -> None:
    found = memory_line([fits(size, line(size)) for size in (1, 2, 4, 32)])
    assert found.per_sample_bytes == pytest.approx(50_000)
    assert found.fixed_bytes == 10 * MIB
    assert found.residual < 1e-6


def test_the_residual_says_how_far_the_line_is_off() -> None:
    found = memory_line([fits(1, 100), fits(2, 100), fits(3, 130)])
    assert found.per_sample_bytes == pytest.approx(15)
    assert found.residual == pytest.approx(0.1)


def test_only_the_last_trial_of_a_size_is_a_point() -> None:
    """A success that failed when it was repeated is none; a disturbed peak is forgotten."""
    trials = [fits(1, 100), fits(2, 900, disturbed=True), fits(2, 200), fits(4, 9, disturbed=True)]
    found = memory_line([*trials, fails(4)])
    assert (found.fixed_bytes, found.per_sample_bytes) == (0, pytest.approx(100))


def test_failed_trials_and_unknown_peaks_are_no_points() -> None:
    found = memory_line([fits(1, 100), fails(2, 900), fits(4)])
    assert (found.fixed_bytes, found.per_sample_bytes, found.residual) == (100, 0.0, math.inf)
    assert memory_line([]).residual == math.inf
