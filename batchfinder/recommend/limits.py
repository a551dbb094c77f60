"""Which constraint, relaxed, would have changed the choice: found by relaxing each."""

from __future__ import annotations

from dataclasses import replace

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import Objective
from batchfinder.recommend.candidates import options, priced
from batchfinder.recommend.situation import Situation, extrapolated
from batchfinder.results import BatchPlan, Candidate, Limit

__all__ = ["choose", "limit_of"]

_HARD = (Limit.MEMORY, Limit.INDEX, Limit.USER, Limit.DATASET, Limit.UPDATES, Limit.TIME)


def choose(situation: Situation, objective: Objective) -> Candidate:
    """The objective's choice in this situation.

    Raises:
        InvalidArgument: where the objective returned something else than one of the candidates.
    """
    given = priced(situation, options(situation))
    picked: object = objective(given)
    if isinstance(picked, Candidate) and any(picked.plan == each.plan for each in given):
        return picked
    found = f"a candidate of {picked.plan}" if isinstance(picked, Candidate) else repr(picked)
    raise InvalidArgument(
        "expected the objective to return one of the given candidates; "
        f"{getattr(objective, '__name__', type(objective).__name__)} returned {found:.200}. "
        "Pick among them, such as min(candidates, key=...)"
    )


def limit_of(situation: Situation, objective: Objective, chosen: BatchPlan) -> Limit:
    """The first constraint whose relaxation leads to a larger batch, or less accumulation.

    The hard ones first, beginning with what stopped the probe; sizes beyond those that were run
    are priced by going on along a straight line. Then the loader, relaxed to one that is never
    waited for, and noise, to an infinite noise scale. What is left is throughput.

    Args:
        situation: what can be chosen.
        objective: what is best.
        chosen: the plan that the objective chose in this situation.
    """
    larger = extrapolated([each for each in situation.timings if each.was_run])
    wide = replace(situation, timings=(*situation.timings, *larger))
    stopped_by = situation.bounds.stopped_by
    for limit in sorted(_HARD, key=lambda limit: limit is not stopped_by):
        if _moves_up(choose(wide.without(limit), objective).plan, chosen):
            return limit
    without_loader = situation.without(Limit.DATA_LOADING)
    if _moves_up(choose(without_loader, objective).plan, chosen):
        return Limit.DATA_LOADING
    if situation.critical is not None and _moves_up(
        choose(situation.without(Limit.NOISE), objective).plan, chosen
    ):
        return Limit.NOISE
    return Limit.THROUGHPUT


def _moves_up(plan: BatchPlan, chosen: BatchPlan) -> bool:
    if plan.global_batch == chosen.global_batch:
        return plan.accumulation_steps < chosen.accumulation_steps
    return plan.global_batch > chosen.global_batch
