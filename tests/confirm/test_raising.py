"""A higher rate is tried only where twice the rate led, and kept only where it holds."""

from dataclasses import replace

import pytest
import torch
from recommend_cases import affine, noise, recommended
from test_attempts import HELD
from test_confirm import Bowl, run
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.confirm import Trace, bolder, lead, leads, raised
from batchfinder.noise import MicroBatchVariance
from batchfinder.scaling import at_upper_end, fixed, square_root_capped

OPENING = (1.0, 1.0)


# --- the lead ------------------------------------------------------------------------------------


def test_the_lead_is_the_share_of_the_fall_by_which_twice_the_rate_is_ahead():
    once, twice = Trace(OPENING, (0.6,) * 8), Trace(OPENING, (0.5,) * 8)
    assert lead(once, twice) == pytest.approx(0.1 / 0.4)
    assert lead(twice, once) == pytest.approx(-0.1 / 0.5)


def test_the_lead_is_two_standard_errors_below_its_mean():
    once = Trace(OPENING, (0.6,) * 16)
    twice = Trace(OPENING, (0.6,) * 12 + (0.4, 0.6, 0.4, 0.6))
    error = 0.1154700538 / 2  # the deviation of 0, .2, 0, .2, over the root of four
    assert lead(once, twice) == pytest.approx((0.1 - 2 * error) / (1 - 0.6))


def test_the_fall_too_is_taken_with_its_scatter():
    """Batches of 0.9 and 1.1 at the start: the mean of two and that of the last two scatter."""
    once, twice = Trace((0.9, 1.1), (0.6,) * 8), Trace((0.9, 1.1), (0.5,) * 8)
    error = 0.02**0.5  # the deviation of .9 and 1.1, times the root of a half and a half
    assert lead(once, twice) == pytest.approx(0.1 / (0.4 + 2 * error))
    hardly = Trace((0.9, 1.1), (0.99,) * 8)
    assert lead(hardly, twice) == pytest.approx(0.49 / (0.01 + 2 * error))


def test_what_both_traces_share_is_no_scatter():
    batches = (0.0, 0.3, -0.3, 0.1)
    once = Trace(OPENING, (0.6,) * 12 + tuple(0.6 + b for b in batches))
    twice = Trace(OPENING, (0.5,) * 12 + tuple(0.5 + b for b in batches))
    assert lead(once, twice) == pytest.approx(0.1 / (1 - once.last))


def test_a_loss_that_did_not_fall_has_no_lead():
    flat = Trace(OPENING, (1.0,) * 8)
    assert lead(flat, Trace(OPENING, (0.5,) * 8)) is None


def test_on_a_quadratic_the_lead_is_that_of_its_closed_form():
    """w shrinks by 1 - 4 · rate a step; 40 steps, the rate rising over ten; step 2 not in it."""
    rate = 0.002

    def losses(top):
        weight, seen = 1.0, []
        for number in range(40):
            seen.append(2 * weight**2)
            weight *= 1 - 4 * top * min(1, (number + 1) / 10)
        return sum(seen[-9:]) / 9

    found = run(Bowl(), rate)
    ahead = (losses(rate) - losses(2 * rate)) / (2 - losses(rate))
    assert 0.9 * ahead < found.double_rate_lead <= ahead


def test_where_twice_the_rate_does_not_hold_there_is_no_lead():
    assert run(Bowl(), 0.6 * 2 / 4).double_rate_lead is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"double_rate_lead": 0.09}, False),
        ({"double_rate_lead": None}, False),
        ({"double_rate_held": False}, False),
        ({"held": False}, False),
        ({"steps": 39}, False),
    ],
)
def test_only_a_clear_lead_of_an_accepted_and_long_enough_branch_counts(change, expected):
    assert leads(replace(LED, **change)) is expected


LED = replace(HELD, steps=40, double_rate_held=True, double_rate_lead=0.2)


# --- what to do about it -------------------------------------------------------------------------


def choice(critical=20, **more):
    """From batch 1: φ = 20 picks a smaller batch than φ = 80."""
    return recommended(affine((1, 2, 4, 8, 16, 32), 20), critical, can_accumulate=False, **more)


def test_a_bolder_rate_is_twice_the_rule_s_and_at_most_the_highest():
    before = choice()
    rate = before.learning_rate
    assert bolder(before, 100.0, 80.0).learning_rate == 2 * rate
    assert bolder(before, 1.5 * rate, 80.0).learning_rate == 1.5 * rate
    assert bolder(before, rate, 80.0) is None
    assert bolder(before, None, 80.0) is None
    assert bolder(replace(before, learning_rate=None), 100.0, 80.0) is None


def test_without_a_noise_scale_no_cap_was_too_low():
    assert bolder(choice(), 100.0, None) is None


def confirmation_of(before, **changes):
    return replace(LED, plan=before.plan, learning_rate=before.learning_rate, **changes)


def attempt(before, evidence, outcome=LED, **more):
    """The result, and what was run."""
    ran = []

    def go(plan, rate):
        ran.append((plan, rate))
        return replace(outcome, plan=plan, learning_rate=rate, double_rate_lead=0.0)

    after = choice(80)
    found = raised(before, (before, evidence), go, lambda: bolder(after, 100.0, 80.0), **more)
    return (*found, ran, after)


