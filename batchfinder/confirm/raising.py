"""A higher rate, where training itself shows that the rule's is too low."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from batchfinder.confirm.attempts import accepted
from batchfinder.recommend import settled
from batchfinder.results import BatchPlan, Confirmation, Recommendation
from batchfinder.units import format_count

__all__ = ["Bolder", "bolder", "leads", "raised"]

WORTHWHILE_LEAD = 0.1
"""A rate is raised where twice the rate led by this share (tests/benchmarks/regret.py)."""
SMALLEST_RAISE = 1.05
FEWEST_STEPS = 40
"""Over fewer steps a lead was not looked at."""


@dataclass(frozen=True)
class Bolder:
    """The choice were the noise scale ``critical``, and a rate to try there."""

    recommendation: Recommendation
    learning_rate: float
    critical: float

    @property
    def meaning(self) -> str:
        """What the choice rests on, where it holds."""
        return (
            "the cap that the noise scale sets on the rate was too low. Size, prices and rate are "
            f"those of a noise scale of {format_count(self.critical)}, the upper end taken for it, "
            "and the rate is higher still."
        )


def leads(confirmation: Confirmation) -> bool:
    """Whether the loss fell so much further at twice the rate that a higher one is worth a try."""
    lead = confirmation.double_rate_lead
    if lead is None or confirmation.steps < FEWEST_STEPS:
        return False
    return accepted(confirmation) and lead >= WORTHWHILE_LEAD


def bolder(
    recommendation: Recommendation, highest: float | None, critical: float | None
) -> Bolder | None:
    """``recommendation``, made at ``critical``, at twice its rate, at most ``highest``.

    ``None`` where that is no more, and where no noise scale is known: no cap was too low then.
    """
    rate = recommendation.learning_rate
    if rate is None or highest is None or critical is None:
        return None
    to = min(2 * rate, highest)
    return Bolder(recommendation, to, critical) if to >= SMALLEST_RAISE * rate else None


def raised(
    chosen: Recommendation,
    found: tuple[Recommendation, Confirmation],
    run: Callable[[BatchPlan, float | None], Confirmation],
    bold: Callable[[], Bolder | None],
    *,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[Recommendation, Confirmation]:
    """What the confirmation ``found``, or a bolder choice where twice the rate led and it holds.

    The rate is capped by the noise scale, which is low early in a training. A rate that is best
    after a few steps is too small, rather than too large, for a whole training (Wu et al. 2018,
    arXiv:1803.02021): so a clear lead of twice the rate is a reason to go up, while none is no
    reason to go down. The cap was then too low, and so was the noise scale: the choice is made
    again at the upper end of its interval, once, and confirmed like the first.

    Args:
        chosen: what was to be confirmed; only where that held as it was is anything raised.
        found: what :func:`confirmed` returned.
        run: confirms a plan at a rate.
        bold: the bolder choice; ``None`` where there is none.
        enough: asked before the bolder choice is run; true leaves it at a caveat.
    """
    recommendation, evidence = found
    untouched = (evidence.plan, evidence.learning_rate) == (chosen.plan, chosen.learning_rate)
    choice = bold() if untouched and leads(evidence) else None
    if choice is None:
        return found
    seen = _seen(evidence)
    if enough():
        return _noted(recommendation, f"{seen}; no time was left to try a higher rate."), evidence
    plan, rate = choice.recommendation.plan, choice.learning_rate
    tried = run(plan, rate)
    if accepted(tried):
        higher = settled(choice.recommendation, plan, rate, "")
        return _noted(higher, f"{seen}: {choice.meaning}"), tried
    outcome = f"a batch of {plan} at rate {rate:.3g} was tried and did not hold: {tried.reason}."
    return _noted(recommendation, f"{seen}; {outcome}"), evidence


def _seen(evidence: Confirmation) -> str:
    lead = 100 * (evidence.double_rate_lead or 0.0)
    return (
        f"At twice the first choice's rate of {evidence.learning_rate:.3g} the loss fell over "
        f"{lead:.0f}% further in {evidence.steps} steps"
    )


def _noted(recommendation: Recommendation, caveat: str) -> Recommendation:
    return replace(recommendation, caveats=(*recommendation.caveats, caveat))
