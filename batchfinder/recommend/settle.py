"""A recommendation after its confirmation: another plan or another rate was what held."""

from __future__ import annotations

from dataclasses import replace

from batchfinder.results import BatchPlan, Candidate, Recommendation

__all__ = ["settled"]


def settled(
    recommendation: Recommendation, plan: BatchPlan, learning_rate: float | None, why: str
) -> Recommendation:
    """The recommendation moved to the plan and rate that held; prices relative to the new plan.

    ``why`` becomes a caveat. The same plan and rate give the same recommendation back.
    """
    if (plan, learning_rate) == (recommendation.plan, recommendation.learning_rate):
        return recommendation
    reference = next(each for each in recommendation.candidates if each.plan == plan)
    return replace(
        recommendation,
        plan=plan,
        learning_rate=learning_rate,
        candidates=tuple(_moved(c, reference, learning_rate) for c in recommendation.candidates),
        reason=f"{why} {recommendation.reason}".strip(),
        caveats=(*recommendation.caveats, why) if why else recommendation.caveats,
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
