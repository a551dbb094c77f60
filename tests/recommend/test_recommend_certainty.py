"""How sure the choice is, against intervals that are known; and what a confirmation changes."""

import math
from dataclasses import replace

import pytest
from recommend_cases import affine, noise, recommended

from batchfinder.recommend import settled
from batchfinder.results import BatchPlan, Limit


def chosen_of(recommendation):
    (chosen,) = (each for each in recommendation.candidates if each.chosen)
    return chosen


def test_without_uncertainty_the_intervals_are_points():
    exact = recommended(affine(), noise=noise(100, 100, 100))
    for each in exact.candidates:
        assert each.relative_time_low == pytest.approx(each.relative_time)
        assert each.relative_time_high == pytest.approx(each.relative_time)


def test_the_noise_scale_reaches_the_intervals():
    """Without timing noise an option's time is monotone in φ: its interval is known exactly."""
    found = recommended(affine(half_speed=100), noise=noise(100, 50, 200))
    for each in found.candidates:
        if each.plan.accumulation_steps > 1:
            continue
        ratios = sorted(
            (1 + phi / each.plan.global_batch)
            * (1 + each.plan.global_batch / 100)
            / ((1 + phi / found.plan.global_batch) * (1 + found.plan.global_batch / 100))
            for phi in (50, 200)
        )
        assert each.relative_time_low == pytest.approx(ratios[0], rel=0.02)
        assert each.relative_time_high == pytest.approx(ratios[1], rel=0.02)


def test_an_interval_of_another_confidence_is_taken_as_such():
    """Half of all draws lie in 50-200: the 90% interval is 1.645 / 0.674 times as wide."""
    half = replace(noise(100, 50, 200), confidence=0.5)
    wide = 2 ** (1.645 / 0.6745)
    whole = noise(100, 100 / wide, 100 * wide)
    for one, other in zip(
        recommended(affine(), noise=half).candidates,
        recommended(affine(), noise=whole).candidates,
        strict=True,
    ):
        assert one.relative_time_low == pytest.approx(other.relative_time_low, rel=1e-3)
        assert one.relative_time_high == pytest.approx(other.relative_time_high, rel=1e-3)


def test_the_timing_noise_reaches_the_intervals():
    found = recommended(affine((64, 128, 512), spread=0.1), noise=noise(100, 100, 100))
    (other,) = (each for each in found.candidates if each.plan.global_batch == 512)
    # Two independent 90% intervals of ± 10%: the ratio's is ± √2 · 10%.
    half = math.log(other.relative_time_high / other.relative_time_low) / 2
    assert half == pytest.approx(math.sqrt(2) * 0.1, rel=0.05)


def test_wider_intervals_leave_more_within_noise():
    tight = recommended(affine(), noise=noise(100, 99, 101)).within_noise
    wide = recommended(affine(), noise=noise(100, 20, 500)).within_noise
    assert wide[0] <= tight[0] <= tight[1] <= wide[1]
    assert wide != tight
    assert recommended(affine(), noise=noise(100, 20, 500)).within_noise == wide


# --- after the confirmation ----------------------------------------------------------------------


def test_settling_elsewhere_moves_the_prices():
    before = recommended(affine(half_speed=100), 100, base_batch=1)
    after = settled(before, BatchPlan(64), 0.05, "128 ran out of memory.")
    assert after.plan == chosen_of(after).plan == BatchPlan(64)
    assert after.learning_rate == chosen_of(after).learning_rate == 0.05
    assert chosen_of(after).relative_time == 1
    assert "128 ran out of memory." in after.caveats
    assert settled(before, before.plan, before.learning_rate, "") is before


def test_what_is_said_after_a_move_is_true_of_the_new_plan():
    before = recommended(affine(half_speed=100), 100, base_batch=1)
    assert before.plan == BatchPlan(128)
    assert before.within_noise and before.advice and before.limited_by is not Limit.MEMORY
    after = settled(
        before, BatchPlan(64), 0.05, "Batch 128 did not hold: it ran out.", out_of_memory=True
    )
    assert after.reason.startswith("A batch of 64 at rate 0.05 is what held in the confirmation. ")
    assert "Batch 128 did not hold" in after.reason
    assert "A batch of 128" not in after.reason  # as if it were the choice
    assert after.limited_by is Limit.MEMORY
    assert Limit.MEMORY.value in after.reason
    assert before.limited_by.value not in after.reason
    assert after.within_noise is None
    (advice,) = after.advice
    assert "for a batch of 128" in advice


def test_a_rate_that_was_lowered_is_named_and_the_plan_keeps_its_reason():
    before = recommended(affine(half_speed=100), 100, base_batch=1, optimizer_family="adam")
    assert any(each.startswith("Weight decay") for each in before.advice)
    assert before.learning_rate is not None
    for halvings, words in ((1, "once"), (2, "twice"), (3, "3 times")):
        rate = before.learning_rate / 2**halvings
        after = settled(before, before.plan, rate, "The loss rose.")
        assert after.learning_rate_rule == f"{before.learning_rate_rule}, halved {words}"
        assert after.reason.endswith(before.reason)
        assert after.reason.startswith(f"A batch of {before.plan} at rate {rate:.3g} is what held")
        assert after.limited_by is before.limited_by
        assert after.within_noise == before.within_noise
        # that advice has the rate in it
        assert set(before.advice) - set(after.advice) == {
            each for each in before.advice if each.startswith("Weight decay")
        }


def test_a_move_at_the_candidates_own_rate_keeps_the_rules_name():
    before = recommended(affine(half_speed=100), 100, base_batch=1)
    (other,) = (each for each in before.candidates if each.plan == BatchPlan(64))
    after = settled(before, other.plan, other.learning_rate, "128 ran out.", out_of_memory=True)
    assert after.learning_rate_rule == before.learning_rate_rule


def test_a_plan_that_did_not_hold_either_is_not_said_to_have():
    before = recommended(affine(half_speed=100), 100, base_batch=1)
    after = settled(before, BatchPlan(64), 0.05, "Nothing did.", held=False)
    assert after.reason.startswith("A batch of 64 at rate 0.05 is what was tried last. ")


def test_the_first_choice_kept_for_want_of_better_has_its_caveat():
    before = recommended(affine(half_speed=100), 100, base_batch=1)
    after = settled(before, before.plan, before.learning_rate, "Nothing was confirmed.")
    assert after.caveats[-1] == "Nothing was confirmed."
    assert after.reason == before.reason
