"""What is tried after a confirmation, as plain data: no model is run."""

from dataclasses import replace

import pytest
from recommend_cases import affine, recommended

from batchfinder.confirm import Known, accepted, confirmed, next_attempt
from batchfinder.recommend import settled
from batchfinder.results import BatchPlan, Confirmation, Limit

HELD = Confirmation(BatchPlan(1), 0.1, 40, held=True, reason="fine", double_rate_held=True)


def recommendation():
    return recommended(affine((1, 2, 4, 8, 16), 1000), 100_000, can_accumulate=False)


def test_the_first_attempt_is_the_recommendation():
    wanted = recommendation()
    first = next_attempt(wanted, [])
    assert (first.plan, first.learning_rate) == (wanted.plan, wanted.learning_rate)
    assert next_attempt(wanted, [replace(HELD, plan=wanted.plan)]) is None


def test_a_rate_that_fails_is_halved_and_then_the_batch_is():
    wanted, tried, seen = recommendation(), [], []
    while (attempt := next_attempt(wanted, tried)) is not None and len(tried) < 6:
        seen.append((attempt.plan.global_batch, attempt.learning_rate))
        tried.append(
            replace(
                HELD,
                plan=attempt.plan,
                learning_rate=attempt.learning_rate,
                double_rate_held=False,
            )
        )
    rate = wanted.learning_rate
    assert seen[:4] == [(16, rate), (16, rate / 2), (16, rate / 4), (16, rate / 8)]
    (eight,) = (c for c in wanted.candidates if c.plan.global_batch == 8)
    assert seen[4] == (8, eight.learning_rate)


def test_out_of_memory_leads_to_a_smaller_micro_batch():
    wanted = recommendation()
    failed = replace(HELD, plan=wanted.plan, held=False, out_of_memory=True)
    assert next_attempt(wanted, [failed]).plan == BatchPlan(8)
    at_one = replace(failed, plan=BatchPlan(1))
    assert next_attempt(wanted, [at_one]) is None


def test_what_held_becomes_the_recommendation_and_says_so():
    wanted = recommendation()
    ceiling = wanted.learning_rate / 3

    def attempt(plan, rate):
        twice = None if rate > 2 * ceiling else rate <= ceiling
        return replace(
            HELD,
            plan=plan,
            learning_rate=rate,
            held=rate <= 2 * ceiling,
            double_rate_held=twice,
            reason="the loss rose",
        )

    settled, kept = confirmed(wanted, attempt)
    assert accepted(kept)
    assert settled.learning_rate == kept.learning_rate == wanted.learning_rate / 4
    assert settled.plan == wanted.plan
    assert "the loss rose" in settled.caveats[-1]


def test_where_nothing_holds_that_is_said():
    wanted = recommendation()
    settled, kept = confirmed(
        wanted,
        lambda plan, rate: replace(HELD, plan=plan, learning_rate=rate, held=False, reason="bad"),
    )
    assert not kept.held
    assert "Nothing was confirmed" in settled.caveats[-1]
    assert settled.plan == kept.plan


def failing(plan, rate):
    return replace(HELD, plan=plan, learning_rate=rate, double_rate_held=False, reason="it rose")


def test_attempts_end_when_it_is_enough_with_the_last_that_held():
    wanted, tried = recommendation(), []

    def attempt(plan, rate):
        tried.append(rate)
        return failing(plan, rate)

    settled, kept = confirmed(wanted, attempt, enough=lambda: len(tried) >= 2)
    assert tried == [wanted.learning_rate, wanted.learning_rate / 2]
    assert settled.learning_rate == kept.learning_rate == wanted.learning_rate / 2
    assert "No time was left" in settled.caveats[-1]


def test_the_first_attempt_is_made_whatever_the_time_and_what_it_lacks_is_said():
    wanted, tried = recommendation(), []

    def attempt(plan, rate):
        tried.append(rate)
        return failing(plan, rate)

    settled, _ = confirmed(wanted, attempt, enough=lambda: True)
    assert tried == [settled.learning_rate] == [wanted.learning_rate]
    assert "Nothing was confirmed" in settled.caveats[-1]


