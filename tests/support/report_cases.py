"""Reports for tests of everything that shows one.

Given are memory, timings, a noise scale and losses, as fixed numbers. What is made of them, the
search, the recommendation, the confirmation and the caveats, is the package's own doing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from fakes import FakeClock, FakeMemory, FakeSource, FakeStep, as_asked_for, watched_by_hand

from batchfinder.caveats import weight
from batchfinder.confirm import OwnPair, confirm, confirm_recommendation
from batchfinder.confirm.stage import with_headroom
from batchfinder.measure import about_timings
from batchfinder.probe import SearchSpace, probe
from batchfinder.probe.loop import limit_met, with_line
from batchfinder.protocols import Setup
from batchfinder.rates import OptimizerFamily
from batchfinder.recommend import Problem
from batchfinder.report import Report
from batchfinder.results import (
    BatchPlan,
    Candidate,
    Confirmation,
    Environment,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    Outcome,
    ProbeResult,
    Trial,
)
from batchfinder.wording import Caveat

MIB = 1024**2
LIMIT = 48 * MIB
FIXED, PER_SAMPLE = 2_090_000, 180_000
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 268)
NOISE = NoiseScale(212.0, 160.0, 290.0, 49_152, "micro-batch variance", micro_batch=64)


def peak(size: int) -> int:
    return FIXED + PER_SAMPLE * size


def throughput(size: int) -> float:
    return size / (0.004 + size / 30_000)


def measurement(size: int) -> Measurement:
    rate, spread = throughput(size), 0.25 if size == 1 else 0.03
    noise = NoiseScale(200 + size / 10, 140, 310, 8192, "micro-batch variance", micro_batch=size)
    return Measurement(
        batch_size=size,
        samples_per_second=rate,
        samples_per_second_low=rate * (1 - spread),
        samples_per_second_high=rate * (1 + spread),
        step_seconds=size / rate,
        forward_backward_seconds=0.9 * size / rate,
        update_seconds=0.1 * size / rate,
        loader_seconds=2 * size / rate if size == 2 else 0.1 * size / rate,
        peak_bytes=peak(size),
        repeats=12,
        noise_scale=noise if size >= 8 else None,
    )


Losses = Callable[[int, float, int], float]
"""From the micro-batch, the learning rate and how many updates were made."""


def falling(batch: int, rate: float, updates: int) -> float:
    """As fast at every batch size and rate."""
    return 0.42 + 1.89 * math.exp(-updates / 3)


def rising(batch: int, rate: float, updates: int) -> float:
    return 2.31 * math.exp(updates / 25)


def rising_above_64(batch: int, rate: float, updates: int) -> float:
    return (falling if batch <= 64 else rising)(batch, rate, updates)


def falling_by_rate(batch: int, rate: float, updates: int) -> float:
    """The faster, the higher the rate; above 0.008 it rises."""
    fall = 1.89 * math.exp(-20 * rate * updates)
    return 0.42 + fall if rate <= 0.008 else rising(batch, rate, updates)


class ToldStep(FakeStep):
    """A training step whose losses are told beforehand."""

    optimizer_family, is_compiled = OptimizerFamily.ADAM, False

    def __init__(self, losses: Losses) -> None:
        super().__init__(FakeClock(), lambda size: 0.0)
        self.losses, self.asked, self.updates = losses, math.nan, 0

    def fresh(self) -> None:
        self.updates = 0

    def set_learning_rate(self, rate: float) -> None:
        self.asked = rate

    def forward_backward(self, batch: int, scale: float = 1.0) -> torch.Tensor:
        return torch.tensor(self.losses(batch, self.asked, self.updates), dtype=torch.float64)

    def update(self) -> None:
        self.updates += 1

    def watched(self) -> Any:
        return watched_by_hand(as_asked_for)


def trained(losses: Losses, plan: BatchPlan, rate: float | None) -> Confirmation:
    """What ``confirm`` makes of these losses."""
    step = ToldStep(losses)
    setup = Setup(step, FakeSource(), FakeMemory(LIMIT))
    return confirm(setup, plan, rate, clock=lambda: 0.0, fresh=step.fresh)


def trial(size: int) -> Trial:
    fits = peak(size) <= LIMIT
    outcome = Outcome.FITS if fits else Outcome.OUT_OF_MEMORY
    return Trial(size, outcome, peak(size) if fits else LIMIT, 0.02)


SPACE = SearchSpace(limit_bytes=LIMIT, resolution=0.0)
TRIALS = probe(trial, SPACE)
MEMORY = with_line(
    MemoryBreakdown(
        parameter_bytes=300_000,
        buffer_bytes=2_000,
        gradient_bytes=300_000,
        optimizer_bytes=600_000,
        other_bytes=0,
        limit_bytes=LIMIT,
        fixed_bytes=0,
        per_sample_bytes=0.0,
    ),
    TRIALS,
)
PROBED = ProbeResult(TRIALS, MEMORY, limit_met(TRIALS, SPACE, None))


def problem(**changes: Any) -> Problem:
    """A user who trains at 32 and 0.001 with Adam; 1,797 samples."""
    given = {
        "measurements": tuple(measurement(size) for size in SIZES),
        "noise": NOISE,
        "base_batch": 32,
        "base_learning_rate": 1e-3,
        "max_batch_size": PROBED.max_batch_size,
        "memory": MEMORY,
        "optimizer_family": OptimizerFamily.ADAM,
        "dataset_length": 1797,
        "workers": 2,
    }
    return Problem(**{**given, **changes})


def report_of(whole: Problem, losses: Losses = falling, **changes: Any) -> Report:
    """What a call would report: recommended and confirmed by the package itself."""
    recommendation, confirmation = confirm_recommendation(
        whole,
        lambda plan, rate: trained(losses, plan, rate),
        own=OwnPair(whole.base_global_batch, whole.base_learning_rate or 0.0),
    )
    said = (ASSUMED, *about_timings(whole.measurements), *recommendation.caveats)
    given = {
        "recommendation": recommendation,
        "probe": with_headroom(PROBED, recommendation),
        "measurements": whole.measurements,
        "noise_scale": whole.noise,
        "confirmation": confirmation,
        "state_restored": True,
        "caveats": tuple(sorted(dict.fromkeys(said), key=weight)),
        "environment": Environment(
            "cpu", "2 cores", "2.13.0", "3.11.9", "Linux", 2, optimizer="AdamW"
        ),
        "base_batch_size": whole.base_batch,
        "base_learning_rate": whole.base_learning_rate,
        "seconds": (("probe", 1.2), ("measure", 9.5)),
    }
    return Report(**{**given, **changes})


ASSUMED = Caveat("step.assumed_loss", loss="cross_entropy")


@functools.cache
def plain() -> Report:
    """A small network under a simulated limit: moved from 32 up, limited by noise."""
    return report_of(problem())


def candidate(size: int) -> Candidate:
    (found,) = (each for each in plain().candidates if each.plan == BatchPlan(size))
    return found


@functools.cache
def kept() -> Report:
    """The user's own batch is near enough to the best."""
    return report_of(problem(base_batch=128))


