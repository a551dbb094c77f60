"""Which rate is tried next, and what the tried ones say: exact, from numbers alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchfinder.errors import InvalidArgument, OutOfTime
from batchfinder.race import Race, carried, clipped, race_steps, run_arms, steps_at
from batchfinder.race.arithmetic import (
    ADAPTIVE,
    DECAYING,
    SGD,
    are_alike,
    averaged_share,
    best_of,
    fall_of,
    for_the_run,
    held_out_batches,
    next_arm,
    offset_of,
    open_rates,
    runs_within,
    scatter_of,
)
from batchfinder.results import RaceArm

INF = math.inf


def walk(loss_of, most=8):
    """Every number that is tried where number k has the loss ``loss_of(k)``, in order."""
    losses = {}
    while (k := next_arm(losses, most)) is not None:
        losses[k] = loss_of(k)
    return list(losses)


@pytest.mark.parametrize(
    ("best", "tried"),
    [(0, [0, 1, -1]), (2, [0, 1, 2, 3]), (-2, [0, 1, -1, -2, -3]), (1, [0, 1, 2])],
)
def test_the_walk_ends_between_two_worse_rates(best, tried):
    assert walk(lambda k: abs(k - best)) == tried


def test_rates_that_run_away_are_walked_down_from():
    assert walk(lambda k: INF if k > -2 else abs(k + 2)) == [0, -1, -2, -3]
    assert walk(lambda k: INF if k > 0 else -k) == [0, 1, -1]


def test_the_walk_has_at_most_so_many_arms():
    assert walk(lambda k: -k, most=5) == [0, 1, 2, 3, 4]
    assert walk(lambda k: INF, most=4) == [0, -1, -2, -3]


@given(st.integers(-20, 20), st.integers(3, 8))
def test_no_rate_is_tried_twice_and_never_more_than_allowed(best, most):
    tried = walk(lambda k: (k - best) ** 2, most)
    assert len(tried) == len(set(tried)) <= most
    assert max(tried) - min(tried) == len(tried) - 1  # no rate between them was left out


def test_of_equal_losses_the_lower_rate_is_the_best():
    assert best_of({0: 1.0, 1: 1.0, -1: 2.0}) == 0
    assert best_of({0: INF, 1: INF}) is None
    assert best_of({}) is None


def test_the_parabola_finds_the_minimum_of_a_parabola():
    for x in (-0.4, 0.0, 0.3):
        losses = {k: 3 + 2 * (k - 1 - x) ** 2 for k in (0, 1, 2)}
        assert offset_of(losses, 1) == pytest.approx(x)


def test_the_parabola_moves_by_half_an_octave_at_most_and_not_at_all_beside_a_cliff():
    assert offset_of({0: 1.0, 1: 1.0, 2: 9.0}, 1) == -0.5
    assert offset_of({0: 5.0, 1: 1.0, 2: 1.0}, 1) == 0.5
    assert offset_of({0: 2.0, 1: 1.0, 2: INF}, 1) == 0
    assert offset_of({1: 1.0, 2: 2.0}, 1) == 0
    assert offset_of({0: 1.0, 1: 1.0, 2: 1.0}, 1) == 0


def test_a_rate_is_carried_by_a_power_of_the_ratio_of_the_lengths():
    assert carried(0.4, 8, 1 / 3) == pytest.approx(0.2)
    assert carried(0.4, 27, 1 / 3) == pytest.approx(0.4 / 3)
    assert carried(0.4, 64, 0.0) == 0.4


def test_a_shorter_run_wants_no_more_than_the_best_rate_measured():
    assert carried(0.4, 0.1, 1 / 3) == 0.4


@given(st.floats(1, 1000), st.floats(1, 1000), st.sampled_from([ADAPTIVE, SGD, DECAYING]))
def test_a_longer_run_is_never_moved_to_a_higher_rate(one, other, fall):
    short, long = sorted((one, other))
    for rule in (1e-9, 1e9):
        most, least = (for_the_run(rule, 1.0, ratio, fall) for ratio in (short, long))
        assert least <= most * (1 + 1e-12)


def test_without_the_runs_length_the_rules_rate_is_kept_within_a_band():
    assert clipped(0.2, 0.4) == 0.2
    assert clipped(0.01, 0.4) == 0.1
    assert clipped(3.0, 0.4) == 0.4


OF_4096_TIMES = [
    (ADAPTIVE, 2**-9, 2 * 2**-4, 2**-8),
    (SGD, 2**-9, 2 * 2**-2, 2**-3),
    (DECAYING, 2**-5, 2.0, 2**-1.5),
]
"""The lowest and the highest rate that is left alone, and where others go; the race's best is 1."""


