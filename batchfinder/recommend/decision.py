"""Which plan, and which constraint, relaxed, would have changed it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import Objective
from batchfinder.recommend.candidates import Option, drawn, options, priced
from batchfinder.recommend.objectives import is_round, shortest_time
from batchfinder.recommend.situation import Situation, extrapolated
from batchfinder.results import SAME, BatchPlan, Candidate, Limit, Loading, NoiseScale, Why

__all__ = ["WORTHWHILE", "Decision", "choose", "decide", "limit_of", "loading_of"]


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
    relaxed = [
        *((limit, wide) for limit in sorted(_HARD, key=lambda limit: limit is not stopped_by)),
        (Limit.DATA_LOADING, situation),
        (Limit.NOISE, situation),
    ]
    for limit, before in relaxed:
        if before.is_bound_by(limit):
            freed = choose(before.without(limit), objective).plan
            if _moves_up(freed, chosen):
                return limit
    return Limit.THROUGHPUT


def _moves_up(plan: BatchPlan, chosen: BatchPlan) -> bool:
    if plan.global_batch == chosen.global_batch:
        return plan.accumulation_steps < chosen.accumulation_steps
    return plan.global_batch > chosen.global_batch


WORTHWHILE = 1.05
"""Another batch is recommended where it is surely faster than the user's own by this factor."""
CLEARLY_SLOWER = 0.9
"""A loader that delivers less than this share of what the model takes is slower than it."""
SCATTER = 0.03
"""Relative standard deviation of the ratio of two step times, from which on they scatter."""
_FASTEST = 1 - 0.005


@dataclass(frozen=True)
class Decision:
    """The plan, why, and the plan that the objective alone would have chosen."""

    plan: BatchPlan
    why: Why
    best: BatchPlan


def decide(situation: Situation, objective: Objective, noise: NoiseScale | None) -> Decision:
    """The objective's choice, if it is surely faster than the user's own batch; else that one.

    Sure is what holds at the 5% point of what noise scale, step times and the learning-rate rule
    leave open. Where the objective's choice is not that sure, one that is may be another. Where the
    times scatter, the nearest to the user's own is taken that is not surely slower than the
    fastest of them, so that the same call gives the same answer. Where a noise scale was wanted and
    is unknown, throughput alone moves nobody. An objective of the caller's own is obeyed.
    """
    best = choose(situation, objective)
    if objective is not shortest_time:
        return Decision(best.plan, Why.OBJECTIVE, best.plan)
    found = options(situation)
    yours = next((i for i, option in enumerate(found) if situation.is_yours(option.plan)), None)
    if yours is not None and _waits(found[yours]):
        return Decision(found[yours].plan, Why.YOURS_WAITS_FOR_DATA, best.plan)
    if yours is not None and situation.critical is None and situation.noise_is_wanted:
        return Decision(found[yours].plan, Why.YOURS_WITHOUT_NOISE, best.plan)
    if yours is None or found[yours].plan == best.plan:
        return Decision(best.plan, _why(situation, best, found), best.plan)
    draws = drawn(found, situation, noise)
    sure = [i for i, gain in enumerate(draws.speedups(yours)) if gain.low >= WORTHWHILE]
    if not sure:
        return Decision(found[yours].plan, Why.YOURS_IS_AS_GOOD, best.plan)
    fastest = next((i for i in sure if found[i].plan == best.plan), None)
    if fastest is None:
        picked = objective(priced(situation, [found[i] for i in sure]))
        fastest = next(i for i in sure if found[i].plan == picked.plan)
    top = found[fastest].timing.micro_batch
    alike = [
        i
        for i in sure
        if i == fastest
        or (
            situation.scatter_between(found[i].timing.micro_batch, top) > SCATTER
            and draws.slowness(i, fastest).low <= 1 + SAME
        )
    ]
    nearest = min(alike, key=lambda i: (*_preference(found[i], situation.base_batch), i))
    picked = priced(situation, found)[nearest]
    why = _why(situation, picked, found)
    if picked.plan != best.plan and why is Why.NEAR_FASTEST:
        why = Why.SURELY_FASTER
    return Decision(picked.plan, why, best.plan)


def _preference(option: Option, base: int) -> tuple[bool, float]:
    """Round micro-batches first, then by the distance from the user's own batch."""
    micro = option.plan.micro_batch
    return not is_round(micro), abs(math.log(option.plan.global_batch / base))


def _why(situation: Situation, picked: Candidate, found: list[Option]) -> Why:
    if situation.critical is None:
        return Why.THROUGHPUT_KNEE
    times = {option.plan: option.time_to_target(situation.critical) for option in found}
    share = min(times.values()) / times[picked.plan]
    return Why.FASTEST if share > _FASTEST else Why.NEAR_FASTEST


def loading_of(
    situation: Situation,
    objective: Objective,
    noise: NoiseScale | None,
    chosen: BatchPlan,
    workers: int,
) -> Loading | None:
    """What the loader delivers, where that is less than the model takes; else ``None``.

    At the user's own batch, or at the chosen one where theirs cannot be run.
    """
    found = options(situation)
    yours = next((option for option in found if situation.is_yours(option.plan)), None)
    option = yours or next((option for option in found if option.plan == chosen), None)
    if option is None or not _waits(option):
        return None
    plan, timing = option.plan, option.timing
    faster = situation.without(Limit.DATA_LOADING)
    return Loading(
        batch_size=plan.global_batch,
        samples_per_second=plan.world_size * timing.micro_batch / timing.loader,
        model_samples_per_second=plan.global_batch / timing.work_seconds(plan.accumulation_steps),
        workers=workers,
        plan=decide(faster, objective, noise).plan,
    )


def _waits(option: Option) -> bool:
    """Whether the loader is clearly slower than the model at this plan."""
    steps = option.plan.accumulation_steps
    return option.timing.work_seconds(steps) < CLEARLY_SLOWER * steps * option.timing.loader
