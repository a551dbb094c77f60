"""What is said of the noise scale, and of a recommendation that rests on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchfinder.units import counted, format_count, format_size

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


_NOISE: Mapping[str, str | Callable[..., str]] = {
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
        "both ends of the noise scale's interval, so measuring longer would not change it"
    ),
    "noise.cut": "there was time for {taken} of {of} warm-up steps",
}


_NAMES = {
    "lion": "Lion",
    "muon": "Muon",
    "adafactor": "Adafactor",
    "shampoo": "Shampoo",
    "unknown": "this optimizer",
}


def _name(optimizer: str) -> str:
    return _NAMES.get(optimizer, "this optimizer")


def _by_analogy(optimizer: str) -> str:
    return (
        f"the square-root rule for {_name(optimizer)} is by analogy with Adam (untested here): "
        "also try half and twice the rate"
    )


def _unknown(optimizer: str) -> str:
    return (
        f"no rule is known for how {_name(optimizer)}'s learning rate scales with the batch size: "
        "your rate is kept for larger batches; also try twice the rate"
    )


def _noise_open(low: float) -> str:
    return (
        f"the noise scale is only bounded from below (at least {format_count(low)}): a larger "
        "batch than the recommended one may train faster"
    )


def _noise_wide(smallest: int, largest: int) -> str:
    return (
        f"within the interval of the noise scale the fastest batch size ranges from "
        f"{format_size(smallest)} to {format_size(largest)}; estimating it from more samples "
        "would narrow this"
    )


def _short_epoch(steps: int, batch: int, length: int) -> str:
    return (
        f"an epoch has only {counted(steps, 'step')} at batch size {format_size(batch)} "
        f"({format_size(length)} samples): schedules and statistics per epoch become coarse"
    )


def _decays(steps: int | None, same_loss: float, same_epochs: float) -> str:
    if steps is None:
        loss, epochs = (f"{each:.2g}x its steps" for each in (same_loss, same_epochs))
    else:
        loss = f"{format_size(round(same_loss * steps))} of its {format_size(steps)} steps"
        epochs = format_size(round(same_epochs * steps))
    return (
        f"your learning rate decays: for the same loss give its schedule {loss}. The same epochs "
        f"have {epochs}, after which the rate has decayed and the loss is higher"
    )


def _few_updates(steps: int, fewest: int, largest: int, told: str) -> str:
    said = (
        f"of {format_size(steps)} optimizer steps a batch size above {format_size(largest)} would "
        f"leave fewer than {fewest} in the same epochs: none was considered"
    )
    if not told:
        return said
    return f"{said}. The length was read from {told}: pass training_steps= if that is wrong"


_RECOMMEND: Mapping[str, str | Callable[..., str]] = {
    "recommend.no_noise_scale": (
        "the noise scale is unknown, so the size was chosen by throughput alone: a larger or "
        "smaller one may train faster"
    ),
    "recommend.no_noise_kept": (
        "the noise scale is unknown, so your own batch size is kept: a larger or smaller one may "
        "train faster"
    ),
    "recommend.noise_open": _noise_open,
    "recommend.noise_wide": _noise_wide,
    "recommend.short_epoch": _short_epoch,
    "recommend.few_updates": _few_updates,
    "recommend.decays": _decays,
    "recommend.no_headroom": (
        "no measured size leaves the requested headroom: the recommended one uses all of the "
        "memory; lower headroom, or free memory"
    ),
    "recommend.nothing_allowed": (
        "no measured size satisfies your limits and the length of the dataset"
    ),
    "recommend.rate_by_analogy": _by_analogy,
    "recommend.rate_unknown": _unknown,
    "recommend.rate_is_found": (
        "the optimizer finds its own learning rate: yours only multiplies it, and is kept at "
        "every batch size"
    ),
    "recommend.far_from_base": (
        "the recommended batch size is more than 16x away from yours ({base}), beyond the range "
        "in which the learning-rate rules were tested: tune the rate"
    ),
    "recommend.rate_uncapped": (
        "without a noise scale the learning rate could not be capped at the critical batch size: "
        "also try half of it"
    ),
}


SENTENCES: Mapping[str, str | Callable[..., str]] = {**_NOISE, **_RECOMMEND}
