"""A race within a call: where it runs, what it moves, why it is refused, and all put back."""

import math
from dataclasses import replace

import pytest
import torch
from report_cases import plain
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.noise import MicroBatchVariance
from batchfinder.race import Race, Raced
from batchfinder.results import RaceArm, RaceResult
from batchfinder.scaling import linear, square_root
from batchfinder.session import Budget
from batchfinder.wording import Caveat, sentence


def data(rows=600):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(rows, 8, generator=generator)
    targets = inputs @ torch.randn(8, 1, generator=generator)
    return TensorDataset(inputs, targets + 0.1 * torch.randn(rows, 1, generator=generator))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def called(rate=0.01, rows=600, model=None, **settings):
    """One size is tried, so that the stages before the race take little time."""
    model = model or network()
    if "optimizer" not in settings:
        settings["optimizer"] = torch.optim.SGD(model.parameters(), lr=rate)
    settings = {
        "loss_fn": nn.MSELoss(),
        "noise": None,
        "at_least": 16,
        "at_most": 16,
        "memory_limit": "24MiB",
        "observe": lambda event: None,
    } | settings
    loader = DataLoader(data(rows), batch_size=16, shuffle=True)
    return bf.find_batch_size(model, loader, **settings)


def codes(report):
    return [each.code for each in report.caveats if isinstance(each, Caveat)]


# --- where there is none -------------------------------------------------------------------------


def test_without_the_length_of_the_training_nothing_is_raced_for():
    assert called().race is None


def test_a_training_that_is_too_short_to_pay_for_a_race_gets_none():
    assert called(training_steps=2000).race is None


def test_a_rule_of_the_users_own_is_not_raced_against():
    report = called(training_steps=10**6, learning_rate_rule="square_root")
    assert (report.race, report.learning_rate_rule) == (None, "square_root")


def refused(**settings):
    report = called(learning_rate_rule=Race(), **settings)
    assert report.race.best_rate is None
    assert report.race.refusal in report.caveats
    assert report.learning_rate == report.race.rule_rate
    assert report.learning_rate_rule != "race"
    return report.race.refusal.code


def test_a_step_that_updates_itself_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(model, batch):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()

    kept = {"model": model, "optimizer": optimizer, "loss_fn": None}
    assert refused(train_step=step, **kept) == "race.updates_itself"


def test_two_optimizers_of_two_models_may_work_against_each_other():
    models = [network(), network()]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.01) for each in models]

    def step(models, batch):
        forged, real = (each(batch[0]) for each in models)
        return (forged - real.detach()).square().mean() - (real - forged.detach()).mean()

    settings = {"model": models, "optimizer": optimizers, "loss_fn": None}
    assert refused(train_step=step, **settings) == "race.several_optimizers"


def test_two_optimizers_of_one_model_are_raced_for_as_one():
    from batchfinder.race.stage import _train_apart

    model = network()
    first, last = (torch.optim.SGD(model[k].parameters(), lr=0.01) for k in (0, 2))
    assert not _train_apart([first, last], [model])
    assert not _train_apart([first], [model, network()])
    assert _train_apart([first, last], [model[0], model[2]])


def test_a_loss_in_which_samples_meet_is_refused():
    def contrastive(output, target):
        near = -torch.cdist(output, target)
        return nn.functional.cross_entropy(near, torch.arange(len(near)))

    assert refused(loss_fn=contrastive) == "race.coupled"


def test_too_little_data_to_leave_any_out_is_refused():
    assert refused(rows=40) == "race.too_little_data"


def test_a_budget_without_time_for_it_is_said():
    assert refused(budget_seconds=0.001) == "race.no_time"  # over before it, on any machine


def test_the_default_budget_is_not_spent_by_a_race():
    budget = Budget(has_default=True, clock=lambda: 100.0, started=0.0)
    assert budget.left() == 0.0
    budget.beside_seconds = 90.0
    assert budget.left() == pytest.approx(50.0)
    now = [100.0]
    aside = Budget(has_default=True, clock=lambda: now[0], started=40.0)
    with aside.aside():
        now[0] += 500.0
        assert aside.left() == pytest.approx(0.0) and aside.limit_seconds == 560.0
    assert aside.beside_seconds == 500.0
    given = Budget(60.0, has_default=True, clock=lambda: 100.0, started=0.0, beside_seconds=90.0)
    assert given.left() == 0.0


# --- where there is one --------------------------------------------------------------------------


@pytest.mark.slow
def test_rates_sixteen_times_apart_come_close():
    """What is left between them is what the race cannot tell at the run's length."""
    settings = {"learning_rate_rule": Race(), "training_steps": 3000}
    low, high = (called(rate=rate, **settings) for rate in (0.0125, 0.2))
    for report in (low, high):
        assert report.learning_rate_rule == "race"
        assert report.learning_rate == report.race.learning_rate
        assert report.state_restored
        assert report.confirmation.held
        assert bf.Report.from_json(report.to_json()) == report
    assert low.race.best_rate == pytest.approx(high.race.best_rate, rel=0.5)
    assert max(high.learning_rate, low.learning_rate) < 4 * min(
        high.learning_rate, low.learning_rate
    )


