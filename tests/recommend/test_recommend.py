"""The choice against closed forms: what is best, what binds, what it costs."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recommend_cases import (
    POWERS,
    affine,
    best_power,
    closed_form,
    line,
    measured,
    noise,
    problem,
    recommended,
)

from batchfinder.errors import InvalidArgument
from batchfinder.recommend import (
    fewest_samples,
    highest_throughput,
    largest,
    recommend,
    shortest_time,
)
from batchfinder.results import BatchPlan, Limit, Role, Why
from batchfinder.wording.advice import advice
from batchfinder.wording.choice import headline, why_sentence


def fastest(candidates):
    return min(candidates, key=lambda each: each.relative_time)


def codes(recommendation):
    return {caveat.code for caveat in recommendation.caveats}


def chosen_of(recommendation):
    (chosen,) = (each for each in recommendation.candidates if each.chosen)
    return chosen


@settings(max_examples=60)
@given(critical=st.floats(2, 5000), half_speed=st.floats(2, 2000))
def test_the_fastest_is_the_closed_form(critical, half_speed):
    found = recommended(affine(half_speed=half_speed), critical, objective=fastest)
    assert found.plan.global_batch == best_power(critical, half_speed)
    # The minimum is flat in log B and symmetric: the best power of two is within a factor √2.
    truth = max(closed_form(critical, half_speed), 1)
    assert abs(math.log2(found.plan.global_batch / truth)) <= 0.5 + 1e-9


@settings(max_examples=60)
@given(critical=st.floats(2, 5000), half_speed=st.floats(2, 2000))
def test_the_default_is_the_smallest_within_three_per_cent(critical, half_speed):
    found = recommended(affine(half_speed=half_speed), critical)

    def time(size):
        return (1 + critical / size) * (1 + size / half_speed)

    best = min(map(time, POWERS))
    near = [size for size in POWERS if time(size) <= 1.03 * best]
    assert found.plan.global_batch == min(near)


@pytest.mark.parametrize("yours", [{}, {"base_is_yours": True, "base_batch": 32}])
@pytest.mark.parametrize("critical", [30, 100, 250, 600, 3000])
def test_where_a_step_takes_as_long_up_to_a_size_nothing_below_it_is_chosen(critical, yours):
    """Flat up to 256 and in proportion from there: a smaller batch saves no time and costs steps.

    With a far smaller noise scale the steps saved are few, and the nearer batch is the surer one.
    """
    flat = [measured(size, max(1.0, size / 256), 0.0) for size in POWERS]
    found = recommended(flat, critical, **yours)
    assert found.plan.global_batch == 256


def test_prices_are_relative_to_the_choice_and_match_the_formulas():
    found = recommended(affine(half_speed=100), 100)
    assert found.plan == BatchPlan(128)
    by_size = {each.plan.global_batch: each for each in found.candidates}
    time = (1 + 100 / 512) * (1 + 5.12) / ((1 + 100 / 128) * (1 + 1.28))
    assert by_size[512].relative_time == pytest.approx(time)
    assert by_size[512].relative_samples == pytest.approx((1 + 5.12) / (1 + 1.28))
    assert chosen_of(found).relative_time == chosen_of(found).relative_samples == 1
    assert chosen_of(found).learning_rate == found.learning_rate


def test_the_rate_follows_the_rule_of_the_family():
    found = recommended(affine(half_speed=100), 100, base_batch=32)
    assert found.learning_rate_rule == "adascale"
    # capped at the upper end of the interval, 120
    assert found.learning_rate == pytest.approx(0.1 * (1 + 120 / 32) / (1 + 120 / 128))
    assert found.learning_rate_range == (2, 512)


def test_no_base_rate_no_rate():
    found = recommended(affine(), base_learning_rate=None)
    assert found.learning_rate is None
    assert found.learning_rate_range is None
    assert all(each.learning_rate is None for each in found.candidates)


def test_objectives_are_values():
    measurements = affine(half_speed=10)
    by_throughput = recommended(measurements, 100, objective=highest_throughput)
    # B/(1 + B/10) within 3% of its value at 4096: from B = 306 on
    assert by_throughput.plan.global_batch == 512
    assert recommended(measurements, 100, objective=largest).plan == BatchPlan(4096)
    # 1 + B/100 at most 5% above 1 + 1/100: up to B = 6, of which 4 is the fastest
    assert recommended(measurements, 100, objective=fewest_samples).plan == BatchPlan(4)
    second = recommended(measurements, 100, objective=lambda candidates: candidates[1])
    assert second.plan == BatchPlan(2)
    assert (second.why, second.objective) == (Why.OBJECTIVE, "<lambda>")


# --- the user's own size -------------------------------------------------------------------------


def yours(critical, base, spread=0.0, **more):
    """The choice of a user who trains at ``base``; steps of 1 + B / 100."""
    measurements = affine(half_speed=100, spread=spread)
    return recommended(measurements, critical, base_batch=base, base_is_yours=True, **more)


def test_never_below_yours_unless_it_is_slow():
    assert yours(100, 1).plan.global_batch == 128
    assert yours(100, 1024).plan.global_batch == 128
    # 128 against 256: 5.49 against 6.06 (10.5% more) at φ = 180, 5.66 against 6.20 (9.5%) at 190
    close = yours(190, 256)
    assert close.plan.global_batch == 256
    assert Role.YOURS in chosen_of(close).roles
    assert close.speedup is None


def test_yours_is_kept_unless_another_is_surely_faster():
    """64 takes 1.10 of the time of 128 at φ = 100 (4.20 against 4.06 · 0.94…)."""

    def time(size):
        return (1 + 100 / size) * (1 + size / 100)

    assert 1.0 < time(64) / time(128) < 1.05
    kept = yours(100, 64)
    assert (kept.plan.global_batch, kept.why) == (64, Why.YOURS_IS_AS_GOOD)
    assert time(32) / time(128) > 1.3
    moved = yours(100, 32)
    assert moved.plan.global_batch == 128
    assert moved.speedup.low > 1.05
    assert moved.speedup.low < time(32) / time(128) < 1.02 * moved.speedup.high
    vague = yours(100, 32, noise=noise(100, 5, 2000))
    assert (vague.plan.global_batch, vague.why) == (32, Why.YOURS_IS_AS_GOOD)
    assert (kept.limited_by, vague.limited_by) == (Limit.EVIDENCE, Limit.EVIDENCE)


def test_where_the_best_is_not_sure_another_that_is_takes_its_place():
    """At the lower end of the noise scale 128 is slower than 16; 64 is faster at both."""
    found = yours(400, 16, noise=noise(400, 30, 700))
    assert 16 < found.plan.global_batch < best_power(400, 100)
    assert found.speedup.low >= 1.05
    assert found.why is Why.SURELY_FASTER
    assert "3%" not in why_sentence(found)  # nor does it say that nothing is faster


def test_an_assumed_base_is_not_yours():
    found = recommended(affine(half_speed=100), 100, base_batch=64)
    assert found.plan.global_batch != 64 or found.why is not Why.YOURS_IS_AS_GOOD
    assert found.speedup is None
    assert not any(Role.YOURS in each.roles for each in found.candidates)


def test_an_objective_of_the_callers_own_is_obeyed():
    assert yours(100, 64, objective=largest).plan == BatchPlan(4096)


def test_round_sizes_go_first_among_ties():
    """181 is within 3% of the best, and so is 192."""
    sizes = (*POWERS[:7], 181, 192, 256, 512)
    found = recommended(affine(sizes, half_speed=100), 300)
    assert found.plan.micro_batch == 192
    assert recommended(affine((*POWERS[:7], 181, 512), half_speed=100), 300).plan.micro_batch == 181


def test_yours_is_a_candidate_through_accumulation():
    found = recommended(affine((1, 2, 4, 8)), 100, base_batch=24, base_is_yours=True)
    (own,) = (each for each in found.candidates if Role.YOURS in each.roles)
    assert own.plan == BatchPlan(8, 3)


# --- a plan that something else decided ----------------------------------------------------------


def test_another_plan_is_priced_and_advised_anew():
    whole = problem(affine(half_speed=100), 100, base_batch=8, optimizer_family="adam")
    first = recommend(whole)
    moved = recommend(whole, plan=BatchPlan(64), learning_rate=0.05, limited_by=Limit.MEMORY)
    assert moved.plan == chosen_of(moved).plan == BatchPlan(64)
    assert (moved.why, moved.limited_by) == (Why.CONFIRMED, Limit.MEMORY)
    assert moved.learning_rate == chosen_of(moved).learning_rate == 0.05
    assert moved.rule_factor == pytest.approx(0.05 / whole.rate_at(64))
    assert chosen_of(moved).relative_time == 1
    assert (first.change.batch, moved.change.batch) == (first.plan.global_batch, 64)
    assert moved.change.factor == 8
    assert moved.within_noise[0] <= 64 <= moved.within_noise[1]
    said = " ".join(advice(moved.change, moved.plan))
    assert "Warm-up: multiply its steps by 0.125" in said
    assert recommend(whole, plan=first.plan) == first


# --- what binds ----------------------------------------------------------------------------------


def test_noise_binds_where_larger_batches_would_be_faster_per_sample():
    found = recommended(affine(half_speed=1000), 10)
    assert found.plan.global_batch < 256
    assert found.limited_by is Limit.NOISE


def test_throughput_binds_where_they_would_not():
    saturated = [measured(size, 0.0, 0.01) for size in POWERS]
    found = recommended(saturated, 100, base_batch=1)
    assert found.limited_by is Limit.THROUGHPUT


def test_memory_binds_where_more_of_it_would_have_changed_the_choice():
    found = recommended(affine((1, 2, 4, 8), 1000), 10_000, can_accumulate=False)
    assert found.plan == BatchPlan(8)
    assert found.limited_by is Limit.MEMORY
    # The same measurements, stopped by what the caller or the dataset allows.
    for limit, change in (
        (Limit.USER, {"ceiling": 8}),
        (Limit.DATASET, {"dataset_length": 8}),
        (Limit.INDEX, {}),
    ):
        found = recommended(affine((1, 2, 4, 8), 1000), 10_000, probe_limit=limit, **change)
        if limit is not Limit.INDEX:
            assert found.plan == BatchPlan(8)
        assert found.limited_by is limit


def test_where_larger_sizes_fit_and_were_not_timed_time_is_the_limit():
    found = recommended(affine((1, 2, 4, 8), 1000), 10_000, max_batch_size=64)
    assert found.limited_by is Limit.TIME


def test_memory_does_not_bind_where_more_of_it_changes_nothing():
    found = recommended(affine((1, 2, 4, 8), 10), 1, probe_limit=Limit.MEMORY)
    assert found.limited_by is not Limit.MEMORY


def test_headroom_is_respected_and_binds_as_memory():
    # 64 · 100 bytes of 8 000: 80%. 128 · 100 was run at 12 800 of 13 000: 98.5%.
    small = recommended(
        [measured(size, 1.0, 0.001, peak=100 * size) for size in POWERS[:8]],
        10_000,
        memory=line(limit=13_000, per_sample=100),
        can_accumulate=False,
    )
    assert small.plan == BatchPlan(64)
    assert small.limited_by is Limit.MEMORY
    (top,) = (each for each in small.candidates if Role.LARGEST_THAT_FITS in each.roles)
    assert top.plan == BatchPlan(128)


@pytest.mark.parametrize(
    ("more", "largest"),
    [
        ({}, Role.LARGEST_THAT_FITS),
        ({"ceiling": 64}, Role.LARGEST_CONSIDERED),
        ({"dataset_length": 100}, Role.LARGEST_CONSIDERED),
        ({"max_batch_size": 4096}, Role.LARGEST_CONSIDERED),
    ],
)
def test_a_size_is_the_largest_or_the_fastest_only_where_none_that_is_left_out_is(more, largest):
    found = recommended(affine(POWERS[:8], 10), 100, can_accumulate=False, **more)
    roles = {role for each in found.candidates for role in each.roles}
    assert roles & {Role.LARGEST_THAT_FITS, Role.LARGEST_CONSIDERED} == {largest}
    all_were_considered = not more or "max_batch_size" in more
    assert (Role.HIGHEST_THROUGHPUT in roles) == all_were_considered


def test_where_nothing_leaves_headroom_the_choice_says_so():
    found = recommended([measured(1, peak=99), measured(2, peak=100)], memory=line(limit=100))
    assert found.plan.micro_batch in (1, 2)
    assert "recommend.no_headroom" in codes(found)


def test_beyond_memory_steps_are_accumulated():
    found = recommended(affine((1, 2, 4, 8, 16), 1, update=10.0), 10_000)
    plan = found.plan
    assert plan.micro_batch == 16
    assert plan.accumulation_steps > 1
    assert found.limited_by is Limit.MEMORY
    expected = plan.accumulation_steps * (1 + 16) + 10.0
    assert chosen_of(found).step_seconds == pytest.approx(expected)


def test_accumulation_leaves_room_for_the_gradients():
    sizes = (1, 2, 4, 8, 16)
    memory = line(limit=1000, fixed=800, per_sample=10, gradients=20)
    peaks = [measured(size, 1, 1, update=10.0, peak=800 + 10 * size) for size in sizes]
    # 16 takes 960 > 950; 8 takes 880, with the gradients of the step before 900.
    found = recommended(peaks, 10_000, memory=memory, headroom=0.05)
    assert found.plan.micro_batch == 8
    assert found.plan.accumulation_steps > 1
    assert chosen_of(found).peak_bytes == 900


def test_the_ceiling_holds_for_accumulation_too():
    found = recommended(
        affine((1, 2, 4, 8), 1, update=10.0), 10_000, ceiling=8, probe_limit=Limit.USER
    )
    assert found.plan.global_batch <= 8
    assert found.limited_by is Limit.USER


def test_devices_multiply_the_batch():
    found = recommended(affine(half_speed=100), 100, world_size=4, objective=fastest)
    # √(φ · 4h) = 200 over four devices: 64 each
    assert found.plan == BatchPlan(64, 1, 4)
    assert found.learning_rate == pytest.approx(0.1 * (1 + 120 / 4) / (1 + 120 / 256))


def test_the_dataset_bounds_the_global_batch():
    found = recommended(affine(half_speed=1000), 10_000, dataset_length=100, world_size=2)
    assert found.plan.global_batch <= 100
    assert found.limited_by is Limit.DATASET
    assert "recommend.short_epoch" in codes(found)


def test_sizes_above_the_maximum_are_no_candidates():
    found = recommended(affine(half_speed=1000), 10_000, max_batch_size=64, objective=largest)
    assert found.plan == BatchPlan(64)
    with pytest.raises(InvalidArgument, match="up to 0"):
        recommended(affine(), max_batch_size=0)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda offered: replace(offered[0], plan=BatchPlan(7)), "a candidate of 7"),
        (lambda offered: None, "None"),
        (lambda offered: offered[0].plan, "BatchPlan"),
    ],
)
def test_an_objective_must_pick_among_what_it_is_given(returned, words):
    with pytest.raises(InvalidArgument, match="return one of the given candidates") as refused:
        recommended(affine(half_speed=100), 100, objective=returned)
    assert words in str(refused.value)


# --- data, noise and their caveats ---------------------------------------------------------------


def test_a_slow_loader_is_the_step_time():
    slow = [measured(size, 1.0, 0.0, loader=0.6 * size) for size in POWERS]
    found = recommended(slow, 100)
    by_size = {each.plan.global_batch: each.step_seconds for each in found.candidates}
    assert by_size[64] == pytest.approx(38.4)
    assert by_size[1] == 1
    serial = recommended(slow, 100, workers=0)
    assert {c.plan.global_batch: c.step_seconds for c in serial.candidates}[64] == pytest.approx(
        39.4
    )


@pytest.mark.parametrize("workers", [0, 1, 4, 8])
def test_a_training_that_waits_for_data_keeps_its_batch_and_says_so(workers):
    """10 ms a sample and worker; the model takes 64 samples in 10 ms."""
    rate = 100 * max(1, workers)
    rows = [measured(size, 0.009, 1.5e-5, loader=size / rate) for size in POWERS[:10]]
    found = recommended(rows, 500, base_batch=64, base_is_yours=True, workers=workers)
    assert (found.plan.global_batch, found.why) == (64, Why.YOURS_WAITS_FOR_DATA)
    assert found.limited_by is Limit.DATA_LOADING
    assert found.loading.samples_per_second == pytest.approx(rate)
    assert found.loading.model_samples_per_second == pytest.approx(64 / 0.00996)
    assert found.loading.workers == workers
    mended = [replace(row, loader_seconds=0.0) for row in rows]
    alone = recommended(mended, 500, base_batch=64, base_is_yours=True)
    assert found.loading.plan == alone.plan
    assert alone.plan.global_batch > 64 and alone.loading is None


def test_a_loader_that_would_be_too_slow_for_a_larger_batch_limits_the_choice():
    """Steps of one second up to 512; the loader delivers 150 samples in one."""
    rows = [measured(size, 1.0, 0.0, loader=size / 150) for size in POWERS[:10]]
    found = recommended(rows, 10_000, base_batch=32, base_is_yours=True)
    assert found.limited_by is Limit.DATA_LOADING
    assert found.loading is None
    assert found.plan.global_batch == 256


def test_without_a_noise_scale_the_throughput_knee_is_chosen():
    found = recommended(affine(half_speed=10), None)
    # B/(1 + B/10) within 10% of its value at 4096: from B = 88 on
    assert found.plan.global_batch == 128
    assert codes(found) >= {"recommend.no_noise_scale"}
    assert found.limited_by is Limit.THROUGHPUT
    assert all(math.isnan(each.relative_samples) for each in found.candidates)


def test_an_open_interval_is_said():
    found = recommended(affine(), noise=noise(100, 50, math.inf))
    assert "recommend.noise_open" in codes(found)
    wide = recommended(affine(half_speed=1000), noise=noise(100, 2, 5000))
    assert "recommend.noise_wide" in codes(wide)


def test_far_from_the_base_the_rate_is_a_guess():
    found = recommended(affine(half_speed=100), 100, base_batch=2)
    assert "recommend.far_from_base" in codes(found)
    assert "recommend.far_from_base" not in codes(recommended(affine(), 100, base_batch=32))


def test_shortest_time_is_the_default():
    measurements = affine()
    assert recommended(measurements) == recommended(measurements, objective=shortest_time)


def test_without_the_noise_scale_that_was_wanted_yours_is_kept():
    """However much faster a larger batch is processed; an objective of throughput is obeyed."""
    known = problem(affine(), None, base_batch=64, base_is_yours=True)
    assert recommend(known).plan.global_batch != 64
    kept = recommend(replace(known, noise_is_wanted=True))
    assert (kept.plan.global_batch, kept.why) == (64, Why.YOURS_WITHOUT_NOISE)
    assert kept.limited_by is Limit.EVIDENCE
    assert kept.learning_rate == known.base_learning_rate
    assert "keep" in headline(kept).lower()
    assert any("your own batch size is kept" in each for each in kept.caveats)
    asked = recommend(replace(known, noise_is_wanted=True, objective=highest_throughput))
    assert asked.plan.global_batch != 64
    assumed = recommend(replace(known, noise_is_wanted=True, base_is_yours=False))
    assert assumed.why is Why.THROUGHPUT_KNEE


@pytest.mark.parametrize(
    "wrong",
    [{"step_seconds": 0.0}, {"step_seconds": -1.0}, {"samples_per_second_high": math.inf}],
)
def test_a_time_that_is_no_positive_number_is_refused_by_name(wrong: dict[str, float]) -> None:
    first, *others = affine((8, 16, 32, 64))
    with pytest.raises(
        InvalidArgument, match=r"positive times and speeds; found .* at batch size 8"
    ):
        recommended([replace(first, **wrong), *others])
