"""Suggestions: only where the whole interval of the noise scale makes a change worth it."""

from __future__ import annotations

import math

import pytest
import torch
from monitor_cases import batches, mlp, train
from report_cases import plain

from batchfinder.monitor import Suggestion, TrainingMonitor
from batchfinder.monitor.pricing import WORTH, Now, suggestion
from batchfinder.results import BatchPlan, Candidate, NoiseScale
from batchfinder.scaling import linear


def candidate(batch: int, seconds: float, world: int = 1) -> Candidate:
    return Candidate(BatchPlan(batch // world, 1, world), 1.0, 1.0, seconds)


def noise(value: float, low: float, high: float) -> NoiseScale:
    return NoiseScale(value, low, high, 1000, "test")


FLAT = tuple(candidate(32 * 2**power, 1.0 + 0.1 * 2**power) for power in range(6))


def test_a_larger_batch_is_priced_as_step_time_times_steps() -> None:
    now = Now(10, 32, 0.1, noise(1000, 800, 1300))
    found = suggestion(FLAT, now, linear)
    assert found is not None
    price = {c.plan.global_batch: c.step_seconds * (1 + 1000 / c.plan.global_batch) for c in FLAT}
    best = min(price, key=lambda batch: price[batch])
    assert found.batch_size == best
    assert found.relative_time == pytest.approx(price[best] / price[32])
    assert found.relative_time_low <= found.relative_time <= found.relative_time_high <= WORTH
    assert found.learning_rate == pytest.approx(0.1 * best / 32)
    assert "the noise scale is now 1,000 (800 to 1,300)" in str(found)


def test_nothing_is_suggested_before_both_ends_agree() -> None:
    assert suggestion(FLAT, Now(10, 32, 0.1, noise(100, 1, 1300)), linear) is None
    assert suggestion(FLAT, Now(10, 32, 0.1, noise(2, 1, 3)), linear) is None


def test_an_interval_without_upper_end_is_priced() -> None:
    found = suggestion(FLAT, Now(10, 32, 0.1, noise(4000, 1000, math.inf)), linear)
    assert found is not None
    assert "no upper end" in str(found)
    assert math.isfinite(found.relative_time_high)


def test_a_size_between_two_measured_ones_takes_a_time_between() -> None:
    now = Now(1, 48, 0.1, noise(1000, 800, 1300))
    between = suggestion(FLAT, now, linear)
    measured = suggestion((*FLAT, candidate(48, 1.15)), now, linear)
    assert between is not None
    assert measured is not None
    assert between.relative_time == pytest.approx(measured.relative_time)


def test_a_size_outside_of_what_was_measured_has_no_price() -> None:
    assert suggestion(FLAT, Now(1, 16, 0.1, noise(1000, 800, 1300)), linear) is None
    assert suggestion(FLAT, Now(1, 4096, 0.1, noise(1000, 800, 1300)), linear) is None


def test_a_suggestion_is_told_once() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    told: list[object] = []
    slow_steps = tuple(candidate(16 * 2**power, 1.0) for power in range(4))
    monitor = TrainingMonitor(
        model, optimizer, batch_size=16, every=1, candidates=slow_steps, observe=told.append
    )
    train(model, optimizer, monitor, batches(16, count=60))
    assert len([each for each in told if isinstance(each, Suggestion)]) == 1
    (found,) = monitor.suggestions
    assert found.batch_size == 128
    assert monitor.history.suggestions == (found,)


def test_a_report_makes_its_monitor() -> None:
    report = plain()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = report.monitor(model, optimizer, every=7)
    assert monitor.every == 7
    assert monitor.batch_size == report.batch_size * report.accumulation_steps
    assert monitor._suggestions._candidates == report.candidates
    assert report.monitor(model, optimizer, batch_size=5).batch_size == 5
