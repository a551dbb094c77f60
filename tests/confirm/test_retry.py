"""What is tried after a confirmation, as plain data: no model is run."""

from dataclasses import replace

import pytest
from fakes import as_asked_for
from recommend_cases import affine, problem

from batchfinder.confirm import (
    OwnPair,
    confirm_recommendation,
    confirm_with_retries,
    is_confirmed,
    next_attempt,
)
from batchfinder.errors import LossIsNotFinite
from batchfinder.recommend import recommend
from batchfinder.results import BatchPlan, Confirmation, Judgement, Limit, Role, Why
from batchfinder.wording.advice import advice

HELD = Confirmation(BatchPlan(1), 0.1, 40, Judgement.HELD, at_double_rate=Judgement.HELD)
WHOLE = problem(affine((1, 2, 4, 8, 16), 1000), 100_000, can_accumulate=False)
WANTED = recommend(WHOLE)


def codes(recommendation):
    return [caveat.code for caveat in recommendation.caveats]


def test_the_first_attempt_is_the_recommendation():
    first = next_attempt(WANTED, [])
    assert (first.plan, first.learning_rate) == (WANTED.plan, WANTED.learning_rate)
    assert next_attempt(WANTED, [replace(HELD, plan=WANTED.plan)]) is None


def test_a_rate_that_fails_is_halved_and_then_the_batch_is():
    tried, seen = [], []
    while (attempt := next_attempt(WANTED, tried)) is not None and len(tried) < 6:
        seen.append((attempt.plan.global_batch, attempt.learning_rate))
        tried.append(failing(attempt.plan, attempt.learning_rate))
    rate = WANTED.learning_rate
    assert seen[:4] == [(16, rate), (16, rate / 2), (16, rate / 4), (16, rate / 8)]
    (eight,) = (c for c in WANTED.candidates if c.plan.global_batch == 8)
    assert seen[4] == (8, eight.learning_rate)


@pytest.mark.parametrize(
    "why", [Judgement.OUT_OF_MEMORY, Judgement.AT_THE_EDGE, Judgement.INDEX_LIMIT]
)
def test_what_is_about_size_leads_to_a_smaller_micro_batch(why):
    failed = replace(HELD, plan=WANTED.plan, judgement=why, at_double_rate=None)
    assert next_attempt(WANTED, [failed]).plan == BatchPlan(8)
    assert next_attempt(WANTED, [replace(failed, plan=BatchPlan(1))]) is None


def stops_at(ceiling):
    """Rates hold up to ``ceiling``, and with twice of it held too up to its half."""

    def attempt(plan, rate):
        if rate > ceiling:
            return replace(
                HELD, plan=plan, learning_rate=rate, judgement=Judgement.ROSE, at_double_rate=None
            )
        twice = Judgement.HELD if 2 * rate <= ceiling else Judgement.ROSE
        return replace(HELD, plan=plan, learning_rate=rate, at_double_rate=twice)

    return attempt


def failing(plan, rate):
    return replace(HELD, plan=plan, learning_rate=rate, at_double_rate=Judgement.ROSE)


def test_what_held_becomes_the_recommendation_and_says_so():
    settled, kept = confirm_with_retries(WHOLE, stops_at(WANTED.learning_rate / 1.5))
    assert is_confirmed(kept)
    assert settled.learning_rate == kept.learning_rate == WANTED.learning_rate / 4
    assert settled.rule_factor == pytest.approx(0.25)
    assert settled.plan == WANTED.plan
    (said,) = (caveat for caveat in settled.caveats if caveat.code == "confirm.failed")
    assert (said.numbers["judgement"], said.numbers["doubled"]) == ("ROSE", False)
    assert said.numbers["rates"] == (WANTED.learning_rate, WANTED.learning_rate / 2)


def test_where_nothing_holds_that_is_said():
    settled, kept = confirm_with_retries(WHOLE, stops_at(0.0))
    assert not kept.held
    assert codes(settled)[-1] == "confirm.nothing_held"
    assert (settled.plan, settled.why) == (kept.plan, Why.LAST_TRIED)


