"""The recommendation: candidates priced, one chosen, its limit found, its certainty told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from batchfinder.recommend.candidates import (
    Draws,
    Option,
    Spread,
    drawn,
    options,
    priced,
    with_roles,
    within_noise,
)
from batchfinder.recommend.caveats import caveats_of
from batchfinder.recommend.decision import Decision, decide, limit_of, loading_of
from batchfinder.recommend.problem import Problem
from batchfinder.recommend.situation import Situation
from batchfinder.results import (
    BatchPlan,
    Candidate,
    Change,
    Limit,
    NoiseScale,
    Recommendation,
    Speedup,
    Why,
)
from batchfinder.scaling import critical_batch_size, trusted_range
from batchfinder.wording import Caveat

__all__ = ["Pair", "pair_by_noise", "recommend"]

Pair: TypeAlias = tuple[BatchPlan, float | None]
"""A plan and its learning rate."""

WORTH_SHOWING = 1.10
"""Accumulated plans slower than this, in units of the choice, are left out of the candidates."""


def recommend(
    problem: Problem,
    *,
    plan: BatchPlan | None = None,
    learning_rate: float | None = None,
    why: Why = Why.CONFIRMED,
    limited_by: Limit | None = None,
) -> Recommendation:
    """Which batch size to use, at which learning rate, and what would have changed the answer.

    Args:
        problem: what was measured, and what binds.
        plan: the plan to recommend, where something else than prices decided; one that can be
            chosen. All that is said is then said of that plan.
        learning_rate: its rate; left out, the rule's.
        why: why that plan.
        limited_by: what binds there; left out, it is found as for any other choice.

    Raises:
        InvalidArgument: where nothing was measured, or the objective returned something else
            than one of the candidates that it was given.
    """
    situation, loosened = _with_something_allowed(problem.situation())
    decision = decide(situation, problem.best, problem.noise)
    if plan is not None and plan != decision.plan:
        decision = Decision(plan, why, decision.best)
    found = _with_the_largest(situation, options(situation))
    draws = drawn(found, situation, problem.noise)
    chosen = next(i for i, option in enumerate(found) if option.plan == decision.plan)
    spreads = draws.relative_to(chosen)
    batch = decision.plan.global_batch
    by_rule = problem.rate_at(batch)
    rate = by_rule if learning_rate is None else learning_rate
    candidates = _candidates(problem, situation, found, chosen, spreads)
    candidates = [
        replace(candidate, learning_rate=rate) if candidate.chosen else candidate
        for candidate in candidates
    ]
    loading = loading_of(situation, problem.best, problem.noise, decision.plan, problem.workers)
    if limited_by is None:
        limited_by = _limit(problem, situation, decision)
    return Recommendation(
        plan=decision.plan,
        learning_rate=rate,
        learning_rate_rule=_name(problem.rate_rule),
        limited_by=limited_by,
        candidates=tuple(each for each in candidates if _is_worth_showing(each)),
        why=decision.why,
        objective=_name(problem.best),
        rule_factor=rate / by_rule if rate and by_rule else 1.0,
        speedup=_speedup(situation, found, chosen, draws),
        loading=loading,
        change=Change(
            family=problem.optimizer_family,
            base_batch=problem.base_global_batch,
            batch=batch,
            micro_batch=decision.plan.micro_batch,
            base_rate=problem.base_learning_rate,
            rate=rate,
            critical=situation.critical,
            dataset_length=problem.dataset_length,
            training_steps=problem.length,
            schedule=problem.schedule,
            base_batch_is_yours=problem.base_is_yours,
            base_rate_is_yours=problem.rate_is_yours,
        ),
        learning_rate_range=None if rate is None else trusted_range(problem.base_global_batch),
        within_noise=within_noise(found, spreads),
        caveats=(*loosened, *caveats_of(problem, situation, found, decision.plan)),
    )


def pair_by_noise(problem: Problem) -> Callable[[NoiseScale | None], Pair]:
    """What ``recommend`` chooses of ``problem`` at any noise scale, the step times fitted once.

    Raises:
        InvalidArgument: as ``recommend``.
    """
    situation, _ = _with_something_allowed(problem.situation())

    def pair(noise: NoiseScale | None) -> Pair:
        at_noise = replace(situation, critical=critical_batch_size(noise))
        plan = decide(at_noise, problem.best, noise).plan
        return plan, problem.at_noise(noise).rate_at(plan.global_batch)

    return pair


def _limit(problem: Problem, situation: Situation, decision: Decision) -> Limit:
    if decision.why is Why.YOURS_WAITS_FOR_DATA:
        return Limit.DATA_LOADING
    is_kept = decision.why in (Why.YOURS_IS_AS_GOOD, Why.YOURS_WITHOUT_NOISE)
    if is_kept and decision.plan != decision.best:
        return Limit.EVIDENCE
    return limit_of(situation, problem.best, decision.best)


def _candidates(
    problem: Problem, situation: Situation, found: list[Option], chosen: int, spreads: list[Spread]
) -> list[Candidate]:
    """Every option, priced against the chosen one."""
    raw = priced(situation, found)
    reference = raw[chosen]
    all_roles = with_roles(raw, situation, problem.max_batch_size)
    return [
        replace(
            candidate,
            relative_time=candidate.relative_time / reference.relative_time,
            relative_samples=candidate.relative_samples / reference.relative_samples,
            learning_rate=problem.rate_at(candidate.plan.global_batch),
            chosen=candidate is reference,
            relative_time_low=spread.low,
            relative_time_high=spread.high,
            roles=roles,
        )
        for candidate, spread, roles in zip(raw, spreads, all_roles, strict=True)
    ]


def _speedup(
    situation: Situation, found: list[Option], chosen: int, draws: Draws
) -> Speedup | None:
    yours = next((i for i, option in enumerate(found) if situation.is_yours(option.plan)), None)
    if yours is None or yours == chosen:
        return None
    spread = draws.speedups(yours)[chosen]
    return Speedup(spread.middle, spread.low, spread.high)


def _with_something_allowed(situation: Situation) -> tuple[Situation, tuple[Caveat, ...]]:
    """The situation, its headroom given up where otherwise nothing could be recommended."""
    if options(situation):
        return situation, ()
    tight = replace(situation, bounds=replace(situation.bounds, usable_bytes=None))
    if options(tight):
        return tight, (Caveat("recommend.no_headroom"),)
    free = replace(tight.bounds, ceiling=None, floor=1, dataset_length=None, most_for_updates=None)
    return replace(situation, bounds=free), (Caveat("recommend.nothing_allowed"),)


def _with_the_largest(situation: Situation, found: list[Option]) -> list[Option]:
    """The options and the largest size that was run, which headroom may have excluded."""
    roomy = replace(situation, bounds=replace(situation.bounds, usable_bytes=None))
    known = {option.plan.global_batch for option in found}
    plain = [option for option in options(roomy) if option.plan.accumulation_steps == 1]
    extra = [option for option in plain[-1:] if option.plan.global_batch not in known]
    return sorted([*found, *extra], key=lambda option: option.plan.global_batch)


def _is_worth_showing(candidate: Candidate) -> bool:
    plain = candidate.plan.accumulation_steps == 1
    near = candidate.relative_time <= WORTH_SHOWING
    return plain or near or candidate.chosen or bool(candidate.roles)


def _name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)
