"""Noisy step times against the truth: nearer to it once fitted, honest about the rest."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from recommend_cases import POWERS, affine, measured, noise, problem, recommended

from batchfinder.recommend.candidates import drawn, options
from batchfinder.recommend.step_time import fitted, variances
from batchfinder.timing import median_interval

SIZES = np.array(POWERS, dtype=float)
SHAPES = {
    "line": 1 + SIZES / 100,
    "saturating": (1 + (SIZES / 256) ** 4) ** 0.25,
    "a step at 64": (1 + (SIZES / 256) ** 2) ** 0.5 * np.where(SIZES > 64, 1.3, 1.0),
    "ragged": (1 + SIZES / 150) * np.exp(0.08 * np.sin(3 * np.arange(len(SIZES)))),
}


def timed(truth, spread, visits, seed, outliers=0.05):
    """Medians, relative widths of their intervals; some visits take twice as long."""
    random = np.random.default_rng(seed)
    shape = (len(truth), visits)
    noise = np.exp(spread * random.standard_normal(shape))
    times = truth[:, None] * noise * np.where(random.random(shape) < outliers, 2, 1)
    found = [median_interval(list(row)) for row in times]
    return [each.middle for each in found], [each.relative_width for each in found]


def fit(truth, spread, visits, seed):
    medians, widths = timed(truth, spread, visits, seed)
    counts = [visits] * len(truth)
    return np.array(medians), fitted(SIZES, medians, variances(widths, counts), counts)


@pytest.mark.parametrize("visits", [1, 2, 5, 15])
@pytest.mark.parametrize("spread", [0.1, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_most_of_the_noise_goes_and_what_stays_is_known(shape, spread, visits):
    truth = SHAPES[shape]
    before, after, standard = [], [], []
    for seed in range(40):
        medians, times = fit(truth, spread, visits, seed)
        before.append(np.log(medians / truth))
        after.append(np.log(times.seconds / truth))
        standard.append(after[-1] / times.spread)
    rms = [float(np.sqrt(np.mean(np.square(part)))) for part in (before, after, standard)]
    assert rms[1] < (0.85 if shape in ("line", "saturating") else 1.3) * rms[0]
    assert rms[2] < 1.7  # never much surer than it is


def test_steady_times_and_few_sizes_stay_as_they_are():
    truth = SHAPES["a step at 64"]
    quiet = fitted(SIZES, truth, np.zeros(len(SIZES)), [0] * len(SIZES))
    assert quiet.seconds == pytest.approx(truth) and not quiet.covariance.any()
    few = fitted(SIZES[:3], truth[:3] * [1, 2, 1], np.full(3, 0.1), [5] * 3)
    assert few.seconds == pytest.approx(truth[:3] * [1, 2, 1])
    steady = fitted(SIZES, truth, np.full(len(SIZES), 1e-6), [30] * len(SIZES))
    assert steady.seconds == pytest.approx(truth, rel=0.005)


def test_a_single_timing_has_the_scatter_of_the_others():
    alone, *others = variances([0.0, 0.2, 0.2, 0.2, 0.2], [1, 9, 9, 9, 9])
    assert alone > 5 * max(others)
    assert variances([0.0], [1])[0] == pytest.approx(0.1**2)
    assert variances([0.329], [0])[0] == pytest.approx(0.1**2)  # believed: no count is known


@pytest.mark.parametrize("visits", [3, 5, 9])
def test_the_variance_of_a_median_is_that_over_many_runs(visits):
    truth = np.ones(12)
    found, medians = [], []
    for seed in range(200):
        middle, widths = timed(truth, 0.1, visits, seed, outliers=0)
        found.append(variances(widths, [visits] * 12).mean())
        medians.append(np.log(middle))
    assert np.mean(found) == pytest.approx(np.var(medians), rel=0.35)


# --- the same call, the same answer ---------------------------------------------------------------


def choice(machine, seed, base, critical):
    """The choice on a machine: its true step times, the scatter of a visit, and visits a size."""
    truth, spread, visits = machine
    medians, widths = timed(truth, spread, visits, seed)
    rows = [
        replace(
            measured(int(size), middle, 0.0),
            samples_per_second_low=size / middle * (1 - width / 2),
            samples_per_second_high=size / middle * (1 + width / 2),
            repeats=visits,
        )
        for size, middle, width in zip(SIZES, medians, widths, strict=True)
    ]
    return recommended(rows, critical, base_batch=base, base_is_yours=True, optimizer_family="adam")


@pytest.mark.parametrize(("spread", "visits"), [(0.1, 3), (0.2, 5), (0.3, 9)])
def test_on_a_busy_machine_calls_agree_or_keep_the_users_size(spread, visits):
    """Nine of ten, over shapes and noise scales; a tie may fall on the edge of the tolerance."""
    shares = []
    for truth in SHAPES.values():
        for base, critical in ((16, 100), (64, 700), (256, 400)):
            chosen = [choice((truth, spread, visits), seed, base, critical) for seed in range(12)]
            sizes = Counter(each.plan.global_batch for each in chosen)
            own = sizes.pop(base, 0)
            shares.append((max(sizes.values(), default=0) + own) / 12)
    assert np.mean(shares) >= 0.9, shares
    assert min(shares) >= 0.5, shares


@pytest.mark.parametrize("seed", range(5))
def test_rounding_of_the_covariance_moves_no_draw(seed):
    """Its eigenvalues meet where sizes are equally well known: no eigenvectors are theirs alone."""
    situation = problem(affine(spread=0.2)).situation()
    values = np.random.default_rng(seed).standard_normal(situation.covariance.shape)
    rounded = situation.covariance * (1 + 1e-15 * (values + values.T))
    assert (rounded != situation.covariance).any()
    found = options(situation)
    one, other = (
        drawn(found, replace(situation, covariance=each), noise(100))
        for each in (situation.covariance, rounded)
    )
    assert other.times == pytest.approx(one.times, rel=1e-6)


@pytest.mark.parametrize(("spread", "visits"), [(0.1, 1), (0.3, 1), (0.3, 3), (0.2, 8)])
def test_what_is_said_to_be_faster_is(spread, visits):
    """From single timings too: the true gain is in the interval, and moves that lose are rare."""
    inside, lost, moves = [], 0, 0
    for truth in SHAPES.values():
        for base in (32, 512):
            for seed in range(8):
                found = choice((truth, spread, visits), seed, base, 300)
                if found.speedup is None:
                    continue
                size = found.plan.global_batch

                def time(batch, truth=truth):
                    return truth[POWERS.index(batch)] * (1 + 300 / batch)

                gain = time(base) / time(size)
                moves, lost = moves + 1, lost + (gain < 1)
                inside.append(0.95 * found.speedup.low <= gain <= 1.05 * found.speedup.high)
    assert moves > 30
    assert lost <= 0.03 * moves
    assert np.mean(inside) >= 0.8


def test_the_choice_is_better_for_it():
    """Mean regret of the true time, choosing by noisy times as they are and as fitted."""
    critical, half = 300.0, 100.0
    truth = {size: (1 + critical / size) * (1 + size / half) for size in POWERS}
    best = min(truth.values())

    def regret(seed):
        draws = np.random.default_rng(seed).standard_normal(len(POWERS))
        rows = [
            slowed(each, math.exp(0.3 * draw))
            for each, draw in zip(affine(half_speed=half, spread=0.5), draws, strict=True)
        ]
        chosen = recommended(rows, critical, base_batch=1).plan.global_batch
        raw = min(rows, key=lambda row: row.step_seconds * (1 + critical / row.batch_size))
        return truth[chosen] / best - 1, truth[raw.batch_size] / best - 1

    ours, plain = np.mean([regret(seed) for seed in range(60)], axis=0)
    assert ours < 0.6 * plain


def slowed(measurement, factor):
    return replace(
        measurement,
        step_seconds=measurement.step_seconds * factor,
        forward_backward_seconds=measurement.forward_backward_seconds * factor,
        samples_per_second=measurement.samples_per_second / factor,
        samples_per_second_low=measurement.samples_per_second_low / factor,
        samples_per_second_high=measurement.samples_per_second_high / factor,
    )
