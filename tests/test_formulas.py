"""The noise scale's arithmetic against populations in which everything is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchfinder import formulas
from batchfinder.formulas import Moments


def gradients(count: int, seed: int = 0, dimension: int = 40, signal: float = 0.5) -> np.ndarray:
    """Rows with mean G (|G|² = signal) and the identity as covariance (trace = dimension)."""
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    rows[:, 0] += math.sqrt(signal)
    return rows


def cut(rows: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum(sizes)
    means = np.stack(
        [rows[end - size : end].mean(0) for size, end in zip(sizes, ends, strict=True)]
    )
    return means, means @ means.T


def test_two_equal_batches_are_mccandlish_equation_a1() -> None:
    rows = gradients(64)
    means, gram = cut(rows, [32, 32])
    small, big = np.diag(gram).mean(), float((means.mean(0) ** 2).sum())
    found = formulas.from_gram([32, 32], gram)
    assert found.gradient_squared == pytest.approx((64 * big - 32 * small) / 32)
    assert found.noise_trace == pytest.approx((small - big) / (1 / 32 - 1 / 64))


def test_single_samples_are_the_u_statistic() -> None:
    rows = gradients(30)
    gram = rows @ rows.T
    pairs = gram[~np.eye(30, dtype=bool)].mean()
    found = formulas.from_gram(np.ones(30), gram)
    assert found.gradient_squared == pytest.approx(pairs)
    assert found.noise_trace == pytest.approx(rows.var(0, ddof=1).sum())


@pytest.mark.parametrize("sizes", [[16] * 8, [4, 60, 16, 8, 8, 32], [1, 127]])
def test_both_moments_are_unbiased_for_any_sizes(sizes: list[int]) -> None:
    found = []
    for seed in range(3000):
        _, gram = cut(gradients(sum(sizes), seed), sizes)
        point = formulas.from_gram(sizes, gram)
        found.append((point.gradient_squared, point.noise_trace))
    error = np.std(found, axis=0) / math.sqrt(3000)
    assert (np.abs(np.mean(found, axis=0) - [0.5, 40]) < 4 * error).all()


def test_sizes_taken_as_equal_would_be_wrong() -> None:
    sizes = [4, 60, 16, 8, 8, 32]
    traces = [
        formulas.from_gram(np.ones(6), cut(gradients(128, seed), sizes)[1]).noise_trace * 128 / 6
        for seed in range(300)
    ]
    assert np.mean(traces) > 60


def test_leaving_one_out_is_leaving_one_out() -> None:
    sizes = np.array([4, 60, 16, 8, 8, 32])
    _, gram = cut(gradients(128), list(sizes))
    for left, u in enumerate(formulas.leave_one_out(sizes, gram)):
        kept = np.arange(6) != left
        expected = formulas.from_gram(sizes[kept], gram[np.ix_(kept, kept)])
        assert u == pytest.approx(expected.reciprocal)


def test_leaving_one_block_out_is_leaving_one_block_out() -> None:
    points = [Moments(1.0 + index, 5.0 + index**2, 10.0 + index, 4) for index in range(6)]
    blocks = [points[:2], points[2:4], points[4:]]
    left = formulas.leave_one_block_out(blocks)
    assert left[1] == pytest.approx(formulas.pool(points[:2] + points[4:]).reciprocal)


def test_pooling_is_a_ratio_of_means_not_a_mean_of_ratios() -> None:
    points = [Moments(1.0, 10.0, 100, 4), Moments(-0.5, 10.0, 100, 4), Moments(1.0, 10.0, 100, 4)]
    pooled = formulas.pool(points)
    assert pooled.reciprocal == pytest.approx(0.05)
    assert (pooled.samples, pooled.groups) == (300, 12)


def test_pooling_weighs_by_samples() -> None:
    pooled = formulas.pool([Moments(1.0, 4.0, 300, 4), Moments(2.0, 8.0, 100, 4)])
    assert (pooled.gradient_squared, pooled.noise_trace) == (1.25, 5.0)


def test_a_finite_population_is_corrected_exactly() -> None:
    """Over all pairs of distinct samples, the mean of g_i · g_j falls short by tr Σ / N."""
    rows = gradients(50)
    gram = rows @ rows.T
    found = formulas.from_gram(np.ones(50), gram)
    signal = float((rows.mean(0) ** 2).sum())
    exact = signal / rows.var(0, ddof=1).sum()
    assert formulas.finite_population(found.reciprocal, 50) == pytest.approx(exact)
    assert formulas.finite_population(0.25, None) == 0.25


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.95, 1, 6.3138),
        (0.95, 2, 2.9200),
        (0.95, 3, 2.3534),
        (0.95, 7, 1.8946),
        (0.95, 15, 1.7531),
        (0.975, 4, 2.7764),
        (0.5, 9, 0.0),
        (0.05, 15, -1.7531),
    ],
)
def test_student_quantiles_are_the_tables(
    probability: float, freedom: int, expected: float
) -> None:
    found = formulas.student_quantile(probability, freedom)
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-12)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(20)
    replicates = (values.sum() - values) / 19
    low, high = formulas.jackknife(replicates, 0.90, float(values.mean()))
    reach = formulas.student_quantile(0.95, 19) * values.std(ddof=1) / math.sqrt(20)
    assert (high - low) / 2 == pytest.approx(reach)
    assert (high + low) / 2 == pytest.approx(values.mean())


@pytest.mark.parametrize("signal", [0.4, 4.0])
def test_the_interval_covers_the_truth_nine_times_in_ten(signal: float) -> None:
    sizes, held, truth = [8] * 16, 0, 40 / signal
    for seed in range(1000):
        _, gram = cut(gradients(128, seed, signal=signal), sizes)
        u = formulas.from_gram(sizes, gram).reciprocal
        limits = formulas.jackknife(formulas.leave_one_out(sizes, gram), 0.90, u)
        found = formulas.noise_interval(u, *limits, samples=128)
        held += found.low <= truth <= found.high
    assert 860 <= held <= 960  # too wide rather than too narrow where most are open above


def test_an_interval_that_closes_is_the_reciprocal() -> None:
    found = formulas.noise_interval(0.01, 0.005, 0.02, samples=100)
    assert (found.value, found.low, found.high) == (100, 50, 200)
    assert found.ratio == 4


@pytest.mark.parametrize(
    ("u", "u_high", "value", "low"),
    [
        (0.01, 0.03, 100, 1 / 0.03),
        (0.0001, 0.03, 400, 1 / 0.03),
        (-0.01, 0.03, 400, 1 / 0.03),
        (-0.01, 0.001, 400, 100),
        (-0.02, -0.01, 400, 100),
    ],
)
def test_without_a_signal_there_is_only_a_floor(
    u: float, u_high: float, value: float, low: float
) -> None:
    found = formulas.noise_interval(u, -0.1, u_high, samples=100)
    assert (found.value, found.low, found.high) == (value, low, math.inf)
    assert found.ratio == math.inf


def test_one_gradient_has_no_variance() -> None:
    with pytest.raises(ValueError, match="at least two"):
        formulas.moments([8], [1.0], 1.0)
    with pytest.raises(ValueError, match="at least one point"):
        formulas.pool([])


def test_no_noise_at_all_is_no_division_by_zero() -> None:
    found = formulas.moments([4, 4], [2.0, 2.0], 2.0)
    assert (found.noise_trace, found.reciprocal, found.is_alike) == (0.0, 1000.0, True)
    nothing = formulas.moments([4, 4], [0.0, 0.0], 0.0)
    assert (nothing.reciprocal, nothing.is_alike, nothing.is_zero) == (0.0, False, True)


@pytest.mark.parametrize("rounding", [0.0, 1e-9, -1e-9])
def test_gradients_that_are_alike_leave_a_noise_scale_of_about_zero(rounding: float) -> None:
    gram = np.full((5, 5), 2.0) + rounding * np.eye(5)
    point = formulas.from_gram([4] * 5, gram)
    assert point.is_alike
    left = formulas.leave_one_out([4] * 5, gram)
    groups = formulas.leave_one_group_out([4] * 5, np.full(5, 8.0), gram)
    for replicates in (left, groups):
        limits = formulas.jackknife(replicates, 0.9, point.reciprocal_within(100))
        found = formulas.noise_interval(point.reciprocal_within(100), *limits, samples=20)
        assert (found.low, found.high, found.ratio) == (0.0, formulas.ROUNDING_NOISE, 1.0)
        assert 0 < found.value <= formulas.ROUNDING_NOISE


def test_the_loss_ratio_tells_means_from_sums() -> None:
    assert formulas.mean_loss_ratio(3.0, [2.0, 4.0]) == 1.0
    assert formulas.mean_loss_ratio(6.0, [2.0, 4.0]) == 2.0
    assert formulas.mean_loss_ratio(0.0, [0.0, 0.0]) == 1.0
