"""What to try after a confirmation: a lower rate, or the next candidate. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from batchfinder.recommend import settled
from batchfinder.results import BatchPlan, Candidate, Confirmation, Recommendation

__all__ = ["Attempt", "Known", "accepted", "confirmed", "next_attempt"]

HALVINGS = 3
"""How often a rate is halved before another size is tried."""
MOST_ATTEMPTS = 8
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Attempt:
    """A plan and a rate to confirm, and why not those before."""

    plan: BatchPlan
    learning_rate: float | None
    why: str = ""


@dataclass(frozen=True)
class Known:
    """A pair that trains: the user's own. Its rate holds at larger batches too.

    Where noise matters a larger batch has less of it, and where curvature does its limit stays.
    """

    global_batch: int
    learning_rate: float

    def covers(self, plan: BatchPlan, learning_rate: float) -> bool:
        """Whether ``plan`` is no smaller and the rate no higher."""
        is_no_higher = learning_rate <= self.learning_rate * (1 + _ROUNDING)
        return plan.global_batch >= self.global_batch and is_no_higher


def accepted(confirmation: Confirmation, known: Known | None = None) -> bool:
    """Whether the plan held, and twice its rate too where that was tried and is not ``known``."""
    if not confirmation.held:
        return False
    rate = confirmation.learning_rate
    if known is not None and rate is not None and known.covers(confirmation.plan, rate):
        return True
    return confirmation.double_rate_held is not False


def next_attempt(
    recommendation: Recommendation,
    tried: Sequence[Confirmation],
    *,
    halvings: int = HALVINGS,
    known: Known | None = None,
) -> Attempt | None:
    """What to confirm next; ``None`` once one was accepted, or nothing is left.

    Out of memory leads to the fastest candidate with a smaller micro-batch; a loss that runs
    away, or does at twice the rate, to half the rate, and after ``halvings`` of them to the
    fastest candidate with a smaller global batch. A rate is not halved past the ``known`` one
    before that was tried; and the known one need only hold itself.
    """
    if not tried:
        return Attempt(recommendation.plan, recommendation.learning_rate)
    last, known = tried[-1], _unless_refuted(known, tried)
    if accepted(last, known):
        return None
    if last.out_of_memory:
        smaller = _fastest(
            each
            for each in recommendation.candidates
            if each.plan.micro_batch < last.plan.micro_batch
        )
        return _move_to(smaller, last)
    at_this_plan = [each for each in tried if each.plan == last.plan]
    if last.learning_rate is not None and len(at_this_plan) <= halvings:
        lower = _lower(last.plan, last.learning_rate, known)
        return Attempt(last.plan, lower, f"At rate {last.learning_rate:.3g} {_trouble(last)}.")
    return _move_to(
        _fastest(
            each
            for each in recommendation.candidates
            if each.plan.global_batch < last.plan.global_batch
        ),
        last,
    )


def _unless_refuted(known: Known | None, tried: Iterable[Confirmation]) -> Known | None:
    """``None`` once a rate that ought to hold by what is known did not."""
    for each in tried:
        rate = each.learning_rate
        failed = not each.held and not each.out_of_memory
        if failed and known is not None and rate is not None and known.covers(each.plan, rate):
            return None
    return known


def _lower(plan: BatchPlan, rate: float, known: Known | None) -> float:
    """Half the rate, or the known one where that lies between."""
    half = rate / 2
    if known is not None and known.covers(plan, half) and not known.covers(plan, rate):
        return known.learning_rate
    return half


def confirmed(
    recommendation: Recommendation,
    run: Callable[[BatchPlan, float | None], Confirmation],
    *,
    most_attempts: int = MOST_ATTEMPTS,
    known: Known | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[Recommendation, Confirmation]:
    """Confirm, move to what holds, and say so: the recommendation that held, and the evidence.

    ``enough`` is asked before every attempt but the first; true ends it there, as where no time
    is left. Where nothing was accepted, the last attempt that at least held by itself is kept,
    else the last of all, each with a caveat.
    """
    tried: list[Confirmation] = []
    whys: list[str] = []
    while len(tried) < most_attempts:
        attempt = next_attempt(recommendation, tried, known=known)
        if attempt is None:
            break
        if tried and enough():
            whys.append("No time was left for another attempt.")
            break
        if attempt.why:
            whys.append(attempt.why)
        tried.append(run(attempt.plan, attempt.learning_rate))
    known = _unless_refuted(known, tried)
    settling = [each for each in tried if accepted(each, known)]
    held = settling or [each for each in tried if each.held]
    kept = (held or tried)[-1]
    if not settling:
        whys.append(f"Nothing was confirmed: at rate {_rate(kept)} {_trouble(kept)}.")
    why = " ".join(whys)
    ran_out = any(each.out_of_memory for each in tried if each.plan != kept.plan)
    settled_on = settled(
        recommendation, kept.plan, kept.learning_rate, why, out_of_memory=ran_out, held=kept.held
    )
    return settled_on, kept


def _trouble(confirmation: Confirmation) -> str:
    """The reason as a clause after "at rate … "."""
    return f"batch {confirmation.plan} did not hold: {confirmation.reason}"


def _rate(confirmation: Confirmation) -> str:
    rate = confirmation.learning_rate
    return "unchanged" if rate is None else f"{rate:.3g}"


def _fastest(candidates: Iterable[Candidate]) -> Candidate | None:
    return min(candidates, key=lambda each: each.relative_time, default=None)


def _move_to(candidate: Candidate | None, last: Confirmation) -> Attempt | None:
    if candidate is None:
        return None
    why = f"Batch {last.plan} did not hold: {last.reason}."
    return Attempt(candidate.plan, candidate.learning_rate, why)
