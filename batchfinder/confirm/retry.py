"""Confirm, and move to a lower rate or the next plan until something holds. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from batchfinder.confirm.branch import HALVINGS, MOST_ATTEMPTS
from batchfinder.errors import LossIsNotFinite
from batchfinder.recommend import Problem, recommend
from batchfinder.results import (
    BatchPlan,
    Candidate,
    Confirmation,
    Judgement,
    Limit,
    Recommendation,
    Role,
    Why,
)
from batchfinder.units import format_rate
from batchfinder.wording import Caveat

__all__ = ["Attempt", "OwnPair", "Run", "confirm_with_retries", "is_confirmed", "next_attempt"]

Run = Callable[[BatchPlan, float | None], Confirmation]
"""Confirms a plan at a rate."""

ROUNDING = 1e-9


def never() -> bool:
    """There is always time."""
    return False


@dataclass(frozen=True)
class Attempt:
    """A plan and a rate to confirm."""

    plan: BatchPlan
    learning_rate: float | None


@dataclass(frozen=True)
class OwnPair:
    """A pair that trains: the user's own, or one whose rate ``is_measured``, by a race.

    Its rate holds at larger batches too: where noise matters a larger batch has less of it, and
    where curvature does its limit stays.
    """

    global_batch: int
    learning_rate: float
    is_measured: bool = False

    def covers(self, plan: BatchPlan, learning_rate: float) -> bool:
        """Whether ``plan`` is no smaller and the rate no higher."""
        is_no_higher = learning_rate <= self.learning_rate * (1 + ROUNDING)
        return plan.global_batch >= self.global_batch and is_no_higher


def is_confirmed(confirmation: Confirmation, own: OwnPair | None = None) -> bool:
    """Whether the plan held, and twice its rate too, unless the user's ``own`` pair covers it."""
    if not confirmation.held:
        return False
    rate = confirmation.learning_rate
    if own is not None and rate is not None and own.covers(confirmation.plan, rate):
        return True
    return confirmation.double_rate_held is not False


def next_attempt(
    recommendation: Recommendation,
    tried: Sequence[Confirmation],
    *,
    halvings: int = HALVINGS,
    own: OwnPair | None = None,
) -> Attempt | None:
    """What to confirm next; ``None`` once one is confirmed, or nothing is left.

    Out of memory leads to the fastest candidate with a smaller micro-batch; a loss that runs
    away, or does at twice the rate, to half the rate, and after ``halvings`` of them to the
    fastest candidate with a smaller global batch. A rate is not halved past the user's ``own``
    before that was tried; and that one need only hold itself.
    """
    if not tried:
        return Attempt(recommendation.plan, recommendation.learning_rate)
    last, own = tried[-1], _unless_refuted(own, tried)
    if is_confirmed(last, own):
        return None
    if last.out_of_memory:
        return _fastest(
            candidate
            for candidate in recommendation.candidates
            if candidate.plan.micro_batch < last.plan.micro_batch
        )
    at_this_plan = [confirmation for confirmation in tried if confirmation.plan == last.plan]
    if last.learning_rate is not None and len(at_this_plan) <= halvings:
        rate = last.learning_rate / 2
        if own and own.covers(last.plan, rate) and not own.covers(last.plan, last.learning_rate):
            rate = own.learning_rate
        return Attempt(last.plan, rate)
    return _fastest(
        candidate
        for candidate in recommendation.candidates
        if candidate.plan.global_batch < last.plan.global_batch
    )


def _fastest(candidates: Iterable[Candidate]) -> Attempt | None:
    found = min(candidates, key=lambda candidate: candidate.relative_time, default=None)
    return None if found is None else Attempt(found.plan, found.learning_rate)


def _unless_refuted(own: OwnPair | None, tried: Iterable[Confirmation]) -> OwnPair | None:
    """``None`` once a rate that ought to hold by the user's own pair did not."""
    for confirmation in tried:
        rate = confirmation.learning_rate
        failed = not confirmation.held and not confirmation.out_of_memory
        if failed and own and rate is not None and own.covers(confirmation.plan, rate):
            return None
    return own


def confirm_with_retries(
    problem: Problem,
    run: Run,
    *,
    own: OwnPair | None = None,
    most_attempts: int = MOST_ATTEMPTS,
    enough: Callable[[], bool] = never,
) -> tuple[Recommendation, Confirmation]:
    """The recommendation that held, and the evidence.

    Where the first choice does not hold, the recommendation is made anew for the plan and rate
    that did, with a caveat for each that failed. Where nothing was confirmed, the last that at
    least held by itself is kept, else the last of all.

    Args:
        problem: what the recommendation is made from.
        run: confirms a plan at a rate.
        own: the user's own pair, where it is known to train.
        most_attempts: how many are run at most.
        enough: asked before every attempt but the first; true ends it there, as where no time
            is left.

    Raises:
        LossIsNotFinite: where it becomes so at the user's own pair.
    """
    chosen = recommend(problem)
    tried: list[Confirmation] = []
    caveats: list[Caveat] = []
    while len(tried) < most_attempts:
        attempt = next_attempt(chosen, tried, own=own)
        if attempt is None:
            break
        if tried and enough():
            caveats.append(Caveat("confirm.no_time"))
            break
        tried.append(run(attempt.plan, attempt.learning_rate))
        if tried[-1].judgement.is_about_use:
            return _without_rate(problem, tried[-1]), tried[-1]
        if len(tried) == 1:
            _check_own_pair(tried[0], chosen, own, run)
    known, own = own, _unless_refuted(own, tried)
    confirmed = [confirmation for confirmation in tried if is_confirmed(confirmation, own)]
    held = confirmed or [confirmation for confirmation in tried if confirmation.held]
    kept = (held or tried)[-1]
    failed = [confirmation for confirmation in tried if not is_confirmed(confirmation, own)]
    caveats = [*_failures(failed), *caveats]
    if not held and (back := _own_plan(chosen, known, tried)) is not None:
        why, rate = Why.YOURS_FOR_WANT_OF_BETTER, None if known is None else known.learning_rate
        limit = _limit_of_move(chosen.plan, back, tried)
        settled = recommend(problem, plan=back, learning_rate=rate, why=why, limited_by=limit)
        return replace(_named(settled, failed), why=why, caveats=(*settled.caveats, *caveats)), kept
    if not confirmed:
        batch, rate = kept.plan.global_batch, kept.learning_rate
        caveats.append(Caveat("confirm.nothing_held", batch=batch, rate=rate))
    settled = recommend(
        problem,
        plan=kept.plan,
        learning_rate=kept.learning_rate,
        why=Why.CONFIRMED if kept.held else Why.LAST_TRIED,
        limited_by=_limit_of_move(chosen.plan, kept.plan, tried),
    )
    return replace(_named(settled, failed), caveats=(*settled.caveats, *caveats)), kept