def test_where_nothing_holds_the_users_own_pair_is_kept():
    own = OwnPair(1, 0.1)
    settled, _ = confirm_with_retries(WHOLE, stops_at(0.0), own=own)
    assert (settled.plan, settled.learning_rate) == (BatchPlan(1), 0.1)
    assert settled.why is Why.YOURS_FOR_WANT_OF_BETTER

    def out_of_memory(plan, rate):
        return replace(HELD, plan=plan, judgement=Judgement.OUT_OF_MEMORY, at_double_rate=None)

    settled, kept = confirm_with_retries(WHOLE, out_of_memory, own=own)
    assert (settled.plan, settled.why) == (kept.plan, Why.LAST_TRIED)


def test_attempts_end_when_it_is_enough_with_the_last_that_held():
    tried = []

    def attempt(plan, rate):
        tried.append(rate)
        return failing(plan, rate)

    settled, kept = confirm_with_retries(WHOLE, attempt, enough=lambda: len(tried) >= 2)
    assert tried == [WANTED.learning_rate, WANTED.learning_rate / 2]
    assert settled.learning_rate == kept.learning_rate == WANTED.learning_rate / 2
    assert codes(settled)[-3:] == ["confirm.failed", "confirm.no_time", "confirm.nothing_held"]


def test_the_first_attempt_is_made_whatever_the_time():
    settled, _ = confirm_with_retries(WHOLE, failing, enough=lambda: True)
    assert settled.learning_rate == WANTED.learning_rate
    assert "confirm.nothing_held" in codes(settled)


def test_what_is_confirmed_ends_without_asking_for_time():
    def asked():
        raise AssertionError

    settled, _ = confirm_with_retries(
        WHOLE, lambda plan, rate: replace(HELD, plan=plan, learning_rate=rate), enough=asked
    )
    assert settled == WANTED


def test_a_move_out_of_memory_is_limited_by_it_and_everything_is_said_of_the_new_plan():
    whole = problem(affine((1, 2, 4, 8, 16), 1000), 100_000, can_accumulate=False, base_batch=2)

    def attempt(plan, rate):
        fits = plan.micro_batch <= 4
        judgement = Judgement.HELD if fits else Judgement.OUT_OF_MEMORY
        return replace(
            HELD,
            plan=plan,
            learning_rate=rate,
            judgement=judgement,
            at_double_rate=Judgement.HELD if fits else None,
        )

    settled, kept = confirm_with_retries(whole, attempt)
    assert kept.plan == settled.plan == BatchPlan(4)
    assert (settled.limited_by, settled.why) == (Limit.MEMORY, Why.CONFIRMED)
    assert settled.rule_factor == 1
    assert codes(settled)[-2:] == ["confirm.failed"] * 2
    said = " ".join(advice(settled.change, settled.plan))
    assert "an optimizer step now uses 2x the samples" in said
    assert "Warm-up: multiply its steps by 0.5" in said


def test_a_move_since_nothing_larger_trained_is_limited_by_the_confirmation():
    whole = problem(affine((1, 2, 4, 8, 16), 1000), 100_000, can_accumulate=False, base_batch=2)

    def attempt(plan, rate):
        judgement = Judgement.HELD if plan.micro_batch <= 8 else Judgement.ROSE
        return replace(HELD, plan=plan, learning_rate=rate, judgement=judgement)

    settled, kept = confirm_with_retries(whole, attempt, own=OwnPair(2, 1e-3))
    assert kept.plan == settled.plan == BatchPlan(8)
    assert settled.limited_by is Limit.CONFIRMATION
    refused = {c.plan.global_batch for c in settled.candidates if Role.NOT_CONFIRMED in c.roles}
    assert refused == {16}
    assert settled.within_noise is None or settled.within_noise[1] < 16


# --- the user's own pair -------------------------------------------------------------------------


def test_a_rate_is_not_lowered_past_the_users_own_which_need_only_hold_itself():
    own = WANTED.learning_rate / 3
    settled, kept = confirm_with_retries(WHOLE, stops_at(1.2 * own), own=OwnPair(1, own))
    assert settled.learning_rate == kept.learning_rate == own
    assert settled.rule_factor == pytest.approx(1 / 3)
    assert "confirm.nothing_held" not in codes(settled)


def test_where_the_users_own_rate_does_not_hold_lower_ones_are_tried():
    own = WANTED.learning_rate / 1.5
    settled, kept = confirm_with_retries(WHOLE, stops_at(0.6 * own), own=OwnPair(1, own))
    assert is_confirmed(kept)
    assert settled.learning_rate == own / 4


