"""Recommend, confirm, retry, go up: one function, called by the product and by benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from batchfinder.confirm.higher_rate import try_higher_rate
from batchfinder.confirm.judging import MOSTLY
from batchfinder.confirm.retry import OwnPair, Run, confirm_with_retries, never
from batchfinder.recommend import Problem
from batchfinder.results import Confirmation, Recommendation
from batchfinder.wording import Caveat

__all__ = ["confirm_recommendation"]


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
