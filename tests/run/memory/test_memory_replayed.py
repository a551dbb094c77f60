"""The search on a driver that plays back what an H200 did near its limit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from memory_cases import Made
from replayed_gpu import EXPANDABLE, LIMIT, ROWS, ReplayedGpu, ReplayedTraining

from batchfinder.probe import SearchSpace, memory_line, probe
from batchfinder.protocols import Setup
from batchfinder.results import Outcome, Trial
from batchfinder.run.memory.device import DeviceMemory, Driver
from batchfinder.run.trial import run_trial

SAMPLES = Made(lambda size: [0] * size)


def searched(conf: str, **options: object) -> tuple[Trial, ...]:
    gpu = ReplayedGpu(conf)
    memory = DeviceMemory(gpu, LIMIT)
    training = ReplayedTraining(gpu)
    space = SearchSpace(limit_bytes=memory.limit_bytes(), **options)
    return probe(lambda size: run_trial(Setup(training, SAMPLES, memory), size), space)


def test_the_replay_is_a_driver() -> None:
    driver: Driver = ReplayedGpu()
    assert driver.device_name().startswith("NVIDIA H200")


@pytest.mark.parametrize(
    ("guess", "failures"),
    [(None, 1), (430, 1), (458, 1), (505, 1), (530, 2)],  # the last one fails by itself
)
@pytest.mark.parametrize("start", [1, 2, 32])
def test_what_trains_is_found_with_at_most_one_failure(
    start: int, guess: int | None, failures: int
) -> None:
    trials = searched("", start=start, first_guess=guess, resolution=0.02)
    found = max(trial.batch_size for trial in trials if trial.fits)
    failed = [trial.batch_size for trial in trials if not trial.fits]
    assert 497 <= found <= 505
    assert len(failed) <= failures
    assert not failed or min(failed) - 1 <= 1.02 * found


@pytest.mark.parametrize("guess", [None, 458])
def test_the_exact_maximum_is_found(guess: int | None) -> None:
    trials = searched("", first_guess=guess, resolution=0)
    assert max(trial.batch_size for trial in trials if trial.fits) == 505
    assert 506 in [trial.batch_size for trial in trials]


@pytest.mark.parametrize("guess", [None, 458])
def test_with_expandable_segments_nothing_fragments(guess: int | None) -> None:
    trials = searched(EXPANDABLE, first_guess=guess, resolution=0.02, ceiling=512)
    assert max(trial.batch_size for trial in trials if trial.fits) >= 503
    assert sum(trial.retries for trial in trials) == 0


@pytest.mark.parametrize(("size", "retries"), [(399, 0), (420, 1), (460, 3), (497, 3), (505, 8)])
def test_retries_of_the_first_steps_are_no_edge(size: int, retries: int) -> None:
    gpu = ReplayedGpu()
    memory = DeviceMemory(gpu, LIMIT)
    trial = run_trial(Setup(ReplayedTraining(gpu), SAMPLES, memory), size)
    assert (trial.outcome, trial.retries) == (Outcome.FITS, retries)


def test_a_cache_that_settles_in_the_twelfth_step_is_no_edge() -> None:
    gpu = ReplayedGpu()
    (settling,) = (row for row in ROWS if row["name"] == "settling")
    gpu.rows[505] = {**gpu.rows[505], "retries": settling["retries"]}
    trial = run_trial(Setup(ReplayedTraining(gpu), SAMPLES, DeviceMemory(gpu, LIMIT)), 505)
    assert (trial.outcome, trial.retries) == (Outcome.FITS, sum(settling["retries"]))


def test_allocated_bytes_are_a_line_and_reserved_ones_are_none() -> None:
    gpu = ReplayedGpu()
    memory = DeviceMemory(gpu, LIMIT)
    training = ReplayedTraining(gpu)
    sizes = [size for size, row in gpu.rows.items() if row["ok"]]
    trials = [run_trial(Setup(training, SAMPLES, memory), size) for size in sizes]
    assert memory_line(trials).residual < 0.001
    idle = [(each.reserved_bytes or 0) - (each.peak_bytes or 0) for each in trials]
    assert idle[0] > 4e9 and idle[-1] < 0.4e9
    assert any(after < before for before, after in pairwise(each.reserved_bytes for each in trials))