def _limit_of_move(
    chosen: BatchPlan, settled: BatchPlan, tried: Sequence[Confirmation]
) -> Limit | None:
    """What binds where another plan than the chosen one is settled on; ``None`` where none is."""
    if settled == chosen:
        return None
    ran_out = any(each.out_of_memory for each in tried if each.plan != settled)
    return Limit.MEMORY if ran_out else Limit.CONFIRMATION


def _named(settled: Recommendation, failed: Iterable[Confirmation]) -> Recommendation:
    """Other plans that failed are named so, and are not among those as good as the choice."""
    refused = {each.plan for each in failed} - {settled.plan}
    if not refused:
        return settled
    smallest = min(plan.global_batch for plan in refused)
    low, high = settled.within_noise or (smallest, smallest)
    batches = (each.plan.global_batch for each in settled.candidates)
    equal = [batch for batch in batches if low <= batch <= high and batch < smallest]
    return replace(
        settled,
        candidates=tuple(
            replace(c, roles=(*c.roles, Role.NOT_CONFIRMED)) if c.plan in refused else c
            for c in settled.candidates
        ),
        within_noise=(min(equal), max(equal)) if equal else None,
    )


def _without_rate(problem: Problem, unused: Confirmation) -> Recommendation:
    """The plan that was run, without the rate that its updates did not use."""
    found = recommend(
        replace(problem, base_learning_rate=None), plan=unused.plan, why=Why.LAST_TRIED
    )
    effect = unused.effect
    assert effect is not None
    updates, made = effect.updates, effect.updates - effect.left_out
    caveat = Caveat("confirm.nothing_not_kept", updates=updates)
    if unused.judgement is Judgement.NO_UPDATE:
        caveat = Caveat("confirm.nothing_moved", updates=updates)
        if effect.left_out:
            name = effect.wrapper
            caveat = Caveat("confirm.nothing_no_update", name=name, made=made, updates=updates)
    return replace(found, caveats=(*found.caveats, caveat))


def _check_own_pair(
    first: Confirmation, chosen: Recommendation, own: OwnPair | None, run: Run
) -> None:
    """Run the user's own pair where the first attempt ended in NaN or infinity.

    Raises:
        LossIsNotFinite: where that ends so too.
    """
    if first.judgement is not Judgement.NOT_FINITE or own is None or own.is_measured:
        return
    pair = (own.global_batch, own.learning_rate)
    if (first.plan.global_batch, first.learning_rate) != pair:
        same = (c.plan for c in chosen.candidates if c.plan.global_batch == own.global_batch)
        plan = next(same, None)
        if plan is None or run(plan, own.learning_rate).judgement is not Judgement.NOT_FINITE:
            return
    raise LossIsNotFinite(
        f"expected a finite loss in {first.steps} steps at your own batch size "
        f"{own.global_batch} and learning rate {format_rate(own.learning_rate)}; it became NaN "
        "or infinite: lower the rate, or check the data"
    )


def _own_plan(
    chosen: Recommendation, own: OwnPair | None, tried: Sequence[Confirmation]
) -> BatchPlan | None:
    """The plan of the user's own batch, unless memory ended at no more."""
    too_large = [c.plan.micro_batch for c in tried if c.out_of_memory]
    return next(
        (
            candidate.plan
            for candidate in chosen.candidates
            if own is not None
            and not own.is_measured
            and candidate.plan.global_batch == own.global_batch
            and candidate.plan.micro_batch < min(too_large, default=candidate.plan.micro_batch + 1)
        ),
        None,
    )


def _failures(failed: Sequence[Confirmation]) -> Iterable[Caveat]:
    """One caveat for each batch, with the rates that were tried there."""
    for batch in dict.fromkeys(confirmation.plan.global_batch for confirmation in failed):
        there = [c for c in failed if c.plan.global_batch == batch]
        rates = tuple(c.learning_rate for c in there if c.learning_rate is not None)
        yield Caveat("confirm.failed", batch=batch, rates=rates, **failure(there[0]))


def failure(confirmation: Confirmation) -> dict[str, object]:
    """How a confirmation failed, as a caveat's numbers: at twice the rate if it did there."""
    doubled = confirmation.held and confirmation.at_double_rate is not None
    judgement = confirmation.at_double_rate if doubled else confirmation.judgement
    last = confirmation.double_rate_last_loss if doubled else confirmation.last_loss
    return {
        "judgement": (judgement or confirmation.judgement).name,
        "first": confirmation.first_loss,
        "last": last,
        "doubled": doubled,
        "detail": confirmation.detail,
    }
