"""Sentences about a race of learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SENTENCES"]

_KEPT = "the rule's learning rate was not checked by a race"


def _moved(*, factor: float, batch: int, rule_rate: float, rate: float, at_least: bool) -> str:
    """``factor`` is the rate found over the rule's."""
    times = f"{'at least ' if at_least else ''}{max(factor, 1 / factor):.2g}x"
    place = "below" if factor > 1 else "above"
    return (
        f"your learning rate is {times} {place} what trains fastest here: at batch size {batch:,} "
        f"the rule gives {rule_rate:.3g}, and a race of learning rates gives {rate:.3g}"
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
    open_rates: tuple[float, float] | None,
    rate: float,
    rule_rate: float,
) -> str:
    judged = " with averaged weights" if averaged else ""
    said = (
        f"of {rates} learning rates tried at batch size {batch:,} for {steps:,} optimizer steps "
        f"each ({taken:,} in total), {best:.3g} had the lowest loss on {held:,} held-out "
        f"samples{judged}"
    )
    if run_steps is None or open_rates is None:
        return f"{said}; {rate:.3g} allows for a longer run"
    low, high = open_rates
    kept = f"{rate:.3g} is kept" if rate == rule_rate else f"{rate:.3g} instead of {rule_rate:.3g}"
    run = f"for a run of {run_steps:,.0f} steps"
    return f"{said}; {run} this leaves {low:.2g} to {high:.2g} possible: {kept}"


def _arm(*, rate: float, loss: float, steps: int, again: bool, ran_away: bool) -> str:
    outcome = f"diverged after {steps:,} steps" if ran_away else f"{loss:.4g}"
    return f"{rate:.3g}: {outcome}{' (another data order)' if again else ''}"


def _passes(*, passes: float, steps: int) -> str:
    return (
        f"the {steps:,} steps at each rate of the race made {passes:.2g} passes over the training "
        "data; the batches that rank the rates were still held out"
    )


def _longer(exponent: float) -> str:
    roots = {
        1 / 3: "the cube root of k",
        1 / 4: "the fourth root of k",
        1 / 8: "the eighth root of k",
    }
    divisor = roots.get(exponent, f"k^{exponent:.2g}")
    return (
        f"If the training becomes k times as long, divide the learning rate by {divisor}: by "
        f"{8**exponent:.2g} for 8 times the steps (found on small networks; arXiv:2409.19913)."
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "race.moved": _moved,
    "race.passes": _passes,
    "race.result": _result,
    "race.arm": _arm,
    "race.arms": "Held-out loss by learning rate: {arms}.",
    "race.longer": _longer,
    "race.remeasured": (
        "the race changed the learning rate by {factor:.2g}x, so the noise scale was measured and "
        "the batch size chosen again at the new rate"
    ),
    "race.at_edge": (
        "the best learning rate of the race, {rate:.3g}, was the last one tried: a better rate "
        "may lie beyond it"
    ),
    "race.not_repeated": (
        "the best learning rate of the race, {rate:.3g}, was not repeated with another data "
        "order: the race had used its share of the training"
    ),
    "race.length_unknown": (
        "{rate:.3g} trains fastest over about {steps:,} steps, and longer runs need a lower rate: "
        "pass training_steps= for a rate that fits the length of the run"
    ),
    "race.extrapolated": (
        "the run is {ratio:,}x as long as the trainings of the race; beyond {trusted}x the "
        "learning rate is an extrapolation. Pass Race(steps=) for longer trainings"
    ),
    "race.updates_itself": (
        f"{_KEPT}: train_step runs its own backward pass and update, so no batch can be "
        "evaluated without training on it"
    ),
    "race.coupled": (
        f"{_KEPT}: the loss couples the samples of a batch (contrastive, in-batch negatives), "
        "so a lower held-out loss does not show which rate trains better"
    ),
    "race.several_optimizers": (
        f"{_KEPT}: {{count}} optimizers train different modules, whose losses may work against "
        "each other (as a generator's and a discriminator's do): no single loss shows which rate "
        "is better"
    ),
    "race.too_little_data": (
        f"{_KEPT}: {{samples:,}} samples are too few to hold out a batch of {{batch:,}} and train "
        "on the rest"
    ),
    "race.all_ran_away": (
        f"{_KEPT}: the loss diverged at all {{count}} rates from {{low:.3g}} to {{high:.3g}}"
    ),
    "race.no_progress": (
        f"{_KEPT}: after {{steps:,}} steps the lowest held-out loss, {{loss:.4g}}, was within its "
        "scatter of the initial {start:.4g}, so the rates are indistinguishable"
    ),
    "race.alike": (
        f"{_KEPT}: after {{steps:,}} steps the losses at {{low:.3g}} to {{high:.3g}} differ by "
        "{difference:.2g}, and those of one rate with two data orders by {scatter:.2g}, so the "
        "rates are indistinguishable; pass Race(steps=) for longer trainings"
    ),
    "race.out_of_memory": f"{_KEPT}: it ran out of memory at micro-batch size {{micro_batch:,}}",
    "race.ranks": f"{_KEPT}: races do not run across processes",
    "race.no_rate": f"{_KEPT}: no base learning rate is known",
    "race.no_time": f"{_KEPT}: budget_seconds left no time for {{steps:,}} optimizer steps",
}
