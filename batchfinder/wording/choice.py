"""The choice in words: what to do, why, at which rate, and what limits it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batchfinder.outcomes import Limit, Why
from batchfinder.plans import BatchPlan, Candidate, Change, Loading, Recommendation
from batchfinder.rates import GroupRate
from batchfinder.units import counted, format_count, format_factor, format_rate, format_size
from batchfinder.wording.rates import before_words, rates_words

__all__ = [
    "RELAXED",
    "alternatives",
    "headline",
    "learning_rate_sentence",
    "limit_sentence",
    "loading_sentence",
    "plan_words",
    "says_why",
    "singular",
    "speedup_words",
    "steps_sentence",
    "why_sentence",
]

LIMITS = {
    Limit.MEMORY: "memory: a larger batch would not fit",
    Limit.NOISE: "gradient noise: a larger batch costs more samples than it saves steps",
    Limit.THROUGHPUT: "throughput: a larger batch is hardly faster per sample",
    Limit.DATASET: "the dataset: it has no more samples",
    Limit.USER: "your ceiling on the batch size",
    Limit.INDEX: "an index limit: a kernel cannot address a larger batch, regardless of memory",
    Limit.TIME: "time: larger batches were not tried",
    Limit.DATA_LOADING: "data loading: the loader delivers samples more slowly than the model "
    "processes them",
    Limit.UPDATES: "the length of the training: a larger batch leaves it too few optimizer steps",
    Limit.EVIDENCE: "measurement uncertainty: no other size is reliably faster",
    Limit.CONFIRMATION: "the confirmation: a batch size predicted to be faster was not confirmed "
    "by training",
}
RELAXED = {
    Limit.MEMORY: "More memory would allow a larger batch that reaches the same loss sooner.",
    Limit.NOISE: "More memory would not change the choice. Beyond the noise scale, each sample "
    "added to a batch contributes less than the one before.",
    Limit.THROUGHPUT: "More memory would not change the choice. The device is fully used, so a "
    "larger batch takes proportionally longer.",
    Limit.DATASET: "A larger batch cannot be filled.",
    Limit.USER: "Raise it to search further.",
    Limit.INDEX: "Accumulation can go beyond it.",
    Limit.TIME: "A larger budget_seconds extends the search.",
    Limit.DATA_LOADING: "A larger batch would only wait longer for its samples.",
    Limit.UPDATES: "A longer training could use a larger batch.",
    Limit.EVIDENCE: "A narrower noise-scale interval or more stable timings may reveal one.",
    Limit.CONFIRMATION: "More memory would not change the choice. A warm-up, gradient clipping or "
    "another optimizer may let a larger batch train.",
}
_RULES = {
    "adascale": "by the linear rule, capped at the critical batch size",
    "square_root_capped": "by the square-root rule, capped at the critical batch size",
    "linear": "by the linear rule",
    "square_root": "by the square-root rule",
    "race": "measured in a race of learning rates",
}
_KEPT = ("fixed", "lower_only")
_SINGULAR = {"samples": "sample", "tokens": "token"}
SHOWN_ALTERNATIVES = 3


def singular(unit: str) -> str:
    """One of what batch sizes count."""
    return _SINGULAR.get(unit, unit)


def plan_words(plan: BatchPlan) -> str:
    """``"1,024 x 16 accumulation steps x 2 devices"``; factors of one are left out."""
    parts = [format_size(plan.micro_batch)]
    if plan.accumulation_steps > 1:
        parts.append(f"{plan.accumulation_steps} accumulation steps")
    if plan.world_size > 1:
        parts.append(f"{plan.world_size} devices")
    return " x ".join(parts)


def limit_sentence(limit: Limit) -> str:
    """What would have to change for a larger batch."""
    return LIMITS[limit]


def says_why(recommendation: Recommendation) -> bool:
    """Whether the headline already gives the reason."""
    kept = _is_kept(recommendation)
    return recommendation.loading is not None or (kept and recommendation.why is Why.FASTEST)


def headline(recommendation: Recommendation, rates: Sequence[GroupRate] = ()) -> str:
    """The answer: keep, or move from where to where; how much faster; what limits it.

    Args:
        recommendation: the choice.
        rates: every parameter group's, all of which are named where they differ.
    """
    answer = _what_to_do(recommendation, rates)
    if recommendation.loading is not None:
        return f"{answer}: {loading_sentence(recommendation.loading)}."
    if _is_kept(recommendation):
        return f"{answer}: {_KEEP[recommendation.why]}."
    if recommendation.why is Why.LAST_TRIED:
        return f"{answer}, with care: {_KEEP[recommendation.why]}."
    gain = "" if recommendation.speedup is None else f": {speedup_words(recommendation)}"
    limit = f"limited by {recommendation.limited_by.value}"
    return f"{answer}{gain}; {limit}."


_KEEP = {
    Why.FASTEST: "it has the shortest predicted time to the same loss",
    Why.NEAR_FASTEST: "nothing measured is reliably faster",
    Why.SURELY_FASTER: "it is the fastest that is reliably faster than yours",
    Why.YOURS_IS_AS_GOOD: "nothing measured is reliably faster",
    Why.YOURS_WAITS_FOR_DATA: "training waits for its data",
    Why.YOURS_WITHOUT_NOISE: (
        "the noise scale is unknown, so no other size can be shown to train faster"
    ),
    Why.THROUGHPUT_KNEE: "larger batches are hardly faster per sample",
    Why.OBJECTIVE: "your objective chose it",
    Why.CONFIRMED: "it was confirmed by training",
    Why.LAST_TRIED: "no candidate was confirmed by training",
    Why.YOURS_FOR_WANT_OF_BETTER: "no candidate was confirmed by training",
}


def _is_kept(recommendation: Recommendation) -> bool:
    change = recommendation.change
    return change is not None and change.base_batch_is_yours and change.batch == change.base_batch


def _what_to_do(recommendation: Recommendation, rates: Sequence[GroupRate]) -> str:
    plan, rate = recommendation.plan, recommendation.learning_rate
    at = rates_words(rates) or ("" if rate is None else f" at learning rate {format_rate(rate)}")
    change = recommendation.change
    if change is None or not change.base_batch_is_yours:
        return f"Use batch size {plan_words(plan)}{at}"
    base = change.base_rate if change.base_rate_is_yours else None
    was = "" if base is None else before_words(rates, base)
    if _is_kept(recommendation):
        moved = rate is not None and base is not None and not math.isclose(rate, base)
        instead = f" instead of {was}" if moved and was else ""
        return f"Keep batch size {plan_words(plan)}{at}{instead}"
    own = format_size(change.base_batch)
    if plan.global_batch > plan.micro_batch:
        own += " per optimizer step"
    if was:
        own += f" at {was}"
    return f"Use batch size {plan_words(plan)}{at} instead of {own}"


def speedup_words(recommendation: Recommendation) -> str:
    """``"predicted 1.2x to 1.6x faster to the same loss"``, from the interval; never a bare factor.

    Without a noise scale the time is that of the same number of samples.
    """
    speedup = recommendation.speedup
    if speedup is None:
        return ""
    known = recommendation.change is not None and recommendation.change.critical is not None
    goal = "to the same loss" if known else "per sample"
    low, high = format_factor(speedup.low), format_factor(speedup.high)
    if speedup.low >= 1:
        return f"predicted {low} to {high} faster {goal}"
    if speedup.high <= 1:
        slow, slower = format_factor(1 / speedup.high), format_factor(1 / speedup.low)
        return f"predicted {slow} to {slower} slower {goal}"
    return f"predicted {low} to {high} the speed {goal}"


def loading_sentence(loading: Loading) -> str:
    """Both rates, what helps, and the size to use once the loader keeps up."""
    helps = "use workers" if loading.workers == 0 else f"use more workers ({loading.workers} now)"
    said = (
        f"training waits for data. The loader delivers "
        f"{format_count(loading.samples_per_second)} samples/s, the model takes "
        f"{format_count(loading.model_samples_per_second)}: {helps}, cache decoded samples, or "
        "decode on the device"
    )
    size = loading.plan.global_batch
    if size == loading.batch_size:
        return f"{said}; this batch size remains right once the loader keeps up"
    return f"{said}; once the loader keeps up, batch size {format_size(size)} is recommended"


def why_sentence(recommendation: Recommendation) -> str:
    """Why this plan."""
    size, why = format_size(recommendation.plan.global_batch), recommendation.why
    kept = _is_kept(recommendation)
    said = {
        Why.FASTEST: f"{size} has the shortest predicted time to the same loss",
        Why.NEAR_FASTEST: f"{size} is the smallest round batch size within 3% of the shortest "
        "predicted time to the same loss",
        Why.SURELY_FASTER: f"{size} is the fastest of the sizes that are reliably faster than "
        "yours; others may be faster still, but the measurements do not settle this",
        Why.YOURS_IS_AS_GOOD: f"{size} is yours; no other size is at least 5% faster over the "
        "whole uncertainty of noise scale, step times and learning-rate rule",
        Why.YOURS_WAITS_FOR_DATA: f"{size} is yours; no batch size makes the loader faster",
        Why.YOURS_WITHOUT_NOISE: f"{size} is yours; without a noise scale, the gain from a larger "
        "batch is unknown",
        Why.THROUGHPUT_KNEE: f"{size} is the throughput knee: the smallest batch size within 10% "
        "of the most samples per second",
        Why.OBJECTIVE: f"{size} is the choice of the objective {recommendation.objective}",
        Why.CONFIRMED: f"{size} is the candidate that passed the confirmation by training",
        Why.LAST_TRIED: f"{size} was tried last, and was not confirmed either",
        Why.YOURS_FOR_WANT_OF_BETTER: f"{size} is yours; no other candidate was confirmed",
    }[why]
    if kept and why is Why.NEAR_FASTEST:
        return f"{size} is yours, and within 10% of the shortest predicted time to the same loss"
    return said


def learning_rate_sentence(recommendation: Recommendation) -> str:
    """``"0.0038: 3.8x your 0.001 (1.9x by the square-root rule, doubled because ...)"``."""
    rate, change = recommendation.learning_rate, recommendation.change
    if rate is None:
        return "none: no base rate is known; pass optimizer= or base_learning_rate="
    if change is None or not change.base_rate:
        return format_rate(rate)
    base = f"{'your' if change.base_rate_is_yours else 'the base rate'} "
    base += format_rate(change.base_rate)
    ratio = rate / change.base_rate
    peak = "" if change.schedule is None else ", the peak of your schedule"
    if math.isclose(ratio, 1, rel_tol=1e-3):
        return f"{format_rate(rate)}{peak}, unchanged"
    derived = _derived(recommendation, ratio)
    return f"{format_rate(rate)}{peak}: {format_factor(ratio)} {base} ({derived})"


def _derived(recommendation: Recommendation, ratio: float) -> str:
    name, factor = recommendation.learning_rate_rule, recommendation.rule_factor
    rule = _RULES.get(name, f"by the rule {name}")
    by_rule = f"{format_factor(ratio / factor)} {rule}"
    if name in _KEPT:
        by_rule = "the rule keeps it"
    if math.isclose(factor, 1, rel_tol=1e-3):
        return by_rule if name in _KEPT else rule
    if factor > 1:
        more = "doubled" if math.isclose(factor, 2) else f"raised {format_factor(factor)}"
        return f"{by_rule}, then {more} because that trained faster"
    less = "halved" if math.isclose(factor, 0.5) else f"lowered {format_factor(1 / factor)}"
    return f"{by_rule}, then {less} because the higher rate was not confirmed"


def alternatives(recommendation: Recommendation, unit: str) -> Iterator[str]:
    """The faster one, if any, then those with a role: what each would cost."""
    others = [candidate for candidate in recommendation.candidates if not candidate.chosen]
    faster = [candidate for candidate in others if candidate.relative_time < 0.995]
    picked = [min(faster, key=lambda candidate: candidate.relative_time)] if faster else []
    picked += [candidate for candidate in others if candidate.roles and candidate not in picked]
    for candidate in picked[:SHOWN_ALTERNATIVES]:
        yield _price(candidate, unit)


def _price(candidate: Candidate, unit: str) -> str:
    plan = candidate.plan
    name = format_size(plan.global_batch)
    if plan.accumulation_steps > 1:
        name += f" as {plan_words(plan)}"
    if candidate.roles:
        name += f" ({', '.join(role.value for role in candidate.roles)})"
    said = f"{name}: {format_factor(candidate.relative_time)} the time"
    if not math.isfinite(candidate.relative_samples):
        return f"{said} per {singular(unit)}"
    return f"{said} and {format_factor(candidate.relative_samples)} the {unit}"


def steps_sentence(change: Change | None) -> str:
    """How many optimizer steps and epochs reach the same loss; empty where this is unknown."""
    if change is None or change.batch == change.base_batch:
        return ""
    steps = change.steps_factor
    if steps is None:
        return _per_epoch(change)
    said = (
        f"the same loss takes about {format_factor(steps)} your optimizer steps, or "
        f"{format_factor(steps * change.factor)} your epochs"
    )
    if change.training_steps is not None:
        count, before = format_count(steps * change.training_steps), change.training_steps
        same = format_size(round(before / change.factor))
        return f"{said}: {count} steps instead of {format_size(before)} ({same} for equal epochs)"
    each = _per_epoch(change)
    return f"{said} ({each})" if each else said


def _per_epoch(change: Change) -> str:
    """How many optimizer steps an epoch has now; empty for a stream."""
    before, now = change.steps_per_epoch(change.base_batch), change.steps_per_epoch(change.batch)
    if before is None or now is None:
        return ""
    return f"{counted(now, 'step')} per epoch instead of {format_size(before)}"
