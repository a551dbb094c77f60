"""What does a larger batch buy? The noise scale along a short real warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from batchfinder.noise import noise_along_warmup
from batchfinder.protocols import NoiseEstimator
from batchfinder.results import Measurement, NoiseFindings, Note, ProbeResult, Stage
from batchfinder.stages.base import Base
from batchfinder.stages.call import Call, stage

__all__ = ["at_rate", "estimate_noise", "with_noise"]

_UPDATES_ITSELF = (
    "train_step returns None, so it does its own backward and update: the gradient of one batch "
    "cannot be seen, and the gradient noise scale is absent"
)


def estimate_noise(
    call: Call,
    estimator: NoiseEstimator | None,
    probed: ProbeResult,
    base: Base,
    *,
    warmup_steps: int,
) -> NoiseFindings:
    """Train a short way for real, look at the noise along it; the caller puts all back."""
    bench = call.bench
    if estimator is None:
        return NoiseFindings(training=None)
    if bench.step.updates_itself:
        call.observe(Note(_UPDATES_ITSELF))
        return NoiseFindings(training=None, caveats=(_UPDATES_ITSELF,))
    with stage(call, Stage.NOISE, f"{warmup_steps} warm-up steps at batch {base.batch_size}"):
        bench.training()
        with at_rate(call, base.learning_rate):
            return noise_along_warmup(
                bench.step,
                bench.source,
                base_batch=base.batch_size,
                micro_batch=base.micro_batch(probed.max_batch_size),
                warmup_steps=warmup_steps,
                estimator=estimator,
                budget_seconds=call.budget.share(0.6),
                observe=call.observe,
            )


@contextmanager
def at_rate(call: Call, learning_rate: float | None) -> Iterator[None]:
    """Train at this rate: every group's is scaled as the first one's. Undone by a restore."""
    now = call.bench.step.learning_rate()
    if learning_rate is not None and now:
        call.bench.step.scale_learning_rate(learning_rate / now)
    yield


def with_noise(
    measurements: tuple[Measurement, ...], findings: NoiseFindings
) -> tuple[Measurement, ...]:
    """The measurements, each with the noise scale measured at its own micro-batch, if any."""
    by_size = {found.micro_batch: found for found in findings.per_size}
    return tuple(
        replace(each, noise_scale=by_size[each.batch_size]) if each.batch_size in by_size else each
        for each in measurements
    )