@pytest.mark.parametrize(("fall", "lowest", "highest", "aim"), OF_4096_TIMES)
def test_a_rate_that_the_race_gives_no_reason_to_leave_is_kept(fall, lowest, highest, aim):
    assert open_rates(1.0, 4096, fall) == pytest.approx((lowest, highest))
    for rule in (1.001 * lowest, (lowest * highest) ** 0.5, 0.999 * highest):
        assert for_the_run(rule, 1.0, 4096, fall) == rule


@pytest.mark.parametrize(("fall", "lowest", "highest", "aim"), OF_4096_TIMES)
def test_too_high_and_too_low_a_rate_come_to_the_same_one_inside_the_band(
    fall, lowest, highest, aim
):
    for rule in (0.999 * lowest, 1e-9, 1.001 * highest, 1e9):
        moved = for_the_run(rule, 1.0, 4096, fall)
        assert moved == pytest.approx(aim)
        assert for_the_run(moved, 1.0, 4096, fall) == moved  # asked again, it stays


def test_up_to_a_rate_that_was_best_on_one_order_the_rules_may_stay():
    """100 steps for a run of 800 under Adam: half of the highest is open, the lowest is not."""
    assert open_rates(0.01, 8, ADAPTIVE, up_to=0.04) == pytest.approx((0.01 * 8**-0.75, 0.04))
    assert for_the_run(0.04, 0.01, 8, ADAPTIVE, up_to=0.04) == 0.04
    assert for_the_run(0.04, 0.01, 8, ADAPTIVE) == pytest.approx(0.0025)
    assert open_rates(0.01, 8, ADAPTIVE, up_to=0.001) == open_rates(0.01, 8, ADAPTIVE)


def test_the_scatter_between_two_orders_is_what_their_samples_do_not_explain():
    assert scatter_of((0.45, 0.0), (0.40, 0.0)) == pytest.approx(0.05)
    assert scatter_of((0.45, 0.03), (0.40, 0.0)) == pytest.approx(0.04)
    assert scatter_of((0.45, 0.04), (0.40, 0.04)) == 0
    assert scatter_of((0.45, 0.0), (INF, 0.0)) == 0


def test_losses_are_alike_where_none_is_further_off_than_the_scatter():
    losses = {0: 0.446, 1: 0.437, -1: 0.441}
    assert are_alike(losses, 0.01)
    assert not are_alike(losses, 0.008)
    assert not are_alike({**losses, 2: INF}, 0.01)  # that one ran away says something
    assert not are_alike({0: 0.446}, 0.01)


def test_a_run_as_short_as_an_arm_takes_the_best_rate_of_the_race():
    assert for_the_run(0.001, 1.0, 1, ADAPTIVE) == 1.0
    assert for_the_run(9.0, 1.0, 0.5, SGD) == 1.0


def test_how_the_best_rate_falls_depends_on_the_optimizer_unless_the_rate_decays():
    assert fall_of("sgd-momentum", decays=False) is fall_of("sgd", decays=False) is SGD
    assert all(fall_of(each, decays=False) is ADAPTIVE for each in ("adam", "lion", "unknown"))
    assert all(fall_of(each, decays=True) is DECAYING for each in ("adam", "sgd"))
    assert DECAYING.aim < SGD.aim < ADAPTIVE.aim


