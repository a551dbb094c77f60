"""Instability: named early, once per episode, and not where there is none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monitor_trainings import BROKEN, HEALTHY, Training, run

from batchfinder import TrainingMonitor
from batchfinder.monitor import Instability, Kind
from batchfinder.monitor.losses import PATIENCE, RECENT, ROW, SMOOTH, LossWatch, reference
from batchfinder.monitor.updates import Episodes, Movement, UpdateWatch, Weights, movement


def seen(loss: Callable[[int], float], steps: int, seed: int = 0) -> list[tuple[int, str]]:
    watch = LossWatch()
    found = []
    for step in range(1, steps + 1):
        found.extend((step, each.said.code) for each in watch.see(step, loss(step)))
    return found


def falling(scatter: float = 0.1, seed: int = 0) -> Callable[[int], float]:
    random.seed(seed)
    return lambda step: 0.5 + 2 * math.exp(-step / 100) + random.gauss(0, scatter)


# ---- losses -----------------------------------------------------------------------------------


def test_the_scatter_of_a_falling_loss_is_that_about_its_trend() -> None:
    generator = np.random.default_rng(0)
    losses = 10 - 0.01 * np.arange(1000) + generator.normal(0, 0.2, 1000)
    found = reference(losses)
    assert found.scatter == pytest.approx(0.2, rel=0.1)
    assert found.level == pytest.approx(np.median(losses[-RECENT:]))
    assert reference([*losses[:-1], 1e6]).scatter == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_a_falling_loss_says_nothing(seed: int) -> None:
    assert seen(falling(seed=seed), 2000) == []


def test_heavy_tails_are_seldom_spikes() -> None:
    """Student's t with three degrees of freedom: what was seen often before is no spike."""
    generator = np.random.default_rng(1)
    losses = 1 + 0.05 * np.abs(generator.standard_t(3, 10_000))
    found = [code for _, code in seen(lambda step: float(losses[step - 1]), 10_000)]
    assert found.count("monitor.spike") <= 15
    assert set(found) == {"monitor.spike", "monitor.stalled_level"}


def test_a_loss_near_zero_may_double() -> None:
    generator = np.random.default_rng(2)
    base = np.concatenate([np.linspace(2, 0.01, 300), np.full(1700, 0.01)])
    losses = base * np.exp(generator.normal(0, 0.5, 2000))
    assert seen(lambda step: float(losses[step - 1]), 2000) == []


def test_one_high_loss_is_a_spike_once_it_is_over() -> None:
    healthy = falling()
    found = seen(lambda step: 9.0 if step in {500, 501} else healthy(step), 1000)
    assert found == [(502, "monitor.spike")]


def test_a_rising_loss_diverges_long_before_it_has_doubled() -> None:
    healthy = falling()
    found = seen(lambda step: healthy(step) + max(0, step - 600) * 0.02, 700)
    first, code = found[0]
    assert code == "monitor.diverging"
    assert first - 600 <= 2 * ROW


def test_a_slow_rise_is_seen_in_the_average() -> None:
    healthy = falling(scatter=0.3)
    found = seen(lambda step: healthy(step) + max(0, step - 600) * 0.0005, 3000)
    assert {code for _, code in found} <= {"monitor.drifting", "monitor.diverging"}
    assert 600 < found[0][0] < 600 + 1200


def test_a_jump_to_a_higher_plateau_is_told_within_ten_steps() -> None:
    found = seen(lambda step: (1.0 if step < 500 else 3.0) + 0.01 * (step % 3), 1200)
    assert 500 <= found[0][0] <= 500 + ROW


def test_blowing_up_at_once_is_seen_before_there_is_a_scatter() -> None:
    assert seen(lambda step: 2.0**step, 10)[0][0] <= 8


def test_no_progress_is_told_once_there_was_time_for_it() -> None:
    random.seed(0)
    found = seen(lambda step: 2.3 + random.gauss(0, 0.05), PATIENCE + SMOOTH)
    assert [code for _, code in found] == ["monitor.stalled_level"]
    assert PATIENCE <= found[0][0] < PATIENCE + 10


def test_a_plateau_after_learning_is_no_stall() -> None:
    assert seen(falling(), 4000) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_at_once(value: float) -> None:
    (finding,) = LossWatch().see(7, value)
    assert finding.kind is Kind.NOT_FINITE
    assert "before step 7" in finding.said


def test_half_a_batch_scatters_more() -> None:
    watch = LossWatch()
    random.seed(3)
    for step in range(1, 200):
        watch.see(step, 1 + random.gauss(0, 0.05))
    assert watch.see(200, 1.45, part=True) == []
    assert watch.see(201, 1.0) == []
    assert watch.see(202, 4.0, part=True) == []
    assert [each.kind for each in watch.see(203, 1.0)] == [Kind.SPIKE]


# ---- updates ----------------------------------------------------------------------------------


def moved(cosines: tuple[float, ...] = (0.5, 0.5), ratio: float = 1e-3) -> Movement:
    return Movement((ratio,) * 3, cosines, still=False)


