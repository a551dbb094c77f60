"""Sentences of the training monitor: what it observed, and common remedies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from batchfinder.units import counted, format_count

__all__ = ["SENTENCES"]

_TOO_HIGH = "lower the learning rate, warm up longer, clip the gradient, or use a larger batch"


def _not_finite_gradient(finite: int, of: int) -> str:
    return (
        f"the gradient is not finite ({of - finite} of {of} micro-batches), although the loss may "
        "be; clip the gradient, lower the learning rate, and look for a division or a logarithm "
        "near zero; in float16 use a gradient scaler, or bfloat16"
    )


def _diverging(loss: float, level: float, scatter: float, steps: int) -> str:
    return (
        f"the loss has stayed above its trend for {steps:,} steps: {loss:.4g} against {level:.4g} "
        f"with a scatter of {scatter:.2g}; {_TOO_HIGH}"
    )


def _drifting(loss: float, best: float, error: float, steps: int) -> str:
    return (
        f"the loss is rising: its mean over {steps:,} steps is {loss:.4g}, up from {best:.4g} "
        f"(standard error {error:.2g}); {_TOO_HIGH}"
    )


def _spike(loss: float, level: float, scatter: float, steps: int) -> str:
    return (
        f"the loss jumped from {level:.4g} to {loss:.4g} (scatter {scatter:.2g}) and recovered "
        f"after {counted(steps, 'step')}; clip the gradient, inspect the batches around it, and "
        "with Adam lower beta2"
    )


def _oscillating(cosine: float, ratio: float) -> str:
    return (
        f"consecutive updates undo each other (mean cosine {cosine:.2f}, each {ratio:.1e} of the "
        "weights' norm): the learning rate is at the edge of what the curvature allows; halve it, "
        "or warm up longer. A larger batch does not help"
    )


def _erratic(ratio: float, usual: float) -> str:
    return (
        f"an update changed the weights by {ratio:.1e} of their norm, {ratio / usual:.1f}x the "
        f"usual change at this learning rate ({usual:.1e}); clip the gradient, raise Adam's "
        "epsilon or lower its beta2, or use a larger batch"
    )


def _stalled_level(loss: float, first: float, steps: int) -> str:
    return (
        f"the loss has not decreased in {steps:,} steps: {first:.4g} at first, {loss:.4g} now; "
        "check that the labels match the inputs and that the optimizer holds the model's "
        "parameters, and try a learning rate 10x higher and 10x lower"
    )


def _suggestion(
    *,
    noise: float,
    low: float,
    high: float,
    batch: int,
    rate: float,
    time: float,
    time_low: float,
    time_high: float,
) -> str:
    upper = format_count(high) if math.isfinite(high) else "no upper end"
    return (
        f"the noise scale is now {format_count(noise)} ({format_count(low)} to {upper}): with "
        f"batch size {batch:,} and learning rate {rate:.2g} the rest of the training takes "
        f"{time:.2g}x the time ({time_low:.2g} to {time_high:.2g})"
    )


def _not_divisible(found: str) -> str:
    return (
        f"the noise scale is not measured: the batch cannot be split in two ({found}); accumulate "
        "two or more micro-batches per step"
    )


def _not_counted(step: int, found: int, expected: int) -> str:
    if not found:
        seen = "no gradient of the optimizer's parameters was seen"
    else:
        seen = (
            f"gradients of {found:,} backward {'pass' if found == 1 else 'passes'} were seen for "
            f"{counted(expected, 'part')} of the batch"
        )
    return f"the noise scale was not measured at step {step:,}, and possibly later: {seen}"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "monitor.not_finite_loss": (
        "the loss is {loss}; go back to a checkpoint before step {step}, lower the learning rate, "
        "clip the gradient, and skip the batches around it; use bfloat16 instead of float16"
    ),
    "monitor.not_finite_gradient": _not_finite_gradient,
    "monitor.diverging": _diverging,
    "monitor.drifting": _drifting,
    "monitor.spike": _spike,
    "monitor.oscillating": _oscillating,
    "monitor.erratic": _erratic,
    "monitor.stalled_still": (
        "no weight changed in {updates} updates at learning rate {rate:.2g}; check that the "
        "optimizer holds the parameters of this model, that the loss depends on them, and that a "
        "gradient scaler does not skip every step"
    ),
    "monitor.stalled_level": _stalled_level,
    "monitor.suggestion": _suggestion,
    "monitor.not_divisible": _not_divisible,
    "monitor.batch_norm": (
        "the noise scale is not measured: with BatchNorm the two halves of a batch would be "
        "normalized separately, which changes the training; accumulate two or more micro-batches "
        "per step, or pass split_batch_norm=True if half a batch has 32 samples or more"
    ),
    "monitor.sharded": (
        "neither the noise scale nor updates are measured: the parameters are sharded, so no rank "
        "has the whole gradient"
    ),
    "monitor.one_backward": (
        "the noise scale is not measured: there is one backward pass per step, and the batch did "
        "not come from parts(); iterate over monitor.parts(batch), or accumulate"
    ),
    "monitor.rows": (
        "the noise scale is not measured: the batch has {rows:,} rows where batch_size says "
        "{samples:,} samples, so it is unclear where to split it; pass the loader's batch_size, or "
        "accumulate two or more micro-batches per step"
    ),
    "monitor.taken_anew": (
        "the noise scale is not measured: within one optimizer step the gradient is zeroed and "
        "recomputed (a closure that is called again, two passes over one batch), which leaves a "
        "single backward pass"
    ),
    "monitor.irregular": (
        "the noise scale was not measured at step {step:,}, and possibly at later ones: the step "
        "before had {before:,} backward passes, this one had one, and its batch was not cut; give "
        "every optimizer step the same number of micro-batches"
    ),
    "monitor.not_counted": _not_counted,
}
