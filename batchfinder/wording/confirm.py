"""What is said of trainings at the recommended rate, and at others."""

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
        Judgement.OSCILLATED: "the loss oscillated more and more",
        Judgement.OUT_OF_MEMORY: "it ran out of memory",
        Judgement.AT_THE_EDGE: "the allocator kept flushing its cache, too close to the limit",
        Judgement.INDEX_LIMIT: "it exceeded an index limit of a kernel",
        Judgement.NO_UPDATE: "no parameter changed, or not in every update",
        Judgement.RATE_NOT_KEPT: "the rate that was set is not the one that was trained with",
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
        f"nothing that was tried was confirmed; {_pair(batch, rate)} came last: watch the first "
        "epochs with it"
    )


def _led(rate: float, lead: float, steps: int) -> str:
    return (
        f"doubling the learning rate ({format_rate(rate)}) reduced the loss at least "
        f"{100 * lead:.0f}% more in {steps} steps"
    )


def _lead(rate: float, lead: float, steps: int) -> str:
    return (
        f"{_led(rate, lead, steps)}: try {format_rate(2 * rate)}. A lead over so few steps may "
        "not last a long training, for which lower rates are better"
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


_CONFIRM: Mapping[str, str | Callable[..., str]] = {
    "confirm.failed": _failed,
    "confirm.nothing_held": _nothing,
    "confirm.nothing_no_update": (
        "{name} made {made} of {updates} updates of the confirmation, so that no learning rate is "
        "recommended: pass the optimizer that it wraps, or let it update at every step"
    ),
    "confirm.nothing_moved": (
        "no parameter changed in {updates} updates of the confirmation, so that no learning rate "
        "is recommended: look for gradients of zero, frozen parameters or a rate of zero"
    ),
    "confirm.nothing_not_kept": (
        "in {updates} updates of the confirmation the learning rate that was set is not the one "
        "that was trained with: a schedule inside the step writes its own, or another optimizer "
        "updates. So none is recommended; pass the schedule as scheduler= in place of stepping it, "
        "and the optimizer that is used as optimizer="
    ),
    "confirm.clipped": (
        "gradients were clipped in {clipped} of {updates} updates: their length is then the "
        "threshold's, whatever the gradient, and the rule for the learning rate was not tested on "
        "such trainings; Race() measures the rate with clipping"
    ),
    "confirm.no_time": "no time was left to confirm another plan",
    "confirm.lead": _lead,
    "confirm.raised": _raised,
    "confirm.lead_untried": _lead_untried,
    "confirm.lead_failed": _lead_failed,
}


_KEPT = "the rule's learning rate was not checked by a race"


def _moved(*, factor: float, batch: int, rule_rate: float, rate: float, at_least: bool) -> str:
    """``factor`` is the rate found over the rule's."""
    times = f"{'at least ' if at_least else ''}{max(factor, 1 / factor):.2g}x"
    place = "below" if factor > 1 else "above"
    return (
        f"your learning rate is {times} {place} what trains fastest here: at a batch of {batch:,} "
        f"the rule makes {rule_rate:.3g} of it, and a race of learning rates {rate:.3g}"
    )


def _result(
    *,
    rates: int,
    taken: int,
    batch: int,
    best: float,
    steps: int,
    held: int,
    averaged: bool,
    run_steps: float | None,
    rate: float,
    rule_rate: float,
) -> str:
    judged = "the average of the weights" if averaged else "the weights"
    said = (
        f"of {rates} learning rates tried at a batch of {batch:,} for {steps:,} optimizer steps "
        f"each ({taken:,} in all), {best:.3g} had the lowest loss, that of {judged} on {held:,} "
        "samples left out"
    )
    if run_steps is None:
        return f"{said}; {rate:.3g} allows for a run that is longer"
    if rate == rule_rate:
        return f"{said}; for a run of {run_steps:,.0f} steps that is no reason to leave {rate:.3g}"
    return f"{said}; for a run of {run_steps:,.0f} steps that comes to {rate:.3g}"


def _arm(*, rate: float, loss: float, steps: int, again: bool, ran_away: bool) -> str:
    outcome = f"diverged after {steps:,} steps" if ran_away else f"{loss:.4g}"
    return f"{rate:.3g}: {outcome}{' (another order of the data)' if again else ''}"


def _passes(*, passes: float, steps: int) -> str:
    return (
        f"the {steps:,} steps of each rate in the race went {passes:.2g} times over the data that "
        "were trained on; the batches that judged them were still left out"
    )


def _longer(exponent: float) -> str:
    root = {3: "cube root", 6: "sixth root"}.get(round(1 / exponent), f"{1 / exponent:.2g}th root")
    return (
        f"Should the training become k times as long, divide the learning rate by the {root} of k: "
        f"by {8**exponent:.2g} for 8 times the steps (found on small networks; arXiv:2409.19913)."
    )


_RACE: Mapping[str, str | Callable[..., str]] = {
    "race.moved": _moved,
    "race.passes": _passes,
    "race.result": _result,
    "race.arm": _arm,
    "race.arms": "Loss on samples left out, by learning rate: {arms}.",
    "race.longer": _longer,
    "race.remeasured": (
        "the learning rate moved by {factor:.2g}x in the race: the noise scale was measured and "
        "the batch size chosen again at the rate that was found"
    ),
    "race.at_edge": (
        "the best learning rate of the race, {rate:.3g}, was the last one tried: a better one may "
        "lie beyond it"
    ),
    "race.not_repeated": (
        "the best learning rate of the race, {rate:.3g}, was not repeated on another order of the "
        "data: the race had used up its share of the training"
    ),
    "race.length_unknown": (
        "{rate:.3g} trains fastest over about {steps:,} steps, and longer runs want a lower rate: "
        "pass training_steps= for a rate that fits the length of the run"
    ),
    "race.extrapolated": (
        "the run is {ratio:,}x as long as the trainings in the race: beyond {trusted}x its "
        "learning rate is an extrapolation; pass Race(steps=) for longer ones"
    ),
    "race.updates_itself": (
        f"{_KEPT}: train_step does its own backward and update, so that no batch can be judged "
        "without training on it"
    ),
    "race.coupled": (
        f"{_KEPT}: the loss couples the samples of a batch (contrastive, in-batch negatives), "
        "so that a lower loss on batches left out does not say which rate trains better"
    ),
    "race.several_optimizers": (
        f"{_KEPT}: {{count}} optimizers train different modules, whose losses may work against "
        "each other (as a generator's and a discriminator's do): no single loss says which rate "
        "is better"
    ),
    "race.too_little_data": (
        f"{_KEPT}: {{samples:,}} samples are too few to leave out a batch of {{batch:,}} and train "
        "on the rest"
    ),
    "race.all_ran_away": (
        f"{_KEPT}: the loss diverged at each of {{count}} rates from {{low:.3g}} to {{high:.3g}}"
    ),
    "race.no_progress": (
        f"{_KEPT}: after {{steps:,}} steps the loss on batches left out was {{loss:.4g}} at best, "
        "no lower than the {start:.4g} at the start, so that the rates cannot be told apart"
    ),
    "race.out_of_memory": f"{_KEPT}: memory ran out in it at a micro-batch of {{micro_batch:,}}",
    "race.ranks": f"{_KEPT}: it does not run across processes",
    "race.no_rate": f"{_KEPT}: no base learning rate is known to start from",
    "race.no_time": f"{_KEPT}: budget_seconds left no time for {{steps:,}} optimizer steps",
}


SENTENCES: Mapping[str, str | Callable[..., str]] = {**_CONFIRM, **_RACE}