def test_the_users_own_rate_says_nothing_of_smaller_batches():
    own = OwnPair(2 * WANTED.plan.global_batch, WANTED.learning_rate)
    settled, _ = confirm_with_retries(WHOLE, stops_at(1.2 * WANTED.learning_rate), own=own)
    assert settled.learning_rate == WANTED.learning_rate / 2


def test_the_users_own_pair_is_kept_though_twice_its_rate_does_not_hold():
    own = OwnPair(WANTED.plan.global_batch, WANTED.learning_rate)
    settled, kept = confirm_with_retries(WHOLE, stops_at(1.2 * WANTED.learning_rate), own=own)
    assert settled == WANTED
    assert kept.double_rate_held is False


def test_a_pair_that_was_refuted_confirms_nothing():
    """The user's own rate fails; those below it hold, but never at twice themselves."""
    own = WANTED.learning_rate

    def attempt(plan, rate):
        found = failing(plan, rate)
        if rate >= own / 1.5:
            return replace(found, judgement=Judgement.ROSE, at_double_rate=None)
        return found

    settled, kept = confirm_with_retries(WHOLE, attempt, own=OwnPair(1, own))
    assert kept.learning_rate < own
    assert codes(settled)[-1] == "confirm.nothing_held"


def not_finite_from(rate):
    """NaN at this rate and above."""
    tried = []

    def attempt(plan, at):
        tried.append((plan.global_batch, at))
        held = Judgement.HELD if at < rate else Judgement.NOT_FINITE
        twice = Judgement.HELD if at < rate else None
        return replace(HELD, plan=plan, learning_rate=at, judgement=held, at_double_rate=twice)

    return attempt, tried


def test_a_loss_that_is_not_finite_at_the_users_own_pair_is_an_error():
    attempt, tried = not_finite_from(0.05)
    with pytest.raises(LossIsNotFinite, match=r"your own batch size 1 and learning rate 0\.1"):
        confirm_with_retries(WHOLE, attempt, own=OwnPair(1, 0.1))
    assert tried == [(16, WANTED.learning_rate), (1, 0.1)]


def test_where_only_a_higher_rate_is_not_finite_a_lower_one_is_tried():
    attempt, tried = not_finite_from(0.9 * WANTED.learning_rate)
    settled, _ = confirm_with_retries(WHOLE, attempt, own=OwnPair(1, 0.1))
    assert tried[1] == (1, 0.1)
    assert settled.learning_rate == WANTED.learning_rate / 2


@pytest.mark.parametrize(
    ("judgement", "effect", "words"),
    [
        (
            Judgement.RATE_NOT_KEPT,
            {"rate_kept": False},
            "training did not use the learning rate that was set",
        ),
        (Judgement.NO_UPDATE, {"made": 10}, "Wrapper made 10 of the confirmation's 40 updates"),
        (
            Judgement.NO_UPDATE,
            {"parameters_moved": False},
            "no parameter changed in the confirmation's 40 updates",
        ),
    ],
)
def test_no_rate_is_recommended_that_updates_did_not_use(judgement, effect, words):
    ran = []

    def run(plan, rate):
        ran.append(rate)
        did = replace(as_asked_for(), wrapper="Wrapper", **effect)
        return Confirmation(plan, rate, 40, judgement, effect=did)

    recommendation, confirmation = confirm_with_retries(WHOLE, run)
    assert len(ran) == 1  # a lower rate would not be used either
    assert recommendation.learning_rate is None
    assert all(each.learning_rate is None for each in recommendation.candidates)
    assert recommendation.plan == WANTED.plan == confirmation.plan
    assert any(words in caveat for caveat in recommendation.caveats)


@pytest.mark.parametrize(("clipped", "said"), [(40, True), (36, True), (35, False), (0, False)])
def test_a_training_that_is_clipped_at_nearly_every_step_is_told(clipped, said):
    did = replace(as_asked_for(), updates=40, clipped=clipped)
    settled, evidence = confirm_recommendation(
        WHOLE, lambda plan, rate: replace(HELD, plan=plan, effect=did), own=None
    )
    assert evidence.effect is did
    caveats = [each for each in settled.caveats if each.code == "confirm.clipped"]
    assert bool(caveats) is said
    assert not caveats or f"clipped in {clipped} of 40 updates" in caveats[0]
