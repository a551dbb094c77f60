"""What holds of every search, whatever the memory does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from probe_cases import run_on, true_maximum

from batchfinder.probe import SearchSpace, probe
from batchfinder.probe.guided import cheapest_trials, failures_needed, next_drop, reach
from batchfinder.results import Outcome, Trial

MIB = 2**20
LARGEST = 1 << 24

slopes = st.integers(1_000, 20_000_000)
rests = st.integers(0, 200 * MIB)
limits = st.integers(MIB, 4096 * MIB)


@st.composite
def lines(draw: st.DrawFn) -> Callable[[int], int]:
    fixed, slope = draw(rests), draw(slopes)
    return lambda size: fixed + slope * size


@st.composite
def largest_of_lines(draw: st.DrawFn) -> Callable[[int], int]:
    several = draw(st.lists(lines(), min_size=2, max_size=4))
    return lambda size: max(one(size) for one in several)


@st.composite
def squares(draw: st.DrawFn) -> Callable[[int], int]:
    one, factor = draw(lines()), draw(st.integers(1, 100_000))
    return lambda size: one(size) + factor * size**2


@st.composite
def steps(draw: st.DrawFn) -> Callable[[int], int]:
    one, width = draw(lines()), draw(st.integers(2, 300))
    return lambda size: one(math.ceil(size / width) * width)


@st.composite
def plateaus(draw: st.DrawFn) -> Callable[[int], int]:
    one, level = draw(lines()), draw(st.integers(1, 64))
    return lambda size: one(min(size, level)) + size


@st.composite
def noisy(draw: st.DrawFn) -> Callable[[int], int]:
    one, seed = draw(lines()), draw(st.integers(1, 1000))
    width = draw(st.sampled_from([512, 2 * MIB, 20 * MIB]))

    def curve(size: int) -> int:
        wobble = 1 + 0.02 * math.sin(seed * size)
        return math.ceil(one(size) * wobble / width) * width

    return curve


@st.composite
def switching(draw: st.DrawFn) -> Callable[[int], int]:
    """An algorithm with a large workspace is chosen between two sizes."""
    one = draw(lines())
    start, length = draw(st.integers(1, 500)), draw(st.integers(1, 500))
    workspace = draw(st.integers(MIB, 1024 * MIB))
    return lambda size: one(size) + (workspace if start <= size < start + length else 0)


monotone = st.one_of(lines(), largest_of_lines(), squares(), steps(), plateaus())
convex = st.one_of(lines(), largest_of_lines(), squares())
any_curve = st.one_of(monotone, noisy(), switching())
ceilings = st.one_of(st.just(LARGEST), st.integers(1, 5000))
starts = st.sampled_from([1, 1, 2, 8, 64, 1000])
guesses = st.one_of(st.none(), st.integers(1, LARGEST))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    return SearchSpace(
        start=draw(starts),
        ceiling=draw(ceilings),
        limit_bytes=draw(limits),
        resolution=draw(st.sampled_from([0, 0.02, 0.1])),
        first_guess=draw(guesses),
    )


def check_always(search, space: SearchSpace) -> None:
    sizes = search.sizes
    assert len(sizes) == len(set(sizes)), "a size was run twice"
    assert max(sizes) <= space.ceiling
    assert min(sizes) >= space.smallest
    assert all(size % space.multiple_of == 0 for size in sizes)
    assert len(sizes) <= 150


@settings(max_examples=400, deadline=None)
@given(any_curve, spaces())
def test_no_size_twice_none_above_the_ceiling(curve, space: SearchSpace) -> None:
    search = run_on(curve, space)
    check_always(search, space)
    if search.found:
        assert curve(search.found) <= space.limit_bytes
    else:
        assert curve(1) > space.limit_bytes


@settings(max_examples=400, deadline=None)
@given(monotone, spaces())
def test_exact_where_memory_never_falls(curve, space: SearchSpace) -> None:
    space = replace(space, resolution=0)
    search = run_on(curve, space)
    largest = true_maximum(curve, space.limit_bytes, space.ceiling)
    assert search.found == largest
    assert largest in (0, space.ceiling) or largest + 1 in search.sizes, "no certificate"


@settings(max_examples=400, deadline=None)
@given(convex, limits, ceilings, st.sampled_from([0.01, 0.02, 0.05]))
def test_within_the_resolution_where_memory_is_convex(
    curve, limit: int, ceiling: int, resolution: float
) -> None:
    search = run_on(curve, SearchSpace(1, ceiling, limit, resolution))
    largest = true_maximum(curve, limit, ceiling)
    assert search.found >= math.floor(largest / (1 + resolution))


@settings(max_examples=200, deadline=None)
@given(lines(), limits)
def test_a_line_costs_no_failure_once_three_sizes_fit(curve, limit: int) -> None:
    search = run_on(curve, SearchSpace(1, LARGEST, limit))
    largest = true_maximum(curve, limit, LARGEST)
    assert search.failures <= (0 if largest > 3 else 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 1000), st.sampled_from([None, lambda n: MIB, lambda n: MIB + 10 * n]))
def test_any_wall_up_to_a_thousand_within_four_failures(rows: int, curve) -> None:
    search = run_on(curve, SearchSpace(limit_bytes=2**34, resolution=0), rows=rows)
    assert search.found == rows
    assert search.failures <= 4


@settings(max_examples=200, deadline=None)
@given(monotone, limits, st.integers(2, 32), starts, st.booleans())
def test_multiples_and_powers_of_two(
    curve, limit: int, multiple: int, start: int, powers: bool
) -> None:
    if powers:
        multiple = 1 << (multiple.bit_length() - 1)
    space = SearchSpace(
        start, LARGEST, limit, resolution=0, multiple_of=multiple, powers_of_two=powers
    )
    search = run_on(curve, space)
    check_always(search, space)
    largest = true_maximum(curve, limit, LARGEST)
    if powers:
        expected = 1 << (largest.bit_length() - 1) if largest else 0
    else:
        expected = largest - largest % multiple
    assert search.found == (expected if expected >= multiple else 0)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_even_chance_ends_in_a_size_that_ran(data: st.DataObject) -> None:
    """Outcomes and peaks drawn at random: nothing is to be learned, and nothing goes wrong."""

    def run(size: int) -> Trial:
        outcome = data.draw(st.sampled_from([Outcome.FITS, Outcome.OUT_OF_MEMORY]))
        peak = data.draw(st.one_of(st.none(), st.integers(1, 2 * 64 * MIB)))
        return Trial(size, outcome, peak, disturbed=data.draw(st.booleans()))

    space = SearchSpace(
        data.draw(starts), data.draw(ceilings), 64 * MIB, data.draw(st.sampled_from([0, 0.02]))
    )
    trials = probe(run, space)
    sizes = [trial.batch_size for trial in trials]
    assert max(sizes) <= space.ceiling
    assert len(trials) <= 200
    for trial in trials:
        if sizes.count(trial.batch_size) > 1:
            assert sizes.count(trial.batch_size) == 2
            assert trials[sizes.index(trial.batch_size)].disturbed


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 100_000), st.data())
def test_the_blind_schedule_keeps_its_promise(count: int, data: st.DataObject) -> None:
    """Whatever the wall, no more trials than granted and no more failures than planned."""
    granted = cheapest_trials(count)
    planned = failures_needed(count, granted)
    assert reach(granted, planned) >= count
    wall = data.draw(st.integers(0, count))
    low, high, trials, failures = 0, count + 1, 0, 0
    while high - low > 1:
        size = next_drop(range(low + 1, high), granted - trials)
        trials += 1
        if size <= wall:
            low = size
        else:
            high, failures = size, failures + 1
    assert low == wall
    assert trials <= granted
    assert failures <= planned
