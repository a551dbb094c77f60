"""What is said of the gradient noise scale, and of the warm-up along which it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchfinder.units import counted, format_count

__all__ = ["SENTENCES"]


def _wide(ended: str, samples: int, unit: str) -> str:
    if ended:
        return f"the noise scale's interval is wide: {ended} ended after {samples:,} {unit}"
    return f"the noise scale's interval is wide even after {samples:,} {unit}, all it may spend"


def _at_start(of: int) -> str:
    if of:
        return (
            f"there was time for none of {of:,} warm-up steps, so the noise scale is that of the "
            "current weights; this usually underestimates the noise scale of the full run"
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
    return f"{stopped}; the noise scale is still growing then, so it is more likely too low"


def _unbounded(samples: int, unit: str, low: float) -> str:
    return (
        f"with {samples:,} {unit} the mean gradient is not distinguishable from zero: the noise "
        f"scale is at least {format_count(low)} and may be much larger"
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "noise.updates_itself": (
        "train_step runs backward and the update itself, so gradients of single batches are not "
        "visible, nor whether they are clipped: the noise scale cannot be measured. Have it return "
        "the loss instead"
    ),
    "noise.shared_samples": (
        "ranks that share a model's layers or sequences see the same samples, and each holds a "
        "part of their gradient: the noise scale is not measured under tensor or context "
        "parallelism"
    ),
    "noise.one_process": (
        "expected one process for the gradients of single samples; found several: the default "
        "estimator compares the ranks' own gradients"
    ),
    "noise.coupled": (
        "the loss of a batch is {ratio:.2f} times the mean loss of its halves: the loss couples "
        "samples (contrastive, in-batch negatives, ...), so per-sample gradients, and hence the "
        "noise scale, are undefined"
    ),
    "noise.sum_reduced": (
        "the loss is a sum over the batch, not a mean: the noise scale is that of its mean, and "
        "with this loss the size of an update already grows with the batch"
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
        "dropout was active, as in training; the noise of its masks is part of the noise scale"
    ),
    "noise.alike": (
        "the gradients of all samples are equal up to rounding, so the noise scale is 0 and a "
        "larger batch adds nothing; check that the loader's samples differ"
    ),
    "noise.not_finite": (
        "{count} of {of} micro-batches had gradients that are not finite; the noise scale leaves "
        "them out"
    ),
    "noise.steps_not_finite": lambda count: (
        f"{counted(count, 'warm-up step')} had gradients that are not finite; the noise scale "
        f"leaves {'it' if count == 1 else 'them'} out"
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
    "noise.sizes_left_out": "the time ran out before the noise scale of each size was measured",
    "noise.absent": "no noise scale: {why}",
    "noise.no_time": (
        "there was time for {taken} of {of} warm-up steps, too few for a noise scale; "
        "raise budget_seconds"
    ),
    "noise.at_start": _at_start,
    "noise.short": _short,
    "noise.enough": (
        "the warm-up ended after {taken} of {of} steps: the recommended batch size is the same at "
        "every noise scale that the rest of it is likely to show"
    ),
    "noise.cut": "there was time for {taken} of {of} warm-up steps",
}
