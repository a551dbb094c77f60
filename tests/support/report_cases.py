"""Reports from measurements made by hand, for tests of everything that shows one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from batchfinder.confirm import OwnPair, Run, confirm_recommendation
from batchfinder.confirm.stage import with_headroom
from batchfinder.recommend import Problem
from batchfinder.report import Report
from batchfinder.results import (
    BatchPlan,
    Candidate,
    Confirmation,
    Environment,
    Judgement,
    Limit,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    Outcome,
    ProbeResult,
    Trial,
)

MIB = 1024**2
LIMIT = 48 * MIB
FIXED, PER_SAMPLE = 2 * MIB, 180_000
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


def run(plan: BatchPlan, rate: float | None) -> Confirmation:
    """Training holds at any plan and rate, and at twice the rate."""
    return Confirmation(
        plan,
        rate,
        40,
        Judgement.HELD,
        at_double_rate=None if rate is None else Judgement.HELD,
        first_loss=2.31,
        last_loss=0.42,
        double_rate_last_loss=0.41,
        double_rate_lead=None if rate is None else 0.01,
    )


MEMORY = MemoryBreakdown(
    parameter_bytes=300_000,
    buffer_bytes=2_000,
    gradient_bytes=300_000,
    optimizer_bytes=600_000,
    other_bytes=100_000,
    limit_bytes=LIMIT,
    fixed_bytes=FIXED,
    per_sample_bytes=PER_SAMPLE,
)


def problem(**changes: Any) -> Problem:
    """A user who trains at 32 and 0.001 with Adam; 1,797 samples."""
    given = {
        "measurements": tuple(measurement(size) for size in SIZES),
        "noise": NOISE,
        "base_batch": 32,
        "base_learning_rate": 1e-3,
        "max_batch_size": 268,
        "memory": MEMORY,
        "optimizer_family": "adam",
        "dataset_length": 1797,
        "workers": 2,
    }
    return Problem(**{**given, **changes})


def report_of(whole: Problem, run: Run = run, **changes: Any) -> Report:
    """What a call would report: recommended and confirmed by the package itself."""
    recommendation, confirmation = confirm_recommendation(
        whole, run, own=OwnPair(whole.base_global_batch, whole.base_learning_rate or 0.0)
    )
    trials = (
        *(Trial(size, Outcome.FITS, peak(size), 0.02) for size in (1, 2, 16, 128)),
        Trial(512, Outcome.OUT_OF_MEMORY, LIMIT, 0.03),
        Trial(256, Outcome.FITS, peak(256), 0.04),
        Trial(272, Outcome.OUT_OF_MEMORY, LIMIT, 0.03),
        Trial(268, Outcome.FITS, peak(268), 0.04),
    )
    given = {
        "recommendation": recommendation,
        "probe": with_headroom(ProbeResult(trials, MEMORY, Limit.MEMORY), recommendation),
        "measurements": whole.measurements,
        "noise_scale": whole.noise,
        "confirmation": confirmation,
        "state_restored": True,
        "caveats": (*ASSUMED, *recommendation.caveats),
        "environment": Environment(
            "cpu", "2 cores", "2.13.0", "3.11.9", "Linux", 2, optimizer="AdamW"
        ),
        "base_batch_size": whole.base_batch,
        "base_learning_rate": whole.base_learning_rate,
        "seconds": (("probe", 1.2), ("measure", 9.5)),
    }
    return Report(**{**given, **changes})


ASSUMED = ("no loss_fn was given: cross-entropy was inferred from integer targets",)


def plain() -> Report:
    """A small network under a simulated limit: moved from 32 up, limited by noise."""
    return report_of(problem())


def candidate(size: int) -> Candidate:
    (found,) = (each for each in plain().candidates if each.plan == BatchPlan(size))
    return found


def kept() -> Report:
    """The user's own batch is near enough to the best."""
    return report_of(problem(base_batch=128))


def accumulated() -> Report:
    """Memory binds: accumulation on 2 devices, a noise scale without upper end."""
    noise = replace(NOISE, value=math.inf, low=900.0, high=math.inf)
    rows = tuple(replace(measurement(size), update_seconds=0.05 * 1.0) for size in SIZES)
    rows = tuple(replace(row, step_seconds=row.step_seconds + 0.05) for row in rows)
    return report_of(
        problem(measurements=rows, noise=noise, world_size=2, dataset_length=None, workers=0)
    )


def waiting() -> Report:
    """10 ms a sample and two workers: the loader is slower than the model."""
    rows = tuple(replace(measurement(size), loader_seconds=size / 200, repeats=1) for size in SIZES)
    return report_of(problem(measurements=rows))


def unconfirmed() -> Report:
    """The loss rises at every rate."""

    def rising(plan: BatchPlan, rate: float | None) -> Confirmation:
        return replace(run(plan, rate), judgement=Judgement.ROSE, at_double_rate=None, last_loss=9)

    return report_of(problem(), rising)


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
