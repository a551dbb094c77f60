"""Recommend, confirm, retry, go up: one function, called by the product and by benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from batchfinder.confirm.branch import MOSTLY, SMALLEST_RAISE, STEPS, WORTHWHILE_LEAD
from batchfinder.confirm.retry import (
    OwnPair,
    Run,
    confirm_with_retries,
    failure,
    is_confirmed,
    never,
)
from batchfinder.recommend import Problem, recommend
from batchfinder.results import BatchPlan, Confirmation, Recommendation, Why
from batchfinder.scaling import at_upper_end
from batchfinder.wording import Caveat

__all__ = ["HigherRate", "confirm_recommendation", "higher_rate", "leads", "try_higher_rate"]


@dataclass(frozen=True)
class HigherRate:
    """What the choice would be were the noise scale ``critical``, at more than the rule's rate."""

    problem: Problem
    plan: BatchPlan
    learning_rate: float
    critical: float


def leads(confirmation: Confirmation) -> bool:
    """Whether the loss fell so much further at twice the rate that a higher one is worth a try."""
    lead = confirmation.double_rate_lead
    if lead is None or confirmation.steps < STEPS:
        return False
    return is_confirmed(confirmation) and lead >= WORTHWHILE_LEAD


def higher_rate(problem: Problem) -> HigherRate | None:
    """Twice the rule's rate with the noise scale at the upper end of its interval.

    At most the rate of the family's ``highest`` rule. ``None`` where that is no more, where no
    cap was too low (no noise scale, a rule of the caller's own), and where the rate is the
    user's own, whose batch was kept.
    """
    noise, highest, base = (
        at_upper_end(problem.noise),
        problem.family.highest,
        problem.base_learning_rate,
    )
    if problem.rule is not None or noise is None or highest is None or base is None:
        return None
    wider = problem.at_noise(noise)
    choice = recommend(wider)
    rate, batch = choice.learning_rate, choice.plan.global_batch
    if rate is None or batch <= problem.base_global_batch:
        return None
    to = min(2 * rate, highest(base, problem.base_global_batch, batch, None))
    if to < SMALLEST_RAISE * rate:
        return None
    return HigherRate(wider, choice.plan, to, noise.value)


def try_higher_rate(
    problem: Problem,
    found: tuple[Recommendation, Confirmation],
    run: Run,
    *,
    enough: Callable[[], bool] = never,
) -> tuple[Recommendation, Confirmation]:
    """What was confirmed, or a choice at a higher rate where twice the rate led and that holds.

    The rate is capped by the noise scale, which is low early in a training. A rate that is best
    after a few steps is too small, rather than too large, for a whole training (Wu et al. 2018,
    arXiv:1803.02021): so a clear lead of twice the rate is a reason to go up, while none is no
    reason to go down. The cap was then too low, and so was the noise scale: the choice is made
    again at the upper end of its interval, once, and confirmed like the first. Where it is not
    for us to go up, the lead is told. A rate that was measured in a race is left as it is, and so
    is one that only multiplies what the optimizer finds by itself.

    Args:
        problem: what the recommendation was made from.
        found: what ``confirm_with_retries`` returned.
        run: confirms a plan at a rate.
        enough: asked before the higher rate is run; true leaves it at a caveat.
    """
    recommendation, evidence = found
    lead, rate = evidence.double_rate_lead, evidence.learning_rate
    left = recommendation.rule_factor < 1 or problem.rate_is_measured or problem.rate_is_found
    if lead is None or rate is None or not leads(evidence) or left:
        return found
    seen = {"rate": rate, "lead": lead, "steps": evidence.steps}
    kept = recommendation.plan.global_batch <= problem.base_global_batch
    choice = None if kept or recommendation.why is Why.CONFIRMED else higher_rate(problem)
    if choice is None:
        return _noted(recommendation, Caveat("confirm.lead", **seen)), evidence
    if enough():
        return _noted(recommendation, Caveat("confirm.lead_untried", **seen)), evidence
    tried = run(choice.plan, choice.learning_rate)
    if is_confirmed(tried):
        raised = recommend(choice.problem, plan=choice.plan, learning_rate=choice.learning_rate)
        return _noted(raised, Caveat("confirm.raised", **seen, critical=choice.critical)), tried
    outcome = {"batch": choice.plan.global_batch, "rates": (choice.learning_rate,)}
    failed = Caveat("confirm.lead_failed", **seen, **outcome, **failure(tried))
    return _noted(recommendation, failed), evidence


def _noted(recommendation: Recommendation, caveat: Caveat) -> Recommendation:
    return replace(recommendation, caveats=(*recommendation.caveats, caveat))


def confirm_recommendation(
    problem: Problem,
    run: Run,
    *,
    own: OwnPair | None,
    enough: Callable[[], bool] = never,
    enough_for_more: Callable[[], bool] = never,
) -> tuple[Recommendation, Confirmation]:
    """Recommend, confirm with retries, and try a higher rate where training shows one to lead.

    Args:
        problem: what the recommendation is made from.
        run: confirms a plan at a rate.
        own: the user's own pair, where it is known to train.
        enough: whether time is up, asked before every further attempt.
        enough_for_more: the same, asked before a higher rate is tried.

    Raises:
        LossIsNotFinite: where it becomes so at the user's own pair.
    """
    found = confirm_with_retries(problem, run, own=own, enough=enough)
    settled, evidence = try_higher_rate(problem, found, run, enough=enough_for_more)
    effect = evidence.effect
    if effect is None or effect.clipped < MOSTLY * max(1, effect.updates):
        return settled, evidence
    clipped = Caveat("confirm.clipped", clipped=effect.clipped, updates=effect.updates)
    return replace(settled, caveats=(*settled.caveats, clipped)), evidence