@given(st.floats(1e-4, 1e4), st.floats(0.1, 1e4), st.sampled_from([ADAPTIVE, SGD, DECAYING]))
def test_no_rate_is_moved_past_where_the_race_aims(rule, ratio, fall):
    aim = carried(1.0, ratio, fall.aim)
    moved = for_the_run(rule, 1.0, ratio, fall)
    assert min(rule, aim) * (1 - 1e-9) <= moved <= max(rule, aim) * (1 + 1e-9)


def test_steps_at_another_batch_follow_the_noise_scale():
    at = {"base_batch": 32, "base_steps": 6000}
    assert steps_at(32, **at, critical=100) == 6000
    assert steps_at(256, **at, critical=256) == pytest.approx(6000 * 2 / 9)
    assert steps_at(16, **at, critical=32) == pytest.approx(6000 * 3 / 2)


def test_without_a_noise_scale_the_run_is_taken_to_be_as_long_as_any_would_make_it():
    at = {"base_batch": 32, "base_steps": 6000}
    for batch in (8, 32, 256):
        longest = max(steps_at(batch, **at, critical=critical) for critical in (1e-9, 1e9))
        assert steps_at(batch, **at, critical=None) == pytest.approx(longest)
        assert steps_at(batch, **at, critical=math.inf) == pytest.approx(longest)


def test_steps_of_an_arm():
    assert [race_steps(n) for n in (None, 300, 6000, 12_000, 10**6)] == [100, 100, 100, 200, 400]


def test_a_tenth_of_the_run_pays_for_so_many_arms():
    assert runs_within(5400, 108) == 5
    assert runs_within(1000, 108) == 0


def test_batches_held_out():
    assert held_out_batches(256, None) == 8
    assert held_out_batches(32, None) == 16
    assert held_out_batches(48, 10**6) == 10
    assert held_out_batches(256, 2100) == 2  # a quarter of the data holds two
    assert held_out_batches(256, 1000) == 0


def test_the_share_of_the_average_weights_late_steps_most():
    shares = [averaged_share(t) for t in range(1, 4)]
    assert shares == [1.0, 6 / 7, 6 / 8]


# --- a whole race --------------------------------------------------------------------------------


def arms_of(loss_of, second=None):
    """An arm function that takes 100 steps, ``second`` being the loss on the second order."""
    by_order = {1: loss_of, 2: second or loss_of}

    def arm(rate, order):
        return RaceArm(rate, by_order[order](rate), 100, order)

    return arm


def log_bowl(best):
    return lambda rate: 1 + math.log2(rate / best) ** 2


@pytest.mark.parametrize("start", [0.1, 0.025, 0.4, 0.0125])
def test_from_any_start_the_best_rate_is_found(start):
    finish = run_arms(arms_of(log_bowl(0.12)), start, most=8)
    assert finish.best_rate == pytest.approx(0.12)
    assert not finish.at_edge
    assert finish.repeated
    assert [arm.order for arm in finish.arms] == [1] * (len(finish.arms) - 1) + [2]


def test_a_winner_that_runs_away_on_a_second_order_is_stepped_down_from_and_not_refined():
    def second(rate):
        return INF if rate > 0.06 else 1.0

    finish = run_arms(arms_of(log_bowl(0.12), second), 0.1, most=8)
    assert finish.best_rate == pytest.approx(0.05)
    assert [(arm.learning_rate, arm.order) for arm in finish.arms[-2:]] == [(0.1, 2), (0.05, 2)]


