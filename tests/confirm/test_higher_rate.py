"""A higher rate is tried only where twice the rate led, and kept only where it holds."""

from dataclasses import replace

import pytest
import torch
from recommend_cases import affine, noise, problem
from test_confirm import Bowl, run
from test_retry import HELD, codes
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.confirm import Trace, higher_rate, lead, leads, try_higher_rate
from batchfinder.noise import MicroBatchVariance
from batchfinder.recommend import recommend
from batchfinder.results import Judgement
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
        ({"at_double_rate": Judgement.ROSE}, False),
        ({"judgement": Judgement.ROSE}, False),
        ({"steps": 39}, False),
    ],
)
def test_only_a_clear_lead_of_an_accepted_and_long_enough_branch_counts(change, expected):
    assert leads(replace(LED, **change)) is expected


LED = replace(HELD, steps=40, double_rate_lead=0.2)


# --- what to do about it -------------------------------------------------------------------------


def whole(**more):
    """From batch 1: φ = 20 picks a smaller batch than its upper end, 80."""
    given = {"noise": noise(20, 10, 80), "can_accumulate": False, **more}
    return problem(affine((1, 2, 4, 8, 16, 32), 20), **given)


def test_a_higher_rate_is_twice_the_rules_at_the_upper_end_and_at_most_linear():
    choice = higher_rate(whole())
    at_end = recommend(whole().at_noise(at_upper_end(noise(20, 10, 80))))
    assert choice.plan == at_end.plan
    assert choice.learning_rate == pytest.approx(
        min(2 * at_end.learning_rate, 0.1 * at_end.plan.global_batch)
    )
    assert choice.critical == 80
    adam = higher_rate(whole(optimizer_family="adam"))
    assert adam.learning_rate == pytest.approx(2 * adam.problem.rate_at(adam.plan.global_batch))


@pytest.mark.parametrize(
    "more",
    [
        {"noise": None},
        {"base_learning_rate": None},
        {"rule": fixed},
        {"optimizer_family": "unknown"},
        {"optimizer_family": "parameter-free"},
        {"base_batch": 32},
    ],
)
def test_where_no_cap_was_too_low_there_is_none(more):
    assert higher_rate(whole(**more)) is None


def confirmation_of(before, **changes):
    return replace(LED, plan=before.plan, learning_rate=before.learning_rate, **changes)


def attempt(evidence=None, outcome=LED, asked=None, **more):
    """The result, and what was run."""
    ran, asked = [], asked or whole(optimizer_family="adam")
    before = recommend(asked)

    def go(plan, rate):
        ran.append((plan, rate))
        return replace(outcome, plan=plan, learning_rate=rate, double_rate_lead=0.0)

    evidence = evidence or confirmation_of(before)
    found = try_higher_rate(asked, (before, evidence), go, **more)
    return (*found, ran, before)


def test_a_lead_leads_to_the_choice_at_the_upper_end_at_twice_its_rate():
    settled, evidence, ran, before = attempt()
    assert settled.plan.global_batch > before.plan.global_batch
    assert ran == [(settled.plan, settled.learning_rate)]
    assert (evidence.plan, evidence.learning_rate) == ran[0]
    assert settled.rule_factor == pytest.approx(2)
    why = settled.caveats[-1]
    assert (why.code, why.numbers["critical"]) == ("confirm.raised", 80)
    assert "at least 20% more in 40 steps" in why
    (chosen,) = (each for each in settled.candidates if each.chosen)
    assert (chosen.plan, chosen.learning_rate) == ran[0]


def test_without_a_lead_nothing_more_is_run_or_said():
    before = recommend(whole(optimizer_family="adam"))
    evidence = confirmation_of(before, double_rate_lead=0.05)
    assert attempt(evidence)[:3] == (before, evidence, [])


@pytest.mark.parametrize(
    "more", [{"noise": None}, {"rule": fixed}, {"base_batch": 32}, {"optimizer_family": "lion"}]
)
def test_a_lead_is_told_even_where_the_plan_stays(more):
    settled, _, ran, before = attempt(asked=whole(**more))
    assert ran == []
    assert (settled.plan, settled.learning_rate) == (before.plan, before.learning_rate)
    said = settled.caveats[-1]
    assert said.code == "confirm.lead"
    assert f"try {2 * before.learning_rate:.3g}" in said


def test_an_optimizer_that_finds_its_own_rate_is_not_told_to_take_twice_of_it():
    asked = whole(optimizer_family="parameter-free")
    evidence = confirmation_of(recommend(asked))
    found = recommend(asked), evidence
    assert leads(evidence)
    assert try_higher_rate(asked, found, None) == found


def test_a_rate_that_was_lowered_is_not_raised_again():
    asked = whole(optimizer_family="adam")
    first = recommend(asked)
    lower = recommend(asked, plan=first.plan, learning_rate=first.learning_rate / 2)
    evidence = confirmation_of(lower)
    assert try_higher_rate(asked, (lower, evidence), None) == (lower, evidence)


def test_a_higher_rate_that_does_not_hold_is_dropped_and_said():
    failed = replace(LED, at_double_rate=Judgement.ROSE, first_loss=1.0)
    failed = replace(failed, double_rate_last_loss=2.0)
    settled, kept, ran, before = attempt(outcome=failed)
    assert kept.plan == before.plan
    assert len(ran) == 1
    assert (settled.plan, settled.learning_rate) == (before.plan, before.learning_rate)
    assert settled.caveats[-1].code == "confirm.lead_failed"
    assert "was not confirmed: at twice that rate the loss rose from 1 to 2" in settled.caveats[-1]


def test_without_time_it_is_only_said():
    settled, _, ran, before = attempt(enough=lambda: True)
    assert ran == []
    assert settled.plan == before.plan
    assert settled.caveats[-1].code == "confirm.lead_untried"


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
        observe=lambda event: None,
        **{"at_most": 64, "noise": MicroBatchVariance(warmup_steps=40), **more},
    )


def test_a_base_rate_that_is_far_too_low_is_raised_and_the_report_says_why():
    report = far_too_careful(objective="largest")  # so that no timing decides the size
    rule = square_root_capped(1e-3, 4, report.batch_size, at_upper_end(report.noise_scale))
    assert report.batch_size > 4
    assert report.learning_rate == pytest.approx(2 * rule)
    assert report.learning_rate <= 1e-3 * report.batch_size / 4
    assert report.recommendation.rule_factor == pytest.approx(2)
    assert "then doubled because that trained faster" in " ".join(str(report).split())
    assert "confirm.raised" in codes(report)
    assert bf.Report.from_json(report.to_json()).confirmation == report.confirmation


@pytest.mark.parametrize("at_most", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_under_sgd_too_and_never_faster_than_the_batch(at_most):
    report = far_too_careful(torch.optim.SGD, objective="largest", at_most=at_most)
    assert report.batch_size == at_most
    assert report.recommendation.rule_factor > 1
    assert report.learning_rate == pytest.approx(1e-3 * report.batch_size / 4)


@pytest.mark.parametrize(
    "more",
    [
        {"noise": None},
        pytest.param({"base": 64}, marks=pytest.mark.slow),
        pytest.param({"learning_rate_rule": fixed}, marks=pytest.mark.slow),
    ],
)
def test_the_users_own_pair_and_rule_and_an_uncapped_one_are_not_raised(more):
    """At the largest size, which no timing decides; there the family's own rule is raised."""
    report = far_too_careful(objective="largest", **more)
    assert report.confirmation.double_rate_lead > 0.1
    assert report.recommendation.rule_factor == 1
    assert "confirm.lead" in codes(report)
