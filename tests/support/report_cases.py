"""Reports made by hand, for tests of everything that shows one."""

from __future__ import annotations

import math
from dataclasses import replace

from batchfinder.report import Report
from batchfinder.results import (
    BatchPlan,
    Candidate,
    Confirmation,
    Environment,
    Limit,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    Outcome,
    ProbeResult,
    Recommendation,
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


def price(size: int) -> tuple[float, float]:
    def time(batch: float) -> float:
        return (batch / throughput(batch)) * (1 + NOISE.value / batch)

    def samples(batch: float) -> float:
        return batch + NOISE.value

    return time(size) / time(128), samples(size) / samples(128)


ROLES = {32: ("yours",), 256: ("highest throughput",), 268: ("largest that fits",)}


def candidate(size: int) -> Candidate:
    time, samples = price(size)
    return Candidate(
        plan=BatchPlan(size),
        relative_time=time,
        relative_samples=samples,
        step_seconds=size / throughput(size),
        learning_rate=1e-3 * math.sqrt(size / 32),
        peak_bytes=peak(size),
        chosen=size == 128,
        relative_time_low=0.95 * time,
        relative_time_high=1.06 * time,
        roles=ROLES.get(size, ()),
    )


def plain() -> Report:
    """A small network under a simulated limit: chosen 128, limited by noise."""
    trials = (
        *(Trial(size, Outcome.FITS, peak(size), 0.02) for size in (1, 2, 16, 128)),
        Trial(512, Outcome.OUT_OF_MEMORY, LIMIT, 0.03),
        Trial(256, Outcome.FITS, peak(256), 0.04),
        Trial(272, Outcome.OUT_OF_MEMORY, LIMIT, 0.03),
        Trial(268, Outcome.FITS, peak(268), 0.04),
    )
    memory = MemoryBreakdown(
        parameter_bytes=300_000,
        buffer_bytes=2_000,
        gradient_bytes=300_000,
        optimizer_bytes=600_000,
        activation_bytes_per_sample=PER_SAMPLE,
        other_bytes=100_000,
        limit_bytes=LIMIT,
        fixed_bytes=FIXED,
        per_sample_bytes=PER_SAMPLE,
        headroom_bytes=LIMIT - FIXED - 128 * PER_SAMPLE,
    )
    recommendation = Recommendation(
        plan=BatchPlan(128),
        learning_rate=0.002,
        learning_rate_rule="square_root",
        limited_by=Limit.NOISE,
        candidates=tuple(candidate(size) for size in SIZES),
        reason="128 is the smallest batch within 5% of the shortest predicted time to the target.",
        learning_rate_range=(16.0, 212.0),
        within_noise=(96, 256),
        advice=("Steps: 0.25x as many optimizer steps make one epoch.",),
    )
    return Report(
        recommendation=recommendation,
        probe=ProbeResult(trials, memory, Limit.MEMORY),
        measurements=tuple(measurement(size) for size in SIZES),
        noise_scale=NOISE,
        confirmation=Confirmation(
            BatchPlan(128), 0.002, 40, True, "memory held, loss fell from 2.31 to 0.42", 2.31, 0.42
        ),
        state_restored=True,
        caveats=("No loss_fn was given: cross-entropy was inferred from integer targets.",),
        environment=Environment(
            "cpu", "2 cores", "2.13.0", "3.11.9", "Linux", 2, optimizer="AdamW"
        ),
        base_batch_size=32,
        base_learning_rate=1e-3,
        seconds=(("probe", 1.2), ("measure", 9.5)),
    )


def accumulated() -> Report:
    """Memory binds: 268 × 4 accumulation steps on 2 devices, noise scale without upper end."""
    report = plain()
    plan = BatchPlan(268, 4, 2)
    noise = replace(NOISE, value=math.inf, low=900.0, high=math.inf)
    chosen = replace(candidate(268), plan=plan, chosen=True, relative_time=1, relative_samples=1)
    others = tuple(replace(each, chosen=False) for each in report.candidates)
    recommendation = replace(
        report.recommendation,
        plan=plan,
        learning_rate=0.00819,
        limited_by=Limit.MEMORY,
        candidates=(*others, chosen),
        learning_rate_range=None,
        within_noise=None,
        reason="Beyond 268 only accumulation reaches a larger batch.",
    )
    return replace(report, recommendation=recommendation, noise_scale=noise)


def bare() -> Report:
    """Only the probe: nothing measured, no noise scale, no rate, an awkward environment."""
    report = plain()
    recommendation = Recommendation(
        plan=BatchPlan(268),
        learning_rate=None,
        learning_rate_rule="fixed",
        limited_by=Limit.MEMORY,
        candidates=(),
        reason="Nothing was measured, so the largest that fits is all that is known.",
    )
    return replace(
        report,
        recommendation=recommendation,
        measurements=(),
        noise_scale=None,
        confirmation=None,
        state_restored=False,
        caveats=("<script>alert('caveat')</script> & more",),
        base_batch_size=None,
        base_learning_rate=None,
        seconds=(),
    )