@pytest.mark.slow
def test_a_long_training_is_raced_for_by_itself_and_within_a_tenth_of_it():
    report = called(rate=0.0125, training_steps=9000)
    cost = sum(arm.steps for arm in report.race.arms) + 16 * len(report.race.arms)
    assert cost <= 0.1 * report.race.run_steps
    assert report.race.best_rate > 0.0125


@pytest.mark.slow
def test_a_rate_that_moves_by_four_has_its_noise_scale_measured_again():
    seen = []
    report = called(
        rate=0.0005,
        noise=MicroBatchVariance(warmup_steps=12),
        learning_rate_rule=Race(),
        observe=seen.append,
    )
    stages = [event.stage.name for event in seen if isinstance(event, bf.results.StageStarted)]
    assert stages.count("NOISE") == 2
    assert stages.index("RACE") < len(stages) - 1 - stages[::-1].index("NOISE")
    assert {"race.moved", "race.remeasured"} <= set(codes(report))
    assert "at least" in next(c for c in report.caveats if "what trains fastest here" in c)


@pytest.mark.slow
def test_a_scheduler_that_decays_has_averaged_weights_judged():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3000)
    settings = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    report = called(learning_rate_rule=Race(), training_steps=3000, **settings)
    assert report.race.averaged
    assert report.state_restored
    assert scheduler.last_epoch == 0


# --- the rule that comes of it -------------------------------------------------------------------


def test_a_raced_rule_goes_through_the_rate_that_was_found_and_from_there_as_before():
    rule = Raced(square_root, 64, 0.5)
    assert rule(0.1, 16, 64) == 0.5
    assert rule(0.1, 16, 256) == pytest.approx(1.0)
    assert Raced(linear, 64, 0.5)(0.1, 16, 32) == pytest.approx(0.25)
    assert rule.__name__ == "race"


def test_a_race_survives_json():
    arms = (RaceArm(0.1, 0.5, 100), RaceArm(0.2, math.inf, 31), RaceArm(0.1, 0.6, 100, order=2))
    caveat = Caveat("race.extrapolated", ratio=60, trusted=40)
    race = RaceResult(
        64, arms, 100, 0.1, 0.1, 0.05, 6000.0, open_rates=(0.01, 0.1), caveats=(caveat,)
    )
    report = replace(plain(), race=race)
    again = bf.Report.from_json(report.to_json())
    assert again == report
    assert again.race == race
    assert again.race.caveats[0].numbers == {"ratio": 60, "trusted": 40}


def test_how_far_the_rate_was_moved_and_what_that_cost():
    arms = (RaceArm(0.1, 0.5, 100), RaceArm(0.2, math.inf, 31))
    race = RaceResult(64, arms, 100, 0.1, 0.1, 0.4)
    assert race.factor == pytest.approx(4)
    assert race.steps_taken == 131


def test_the_report_tells_of_the_race():
    arms = (RaceArm(0.1, 0.5, 100), RaceArm(0.2, math.inf, 31), RaceArm(0.1, 0.6, 100, order=2))
    race = RaceResult(
        64, arms, 100, 0.2, 0.1, 0.05, 800.0, open_rates=(0.02, 0.1), held_out_samples=512
    )
    said = " ".join(replace(plain(), race=race).text().split())
    assert "of 2 learning rates tried at batch size 64 for 100 optimizer steps each" in said
    assert "for a run of 800 steps this leaves 0.02 to 0.1 possible: 0.05 instead of 0.2" in said
    kept = " ".join(replace(plain(), race=replace(race, rule_rate=0.05)).text().split())
    assert "for a run of 800 steps this leaves 0.02 to 0.1 possible: 0.05 is kept" in kept
    explained = " ".join(replace(plain(), race=race).explain().split())
    assert "0.1: 0.5; 0.2: diverged after 31 steps; 0.1: 0.6 (another data order" in explained
    assert "divide the learning rate by the cube root of k" in explained


@pytest.mark.parametrize(
    "exponent, divisor",
    [
        (1 / 3, "the cube root of k: by 2 "),
        (1 / 8, "the eighth root of k:"),
        (2 / 3, "k^0.67: by 4 "),
    ],
)
def test_what_the_rate_of_a_longer_training_is_divided_by(exponent, divisor):
    said = sentence("race.longer", {"exponent": exponent})
    assert f"divide the learning rate by {divisor}" in said


def test_a_race_that_was_refused_says_why_in_the_explanation():
    refusal = Caveat("race.ranks")
    race = RaceResult(64, (), 100, 0.2, None, 0.2, refusal=refusal)
    assert str(refusal) in " ".join(replace(plain(), race=race).explain().split())
    assert "Race " not in replace(plain(), race=race).text()
