"""A recommendation after its confirmation: another plan or another rate was what held."""

from __future__ import annotations

import math
from dataclasses import replace

from batchfinder.results import BatchPlan, Candidate, Limit, Recommendation

__all__ = ["settled"]

_OFTEN = {1: "once", 2: "twice"}
_TIED_TO_THE_RATE = "Weight decay"


def settled(
    recommendation: Recommendation,
    plan: BatchPlan,
    learning_rate: float | None,
    why: str,
    *,
    out_of_memory: bool = False,
    held: bool = True,
) -> Recommendation:
    """The recommendation moved to the plan and rate that held; prices relative to the new plan.

    Of what was said about the first choice, only what is true of the new one stays.

    Args:
        recommendation: the first choice.
        plan: one of its candidates' plans.
        learning_rate: the rate to go with it.
        why: why the first choice did not hold, in sentences; it becomes a caveat. The same plan
            and rate without it give the same recommendation back.
        out_of_memory: whether memory is why the plan moved.
        held: whether this plan did hold, or is only the last that was tried.
    """
    caveats = (*recommendation.caveats, why) if why else recommendation.caveats
    if (plan, learning_rate) == (recommendation.plan, recommendation.learning_rate):
        return replace(recommendation, caveats=caveats) if why else recommendation
    reference = next(each for each in recommendation.candidates if each.plan == plan)
    moved = plan != recommendation.plan
    limit = Limit.MEMORY if moved and out_of_memory else recommendation.limited_by
    return replace(
        recommendation,
        plan=plan,
        learning_rate=learning_rate,
        learning_rate_rule=_rule(recommendation.learning_rate_rule, reference, learning_rate),
        limited_by=limit,
        candidates=tuple(_moved(c, reference, learning_rate) for c in recommendation.candidates),
        reason=_reason(recommendation, plan, learning_rate, why, limit if held else None),
        within_noise=None if moved else recommendation.within_noise,
        advice=_advice(recommendation, moved=moved),
        caveats=caveats,
    )


def _reason(
    before: Recommendation,
    plan: BatchPlan,
    learning_rate: float | None,
    why: str,
    limit: Limit | None,
) -> str:
    """What held first. What was said of the first choice follows where its plan was kept."""
    rate = "" if learning_rate is None else f" at rate {learning_rate:.3g}"
    outcome = "is what was tried last" if limit is None else "is what held in the confirmation"
    said = [f"A batch of {plan}{rate} {outcome}.", why]
    if plan == before.plan:
        said.append(before.reason)
    elif limit is Limit.MEMORY:
        said.append(f"It is limited by {limit.value}.")
    return " ".join(each for each in said if each)


def _rule(name: str, reference: Candidate, learning_rate: float | None) -> str:
    """The rule's name, and how often its rate was halved, or how far it was moved."""
    if not learning_rate or not reference.learning_rate:
        return name
    ratio = learning_rate / reference.learning_rate
    halvings = round(-math.log2(ratio))
    if halvings > 0 and math.isclose(ratio, 0.5**halvings):
        return f"{name}, halved {_OFTEN.get(halvings, f'{halvings} times')}"
    if math.isclose(ratio, 1):
        return name
    return f"{name}, {f'raised {ratio:.3g}' if ratio > 1 else f'lowered {1 / ratio:.3g}'}x"


def _advice(before: Recommendation, *, moved: bool) -> tuple[str, ...]:
    """Advice is made of sizes and rates: none for another size, and none tied to another rate."""
    if not moved:
        return tuple(each for each in before.advice if not each.startswith(_TIED_TO_THE_RATE))
    if not before.advice:
        return ()
    return (
        f"The advice on schedule, warm-up and averages was for a batch of {before.plan}, which "
        "did not hold, and is left out. Call again with max_batch_size at the batch that held "
        "to have it for that one.",
    )


def _moved(candidate: Candidate, reference: Candidate, learning_rate: float | None) -> Candidate:
    chosen = candidate.plan == reference.plan
    return replace(
        candidate,
        relative_time=candidate.relative_time / reference.relative_time,
        relative_samples=candidate.relative_samples / reference.relative_samples,
        relative_time_low=candidate.relative_time_low / reference.relative_time,
        relative_time_high=candidate.relative_time_high / reference.relative_time,
        learning_rate=learning_rate if chosen else candidate.learning_rate,
        chosen=chosen,
    )