def test_what_is_accepted_ends_without_asking_for_time():
    def asked():
        raise AssertionError

    wanted = recommendation()
    settled, _ = confirmed(wanted, lambda plan, rate: replace(HELD, plan=plan), enough=asked)
    assert settled.plan == wanted.plan


def test_a_move_out_of_memory_is_limited_by_it():
    wanted = recommendation()

    def attempt(plan, rate):
        fits = plan.micro_batch <= 4
        return replace(
            HELD,
            plan=plan,
            learning_rate=rate,
            held=fits,
            out_of_memory=not fits,
            double_rate_held=True if fits else None,
            reason="fine" if fits else "out of memory",
        )

    settled, kept = confirmed(wanted, attempt)
    assert kept.plan == settled.plan == BatchPlan(4)
    assert settled.limited_by is Limit.MEMORY
    assert settled.reason.startswith("A batch of 4 at rate")
    assert "Batch 16 did not hold: out of memory." in settled.reason


# --- the user's own pair -------------------------------------------------------------------------


def stops_at(ceiling):
    """Rates hold up to ``ceiling``, and with twice of it held too up to its half."""

    def attempt(plan, rate):
        twice = None if rate > ceiling else 2 * rate <= ceiling
        return replace(
            HELD, plan=plan, learning_rate=rate, held=rate <= ceiling, double_rate_held=twice
        )

    return attempt


def test_a_rate_is_not_lowered_past_the_users_own_which_need_only_hold_itself():
    wanted = recommendation()
    own = wanted.learning_rate / 3
    settled, kept = confirmed(wanted, stops_at(1.2 * own), known=Known(1, own))
    assert settled.learning_rate == kept.learning_rate == own
    assert settled.learning_rate_rule.endswith("lowered 3x")
    assert "Nothing was confirmed" not in " ".join(settled.caveats)


def test_where_the_users_own_rate_does_not_hold_lower_ones_are_tried():
    wanted = recommendation()
    own = wanted.learning_rate / 1.5
    settled, kept = confirmed(wanted, stops_at(0.6 * own), known=Known(1, own))
    assert accepted(kept)
    assert settled.learning_rate == own / 4


def test_the_users_own_rate_says_nothing_of_smaller_batches():
    wanted = recommendation()
    own = Known(2 * wanted.plan.global_batch, wanted.learning_rate)
    settled, _ = confirmed(wanted, stops_at(1.2 * wanted.learning_rate), known=own)
    assert settled.learning_rate == wanted.learning_rate / 2


def test_the_users_own_pair_is_kept_though_twice_its_rate_does_not_hold():
    wanted = recommendation()
    own = Known(wanted.plan.global_batch, wanted.learning_rate)
    settled, kept = confirmed(wanted, stops_at(1.2 * wanted.learning_rate), known=own)
    assert settled == wanted
    assert kept.double_rate_held is False


@pytest.mark.parametrize(
    ("factor", "said"),
    [(0.5, "halved once"), (0.25, "halved twice"), (0.77, "lowered 1.3x"), (1.5, "raised 1.5x")],
)
def test_the_rule_s_name_tells_how_far_its_rate_was_moved(factor, said):
    wanted = recommendation()
    moved = settled(wanted, wanted.plan, factor * wanted.learning_rate, "why")
    assert moved.learning_rate_rule == f"{wanted.learning_rate_rule}, {said}"


def test_a_pair_that_was_refuted_accepts_nothing():
    """The user's own rate fails; those below it hold, but never at twice themselves."""
    wanted = recommendation()
    own = wanted.learning_rate

    def attempt(plan, rate):
        return replace(
            HELD, plan=plan, learning_rate=rate, held=rate < own / 1.5, double_rate_held=False
        )

    settled_on, kept = confirmed(wanted, attempt, known=Known(1, own))
    assert kept.learning_rate < own
    assert "Nothing was confirmed" in settled_on.caveats[-1]
