"""Sentences about the gradient noise scale and the warm-up in which it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchfinder.units import counted, format_count

__all__ = ["SENTENCES"]


def _wide(ended: str, samples: int, unit: str) -> str:
    if ended:
        return f"the noise-scale interval is wide: {ended} ended after {samples:,} {unit}"
    return f"the noise-scale interval is wide even after {samples:,} {unit}, the most allowed"


def _at_start(of: int) -> str:
    if of:
        return (
            f"there was no time for any of {of:,} warm-up steps, so the noise scale was measured "
            "at the current weights; this usually underestimates the noise scale of the full run"
        )
    return (
        "the noise scale was measured at the current weights; early in training this usually "
        "underestimates the noise scale of the full run"
    )


def _short(taken: int, of: int) -> str:
    stopped = (
        f"there was time for {taken:,} of {of:,} warm-up steps"
        if taken < of
        else f"the warm-up of {counted(taken, 'step')} is short"
    )
    return f"{stopped}; the noise scale is still growing at that point, so it is probably too low"


def _unbounded(samples: int, unit: str, low: float) -> str:
    return (
        f"with {samples:,} {unit} the mean gradient is not distinguishable from zero: the noise "
        f"scale is at least {format_count(low)} and may be much larger"
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "noise.updates_itself": (
        "train_step runs the backward pass and the update itself, so neither the gradients of "
        "single batches nor clipping can be observed, and the noise scale cannot be measured. "
        "Return the loss from it instead"
    ),
    "noise.shared_samples": (
        "the noise scale is not measured under tensor or context parallelism: ranks that share "
        "layers or sequences see the same samples, and each holds only part of the gradient"
    ),
    "noise.one_process": (
        "expected one process for per-sample gradients; found several. Use the default estimator, "
        "which compares the gradients of the ranks"
    ),
    "noise.coupled": (
        "the loss of a batch is {ratio:.2f} times the mean loss of its halves: the loss couples "
        "samples (contrastive, in-batch negatives, ...), so per-sample gradients, and hence the "
        "noise scale, are undefined"
    ),
    "noise.sum_reduced": (
        "the loss is summed over the batch, not averaged: the noise scale is that of the mean, and "
        "the size of an update already grows with the batch"
    ),
    "noise.batch_norm": (
        "the model uses BatchNorm, so the noise scale depends on the micro-batch size; this value "
        "is for micro-batches of {size}"
    ),
    "noise.batch_norm_small": (
        "the model uses BatchNorm, which with micro-batches of {size} (below about 32) adds noise "
        "of its own and makes the noise scale too large"
    ),
    "noise.dropout": (
        "dropout was active, as in training; the noise scale includes the noise of its masks"
    ),
    "noise.alike": (
        "the gradients of all samples are equal up to rounding, so the noise scale is 0 and a "
        "larger batch adds nothing; check that the loader's samples differ"
    ),
    "noise.not_finite": (
        "{count} of {of} micro-batches had gradients that are not finite; the noise scale excludes "
        "them"
    ),
    "noise.steps_not_finite": lambda count: (
        f"{counted(count, 'warm-up step')} had gradients that are not finite; the noise scale "
        f"excludes {'it' if count == 1 else 'them'}"
    ),
    "noise.wide": _wide,
    "noise.unbounded": _unbounded,
    "noise.loss_rose": (
        "the loss rose during the warm-up, from {first:.3g} to {last:.3g}; the base learning rate "
        "may be too high"
    ),
    "noise.smaller": lambda why, steps, size: (
        f"{why} after {counted(steps, 'warm-up step')}; continued with micro-batches of {size:,} "
        "(with accumulation, so the batch is unchanged)"
    ),
    "noise.smaller_at_last": "{why}; the noise scale was measured with smaller ones",
    "noise.fell_back": (
        "memory ran out with micro-batches of {size}; fell back to micro-batches of {fitting} "
        "(with accumulation, so the batch is unchanged)"
    ),
    "noise.no_room": ("{why}, which cannot be made smaller; the noise scale could not be measured"),
    "noise.moment": lambda steps, why: (
        f"no noise scale after {counted(steps, 'warm-up step')}: {why}"
    ),
    "noise.size_absent": "no noise scale at micro-batch size {size}: {why}",
    "noise.sizes_left_out": "time ran out before the noise scale was measured at every size",
    "noise.absent": "no noise scale: {why}",
    "noise.no_time": (
        "there was time for {taken} of {of} warm-up steps, too few for a noise scale; "
        "raise budget_seconds"
    ),
    "noise.at_start": _at_start,
    "noise.short": _short,
    "noise.enough": (
        "the warm-up ended early, after {taken} of {of} steps: the remaining steps are unlikely to "
        "change the recommended batch size"
    ),
    "noise.cut": "there was time for {taken} of {of} warm-up steps",
}