def test_movement_by_hand() -> None:
    places = [np.array(place, float) for place in ([3, 4], [3, 5], [3, 4], [4, 4])]
    found = movement(places)
    assert found.ratios == pytest.approx((1 / 5, 1 / 34**0.5, 1 / 5))
    assert found.cosines == pytest.approx((-1, 0))
    assert not found.still
    assert movement([places[0]] * 4).still
    assert not movement(places[:1]).still


def test_weights_are_sketched_truly() -> None:
    torch.manual_seed(0)
    parameters = [torch.randn(200, 300), torch.randn(300)]
    weights = Weights()
    weights.note(0, parameters)
    change = [0.01 * torch.randn_like(each) for each in parameters]
    for step in (1, 2):
        for each, by in zip(parameters, change, strict=True):
            each.add_(by)
        weights.note(step, parameters)
    exact = math.sqrt(sum(float(by.square().sum()) for by in change))
    norm = math.sqrt(sum(float(each.square().sum()) for each in parameters))
    found = weights.movement()
    assert found.ratio == pytest.approx(exact / norm, rel=0.15)
    assert found.cosine == pytest.approx(1.0, abs=1e-3)
    weights.note(9, parameters)
    assert weights.movement().ratios == (), "a gap begins anew"


def test_alternating_updates_are_told_at_the_second_look() -> None:
    watch = UpdateWatch()
    assert watch.see(moved((-0.8, -0.6)), 0.1) == []
    assert watch.suspicious
    assert [each.kind for each in watch.see(moved((-0.9, -0.7)), 0.1)] == [Kind.OSCILLATING]
    assert watch.see(moved((-0.9, 0.1)), 0.1) == []
    assert watch.see(moved((-0.9, -0.7)), 0.1) == []


def test_an_update_far_above_its_own_history_is_erratic() -> None:
    watch = UpdateWatch()
    for index in range(10):
        assert watch.see(moved(ratio=1e-3 * 1.1 ** (index % 3)), 0.1) == []
    assert watch.see(moved(ratio=1.9e-3), 0.2) == [], "at twice the rate it is the usual"
    (finding,) = watch.see(moved(ratio=1e-2), 0.1)
    assert finding.kind is Kind.ERRATIC
    assert "x the usual change" in finding.said


def test_no_change_at_all_is_told_unless_the_rate_is_zero() -> None:
    still = Movement((0.0, 0.0, 0.0), (), still=True)
    assert [each.kind for each in UpdateWatch().see(still, 0.1)] == [Kind.STALLED]
    assert UpdateWatch().see(still, 0.0) == []


def test_an_episode_ends_after_a_calm() -> None:
    episodes = Episodes({Kind.SPIKE: 10}.__getitem__)
    told = [step for step in (1, 2, 9, 19, 30) if episodes.begins(Kind.SPIKE, step)]
    assert told == [1, 30]


# ---- whole trainings --------------------------------------------------------------------------


def test_each_episode_is_told_once_and_to_the_observer() -> None:
    model = torch.nn.Linear(2, 1)
    told: list[object] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = TrainingMonitor(model, optimizer, batch_size=4, every=100, observe=told.append)
    for _ in range(30):
        monitor.step(math.nan)
    (event,) = monitor.events
    assert told == [event]
    assert isinstance(event, Instability)
    assert str(event).startswith("step 1, not finite: the loss is nan; go back")


@pytest.mark.parametrize("every", [None, 500])
def test_what_lasts_is_told_once_however_far_apart_looks_are(every: int | None) -> None:
    """A loss that never falls, and updates that undo each other for ever."""
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    monitor = TrainingMonitor(model, optimizer, batch_size=4, every=every)
    for _ in range(2600):
        optimizer.zero_grad()
        loss = model.weight.square().sum()
        loss.backward()
        optimizer.step()
        monitor.step(loss)
    assert sorted(event.kind.value for event in monitor.events) == ["oscillating", "stalled"]


@pytest.mark.slow
@pytest.mark.parametrize("training", BROKEN, ids=lambda training: training.name)
@pytest.mark.parametrize("seed", range(3))
def test_what_goes_wrong_is_named(training: Training, seed: int) -> None:
    outcome = run(training.make(seed), 1200 if training.name == "no signal" else 700)
    told = [event for event in outcome.monitor.events if event.kind is training.expected]
    assert told, outcome.monitor.events
    assert all(event.step >= training.breaks_at for event in outcome.monitor.events)
    collapse = outcome.collapse(training.breaks_at)
    if collapse is not None and training.expected is Kind.DIVERGING:
        assert told[0].step <= collapse + ROW
    kinds = [event.kind for event in outcome.monitor.events]
    assert len(kinds) <= 2 * len(set(kinds))


@pytest.mark.slow
@pytest.mark.parametrize("training", HEALTHY, ids=lambda training: training.name)
def test_a_hundred_healthy_trainings_are_silent(training: Training) -> None:
    """Ten seeds of each of ten kinds."""
    told = {seed: run(training.make(seed), 500).monitor.events for seed in range(10)}
    assert not {seed: events for seed, events in told.items() if events}
