"""Sentences about a recommendation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchfinder.rates import OptimizerFamily
from batchfinder.units import counted, format_count, format_size

__all__ = ["SENTENCES"]

_NAMES: Mapping[str, str] = {
    OptimizerFamily.LION: "Lion",
    OptimizerFamily.MUON: "Muon",
    OptimizerFamily.ADAFACTOR: "Adafactor",
    OptimizerFamily.SHAMPOO: "Shampoo",
    OptimizerFamily.UNKNOWN: "this optimizer",
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
        f"the noise scale is only bounded from below (at least {format_count(low)}): a batch "
        "larger than the recommended one may train faster"
    )


def _noise_wide(smallest: int, largest: int) -> str:
    return (
        f"within the noise-scale interval the fastest batch size ranges from "
        f"{format_size(smallest)} to {format_size(largest)}; estimating the noise scale from more "
        "samples would narrow this range"
    )


def _short_epoch(steps: int, batch: int, length: int) -> str:
    return (
        f"an epoch has only {counted(steps, 'step')} at batch size {format_size(batch)} "
        f"({format_size(length)} samples): per-epoch schedules and statistics become coarse"
    )


def _decays(steps: int | None, same_loss: float, same_epochs: float) -> str:
    if steps is None:
        loss, epochs = (f"{each:.2g}x its steps" for each in (same_loss, same_epochs))
    else:
        loss = f"{format_size(round(same_loss * steps))} steps instead of {format_size(steps)}"
        epochs = format_size(round(same_epochs * steps))
    return (
        f"your learning rate decays: to reach the same loss, give its schedule {loss}. The same "
        f"number of epochs has {epochs}, which end with a decayed rate and a higher loss"
    )


def _few_updates(steps: int, fewest: int, largest: int, told: str) -> str:
    said = (
        f"batch sizes above {format_size(largest)} were not considered: in the same number of "
        f"epochs they would leave fewer than {fewest} of {format_size(steps)} optimizer steps"
    )
    if not told:
        return said
    return f"{said}. The length was read from {told}: pass training_steps= if that is wrong"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
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
        "no measured size leaves the requested headroom, so the recommended one uses all of the "
        "memory: lower headroom=, or free memory"
    ),
    "recommend.nothing_allowed": (
        "no measured size satisfies your limits and the length of the dataset"
    ),
    "recommend.rate_by_analogy": _by_analogy,
    "recommend.rate_unknown": _unknown,
    "recommend.rate_is_found": (
        "the optimizer adapts its own learning rate: yours only multiplies it, and is kept at "
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