def test_a_winner_by_luck_is_stepped_down_from():
    """On another order it is so bad that the mean of both is worse than the next lower rate."""
    losses = {0.05: 1.2, 0.1: 1.0, 0.2: 3.0}

    def second(rate):
        return 1.6 if rate == 0.1 else 1.25

    arms = arms_of(lambda rate: losses.get(round(rate, 4), 4.0), second)
    finish = run_arms(arms, 0.1, most=8)
    assert finish.best_rate == pytest.approx(0.05)
    assert [(arm.learning_rate, arm.order) for arm in finish.arms[-2:]] == [(0.1, 2), (0.05, 2)]


def test_arms_and_repeats_together_are_no_more_than_paid_for():
    finish = run_arms(arms_of(lambda rate: -rate), 0.1, most=8, total=5)
    assert [arm.order for arm in finish.arms] == [1, 1, 1, 1, 2]
    assert finish.at_edge
    falling = run_arms(arms_of(log_bowl(0.12), lambda rate: INF), 0.1, most=8, total=5)
    assert len(falling.arms) == 5
    assert not falling.repeated
    assert falling.best_rate == pytest.approx(0.025)


def test_where_every_rate_runs_away_there_is_no_best():
    finish = run_arms(arms_of(lambda rate: INF), 0.1, most=5)
    assert finish.best_rate is None
    assert len(finish.arms) == 5
    always = run_arms(arms_of(log_bowl(0.1), lambda rate: INF), 0.1, most=4)
    assert always.best_rate is None
    assert len(always.arms) == 3 + 4


def test_a_race_that_ends_at_its_last_arm_says_so():
    assert run_arms(arms_of(lambda rate: -rate), 0.1, most=4).at_edge


def test_a_race_out_of_time_keeps_the_best_so_far():
    left = iter([False, True, True])
    finish = run_arms(arms_of(log_bowl(0.4)), 0.1, most=8, enough=lambda: next(left))
    assert [arm.learning_rate for arm in finish.arms] == [0.1, 0.2]
    assert finish.best_rate == pytest.approx(0.2)
    assert finish.at_edge
    assert not finish.repeated


def test_rates_whose_losses_are_within_the_scatter_are_told_to_be_alike():
    losses = {0.1: 0.446, 0.2: 0.437, 0.4: 0.441}
    finish = run_arms(arms_of(lambda rate: losses[round(rate, 4)], lambda rate: 0.427), 0.1, most=8)
    assert (finish.alike, finish.scatter) == (True, pytest.approx(0.01))
    other = run_arms(arms_of(lambda rate: losses[round(rate, 4)], lambda rate: 0.436), 0.1, most=8)
    assert not other.alike


def test_the_first_winner_is_told_beside_the_one_that_holds():
    losses = {0.05: 1.2, 0.1: 1.0, 0.2: 3.0}
    arms = arms_of(lambda rate: losses.get(round(rate, 4), 4.0), lambda rate: 1.6 - rate)
    finish = run_arms(arms, 0.1, most=8)
    assert (finish.best_rate, finish.first_best_rate) == pytest.approx((0.05, 0.1))


# --- the value -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arms", [0, 2, 3])
def test_an_arm_that_no_samples_can_be_read_for_ends_the_race_and_does_not_count(arms):
    whole = arms_of(log_bowl(0.1))
    left = iter([True] * arms)

    def timed(rate, order):
        if not next(left, False):
            raise OutOfTime("no time")
        return whole(rate, order)

    finish = run_arms(timed, 0.1, most=8)
    assert len(finish.arms) == arms
    assert (finish.best_rate is None) == (arms == 0)
    assert arms == 0 or not finish.repeated


def test_a_race_is_a_value():
    assert Race() == Race()
    assert Race(steps=200).steps == 200


@pytest.mark.parametrize(
    ("wrong", "name"), [({"steps": 10}, "steps"), ({"arms": 2}, "arms"), ({"ramp": -1}, "ramp")]
)
def test_a_race_that_cannot_tell_is_refused(wrong, name):
    with pytest.raises(InvalidArgument, match=name):
        Race(**wrong)