def test_a_lead_leads_to_the_choice_at_the_upper_end_at_twice_its_rate():
    before = choice()
    settled, evidence, ran, after = attempt(before, confirmation_of(before))
    assert after.plan.global_batch > before.plan.global_batch
    assert ran == [(after.plan, 2 * after.learning_rate)]
    assert (settled.plan, settled.learning_rate) == ran[0]
    assert (evidence.plan, evidence.learning_rate) == ran[0]
    assert settled.learning_rate_rule == f"{after.learning_rate_rule}, raised 2x"
    *others, why = settled.caveats
    assert tuple(others) == after.caveats
    assert "20% further in 40 steps" in why
    assert "a noise scale of 80" in why
    (chosen,) = (each for each in settled.candidates if each.chosen)
    assert (chosen.plan, chosen.learning_rate) == ran[0]


def test_without_a_lead_nothing_more_is_run():
    before = choice()
    evidence = confirmation_of(before, double_rate_lead=0.05)
    assert attempt(before, evidence)[:3] == (before, evidence, [])


def test_a_choice_that_was_changed_by_its_confirmation_is_not_raised():
    """Its rate was halved since twice of it did not hold: that rate is not tried again."""
    before = choice()
    evidence = replace(confirmation_of(before), learning_rate=before.learning_rate / 2)
    assert attempt(before, evidence)[:3] == (before, evidence, [])


def test_a_bolder_choice_that_does_not_hold_is_dropped_and_said():
    before = choice()
    failed = replace(LED, double_rate_held=False, reason="it rose")
    evidence = confirmation_of(before)
    settled, kept, ran, after = attempt(before, evidence, failed)
    assert kept is evidence
    assert len(ran) == 1
    assert (settled.plan, settled.learning_rate) == (before.plan, before.learning_rate)
    assert f"a batch of {after.plan} at rate" in settled.caveats[-1]
    assert "it rose" in settled.caveats[-1]
    assert "too low" not in settled.caveats[-1]


def test_without_time_it_is_only_said():
    before = choice()
    settled, _, ran, _ = attempt(before, confirmation_of(before), enough=lambda: True)
    assert ran == []
    assert settled.plan == before.plan
    assert "no time was left to try a higher rate" in settled.caveats[-1]
    assert "too low" not in settled.caveats[-1]


def test_the_upper_end_takes_the_place_of_the_value_and_is_at_most_four_times_it():
    assert at_upper_end(noise(100, 50, 300)).value == 300
    assert at_upper_end(noise(100, 50, 9000)).value == 400
    assert at_upper_end(noise(100, 50, float("inf"))).value == 400
    assert at_upper_end(None) is None
    once = at_upper_end(noise(100, 50, 9000))
    assert at_upper_end(once) == once
    assert square_root_capped(0.1, 32, 2048, once) == square_root_capped(
        0.1, 32, 2048, noise(100, 50, 9000)
    )
    assert at_upper_end(noise(float("inf"), 50, float("inf"))).value == 200


# --- the whole call ------------------------------------------------------------------------------


def far_too_careful(optimizer=torch.optim.AdamW, base=4, **more):
    """A line to fit, at a rate at which 40 steps hardly move it."""
    torch.manual_seed(0)
    inputs = torch.randn(2048, 8)
    outputs = inputs @ torch.linspace(1, 2, 8).unsqueeze(1) + torch.randn(2048, 1)
    model = torch.nn.Linear(8, 1)
    return bf.find_batch_size(
        model,
        DataLoader(TensorDataset(inputs, outputs), batch_size=base, shuffle=True),
        loss_fn=torch.nn.functional.mse_loss,
        optimizer=optimizer(model.parameters(), lr=1e-3),
        memory_limit="256MiB",
        noise=MicroBatchVariance(warmup_steps=40),
        observe=lambda event: None,
        **{"at_most": 64, **more},
    )


def test_a_base_rate_that_is_far_too_low_is_raised_and_the_report_says_why():
    report = far_too_careful()
    rule = square_root_capped(1e-3, 4, report.batch_size, at_upper_end(report.noise_scale))
    assert report.batch_size > 4
    assert report.learning_rate == pytest.approx(2 * rule)
    assert report.learning_rate <= 1e-3 * report.batch_size / 4
    assert report.recommendation.learning_rate_rule == "square_root_capped, raised 2x"
    assert "further in 40 steps" in " ".join(str(report).split())
    assert "further in 40 steps" in " ".join(report.explain().split())
    assert bf.Report.from_json(report.to_json()).confirmation == report.confirmation


def test_under_sgd_too_and_never_faster_than_the_batch():
    report = far_too_careful(torch.optim.SGD)
    assert "raised" in report.recommendation.learning_rate_rule
    assert report.learning_rate == pytest.approx(1e-3 * report.batch_size / 4)


@pytest.mark.parametrize("more", [{"base": 64}, {"noise": None}])
def test_the_users_own_pair_and_an_uncapped_rule_are_not_raised(more):
    report = far_too_careful(**more)
    assert report.confirmation.double_rate_lead > 0.1
    assert "raised" not in report.recommendation.learning_rate_rule


def test_a_rule_of_the_users_own_is_never_overruled():
    report = far_too_careful(learning_rate_rule=fixed)
    assert report.learning_rate == 1e-3
    assert "raised" not in report.recommendation.learning_rate_rule
