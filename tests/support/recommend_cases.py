"""Hand-made measurements with a known answer: affine step times and an affine memory line."""

from __future__ import annotations

import math
from typing import Any

from batchfinder.rates import OptimizerFamily
from batchfinder.recommend import Problem, recommend
from batchfinder.results import (
    Limit,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    Recommendation,
)

MIB = 2**20
POWERS = tuple(2**power for power in range(13))


def measured(
    size: int,
    fixed: float = 1.0,
    per_sample: float = 0.01,
    *,
    update: float = 0.0,
    spread: float = 0.0,
    peak: int | None = None,
    loader: float | None = None,
) -> Measurement:
    """A step of ``fixed + per_sample · size + update`` seconds, ± ``spread`` relatively."""
    seconds = fixed + per_sample * size + update
    speed = size / seconds
    return Measurement(
        batch_size=size,
        samples_per_second=speed,
        samples_per_second_low=speed * (1 - spread),
        samples_per_second_high=speed * (1 + spread),
        step_seconds=seconds,
        forward_backward_seconds=seconds - update,
        update_seconds=update,
        loader_seconds=loader,
        peak_bytes=peak,
    )


def affine(sizes: tuple[int, ...] = POWERS, half_speed: float = 100, **more: Any) -> list:
    """Steps of ``1 + B / half_speed``: half of the best throughput is reached there."""
    return [measured(size, 1.0, 1 / half_speed, **more) for size in sizes]


def line(
    limit: int = 10**15, fixed: int = 0, per_sample: float = 1.0, gradients: int = 0
) -> MemoryBreakdown:
    return MemoryBreakdown(
        parameter_bytes=gradients,
        buffer_bytes=0,
        gradient_bytes=gradients,
        optimizer_bytes=0,
        other_bytes=0,
        limit_bytes=limit,
        fixed_bytes=fixed,
        per_sample_bytes=per_sample,
    )


def noise(value: float, low: float | None = None, high: float | None = None) -> NoiseScale:
    low = value / 1.2 if low is None else low
    high = value * 1.2 if high is None else high
    return NoiseScale(value, low, high, samples=4096, estimator="by hand")


def problem(
    measurements: list[Measurement], critical: float | None = 100, **changes: Any
) -> Problem:
    """By default the base batch is an assumed one, so that prices alone decide."""
    arguments: dict[str, Any] = {
        "base_batch": 1,
        "base_learning_rate": 0.1,
        "max_batch_size": max(each.batch_size for each in measurements),
        "memory": line(),
        "probe_limit": Limit.MEMORY,
        "optimizer_family": OptimizerFamily.SGD,
        "base_is_yours": False,
    }
    known = None if critical is None else noise(critical)
    return Problem(tuple(measurements), changes.pop("noise", known), **{**arguments, **changes})


def recommended(
    measurements: list[Measurement], critical: float | None = 100, **changes: Any
) -> Recommendation:
    return recommend(problem(measurements, critical, **changes))


def best_power(critical: float, half_speed: float) -> int:
    """The power of two that minimises (1 + φ/B)(1 + B/h), by trying them all."""
    return min(POWERS, key=lambda size: (1 + critical / size) * (1 + size / half_speed))


def closed_form(critical: float, half_speed: float) -> float:
    """B* = √(φh): where the derivative of (1 + φ/B)(1 + B/h) vanishes."""
    return math.sqrt(critical * half_speed)
