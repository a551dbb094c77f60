"""The looks that one noise scale is pooled over are those of today."""

from __future__ import annotations

import math

import numpy as np

from batchfinder import formulas
from batchfinder.formulas import Moments
from batchfinder.monitor.noise import DRIFT, FEWEST_LOOKS, NoiseWindow, alike
from batchfinder.monitor.ranks import ALONE
from batchfinder.noise import Point

HALF, SIZE = 32, 64


def points(squares: list[float]) -> list[Point]:
    return [
        Point(step, Moments(0.2 * square, 0.8 * SIZE * square, SIZE, 2))
        for step, square in enumerate(squares)
    ]


def kept(squares: list[float]) -> int:
    return len(alike(points(squares)))


def test_looks_that_are_alike_are_all_pooled() -> None:
    scattered = np.random.default_rng(0).lognormal(0, 0.3, 40).tolist()
    assert kept(scattered) == 40
    assert kept([1.0] * 3) == 3


def test_looks_from_when_gradients_were_larger_or_smaller_are_left_out() -> None:
    for factor in (0.1, 1 / (1.1 * DRIFT), 1.1 * DRIFT, 10.0):
        assert 20 - FEWEST_LOOKS // 2 <= kept([1.0] * 20 + [factor] * 20) <= 20
    assert kept([1.0] * 20 + [0.9 * DRIFT] * 20) == 40


def test_one_look_does_not_decide() -> None:
    assert kept([1.0] * 20 + [1e6] * 3 + [1.0] * 17) == 40


def test_so_many_are_always_kept() -> None:
    assert kept([10.0**-step for step in range(40)]) == FEWEST_LOOKS


def test_the_interval_holds_the_noise_scale_of_today() -> None:
    """Gradients fall, the noise scale grows from 60 to 500: the true ratio is known."""
    generator = np.random.default_rng(0)
    looks, trials, width = 40, 200, 200
    trace = np.exp(-np.arange(looks) / 6)
    scale = 60 * np.exp(np.arange(looks) * math.log(500 / 60) / (looks - 1))
    now = float(trace[-FEWEST_LOOKS:].sum() / (trace / scale)[-FEWEST_LOOKS:].sum())
    held = 0
    for _ in range(trials):
        window = NoiseWindow(looks, None, ALONE)
        for look in range(looks):
            mean = np.zeros(width)
            mean[0] = math.sqrt(trace[look] / scale[look])
            spread = math.sqrt(trace[look] / HALF / width)
            rows = mean + generator.normal(0, spread, (2, width))
            window.add(look, [HALF, HALF], rows, "")
        found = window.noise_scale(HALF)
        assert found is not None
        held += found.low <= now <= found.high
    assert 0.8 * trials <= held <= 0.99 * trials
    whole = formulas.pool([Moments(t / s, t, SIZE, 2) for t, s in zip(trace, scale, strict=True)])
    assert whole.noise_trace / whole.gradient_squared < now / 3, "what all looks together would say"
