"""Sentences about a confirmation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchfinder.outcomes import Judgement
from batchfinder.units import format_count, format_rate, format_size

__all__ = ["SENTENCES", "judgement_words"]


def judgement_words(judgement: Judgement, first: float, last: float, detail: str = "") -> str:
    """A clause with the losses in it: ``"the loss rose from 2.3 to 4.1"``."""
    said = {
        Judgement.HELD: f"the loss went from {first:.4g} to {last:.4g}",
        Judgement.NO_LOSS: "it ran within memory; the step returns no loss to judge by",
        Judgement.NOT_FINITE: "the loss became NaN or infinite",
        Judgement.ROSE: f"the loss rose from {first:.4g} to {last:.4g}",
        Judgement.OSCILLATED: "the loss oscillated with growing amplitude",
        Judgement.OUT_OF_MEMORY: "it ran out of memory",
        Judgement.AT_THE_EDGE: "the allocator kept flushing its cache: too close to the limit",
        Judgement.INDEX_LIMIT: "it exceeded an index limit of a kernel",
        Judgement.NO_UPDATE: "no parameter changed, or not in every update",
        Judgement.RATE_NOT_KEPT: "training did not use the rate that was set",
    }[judgement]
    return f"{said} ({detail})" if detail else said


def _pair(batch: int, *rates: float | None) -> str:
    known = [format_rate(rate) for rate in rates if rate is not None]
    if not known:
        return f"batch size {format_size(batch)}"
    listed = known[0] if len(known) == 1 else f"{', '.join(known[:-1])} and {known[-1]}"
    return f"batch size {format_size(batch)} at learning rate {listed}"


def _failed(
    *,
    batch: int,
    rates: tuple[float, ...],
    judgement: str,
    first: float,
    last: float,
    doubled: bool,
    detail: str = "",
) -> str:
    words = judgement_words(Judgement[judgement], first, last, detail)
    when = "at twice that rate " if doubled else ""
    if len(rates) > 1:
        when = f"at {'twice ' * doubled}{format_rate(rates[0])} "
    return f"{_pair(batch, *rates)} was not confirmed: {when}{words}"


def _nothing(batch: int, rate: float | None) -> str:
    return (
        f"no candidate was confirmed; {_pair(batch, rate)} was tried last: watch its first epochs"
    )


def _led(rate: float, lead: float, steps: int) -> str:
    return (
        f"doubling the learning rate ({format_rate(rate)}) reduced the loss at least "
        f"{100 * lead:.0f}% more in {steps} steps"
    )


def _lead(rate: float, lead: float, steps: int) -> str:
    return (
        f"{_led(rate, lead, steps)}: try {format_rate(2 * rate)}. A lead over so few steps may "
        "not persist in a long training, where lower rates do better"
    )


def _raised(rate: float, lead: float, steps: int, critical: float) -> str:
    return (
        f"{_led(rate, lead, steps)}, so the noise-scale estimate was too conservative: batch "
        "size, costs and rate were recomputed with the upper end of its interval "
        f"({format_count(critical)}), and the rate was then raised further"
    )


def _lead_untried(rate: float, lead: float, steps: int) -> str:
    return f"{_led(rate, lead, steps)}; no time was left to confirm a higher rate"


def _lead_failed(*, rate: float, lead: float, steps: int, **failed: Any) -> str:
    return f"{_led(rate, lead, steps)}, but {_failed(**failed)}"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "confirm.failed": _failed,
    "confirm.nothing_held": _nothing,
    "confirm.nothing_no_update": (
        "{name} made {made} of the confirmation's {updates} updates, so no learning rate is "
        "recommended: pass the optimizer that it wraps, or let it update at every step"
    ),
    "confirm.nothing_moved": (
        "no parameter changed in the confirmation's {updates} updates, so no learning rate is "
        "recommended: check for zero gradients, frozen parameters or a rate of zero"
    ),
    "confirm.nothing_not_kept": (
        "in the confirmation's {updates} updates training did not use the learning rate that was "
        "set, so none is recommended: a schedule inside the step overwrites it, or another "
        "optimizer updates. Pass the schedule as scheduler= instead of stepping it, and the "
        "optimizer in use as optimizer="
    ),
    "confirm.clipped": (
        "gradients were clipped in {clipped} of {updates} updates, which fixes their norm at the "
        "threshold; the learning-rate rule was not tested on such trainings. Race() measures the "
        "rate with clipping"
    ),
    "confirm.no_time": "no time was left to confirm another plan",
    "confirm.lead": _lead,
    "confirm.raised": _raised,
    "confirm.lead_untried": _lead_untried,
    "confirm.lead_failed": _lead_failed,
}