@functools.cache
def accumulated() -> Report:
    """Memory binds: accumulation on 2 devices, a noise scale without upper end."""
    noise = replace(NOISE, value=math.inf, low=900.0, high=math.inf)
    rows = tuple(replace(measurement(size), update_seconds=0.05 * 1.0) for size in SIZES)
    rows = tuple(replace(row, step_seconds=row.step_seconds + 0.05) for row in rows)
    return report_of(
        problem(measurements=rows, noise=noise, world_size=2, dataset_length=None, workers=0)
    )


@functools.cache
def waiting() -> Report:
    """10 ms a sample and two workers: the loader is slower than the model."""
    rows = tuple(replace(measurement(size), loader_seconds=size / 200, repeats=1) for size in SIZES)
    return report_of(problem(measurements=rows))


@functools.cache
def unconfirmed() -> Report:
    """The loss rises at every rate."""
    return report_of(problem(), rising)


@functools.cache
def moved() -> Report:
    """The first choice is too large to train, at any rate: the next one holds."""
    return report_of(problem(), rising_above_64)


@functools.cache
def raised() -> Report:
    """Twice the rate leads: the noise scale's upper end is taken, and the rate rises."""
    return report_of(problem(), falling_by_rate)


@functools.cache
def bare() -> Report:
    """Nothing is known but throughput: no noise scale, no rate, state not restored."""
    return report_of(
        problem(noise=None, base_learning_rate=None, base_is_yours=False),
        measurements=(),
        confirmation=None,
        state_restored=False,
        caveats=("<script>alert('caveat')</script> & more",),
        base_batch_size=None,
        seconds=(),
    )


@functools.cache
def page_of(report: Report) -> str:
    """Its page, drawn once for all tests that only look at it."""
    return report.to_html()
