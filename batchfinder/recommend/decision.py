"""The recommendation put together, with what is to be said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchfinder.protocols import Objective
from batchfinder.recommend.candidates import Option, drawn, options, priced
from batchfinder.recommend.limits import choose
from batchfinder.recommend.objectives import is_round, shortest_time
from batchfinder.recommend.problem import Problem
from batchfinder.recommend.situation import Situation
from batchfinder.results import SAME, BatchPlan, Candidate, Limit, Loading, NoiseScale, Why
from batchfinder.scaling import trusted_range
from batchfinder.wording import Caveat

__all__ = ["WORTHWHILE", "Decision", "caveats_of", "decide", "loading_of"]


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


FEW_STEPS = 10


def caveats_of(
    problem: Problem, situation: Situation, found: Sequence[Option], plan: BatchPlan
) -> Iterator[Caveat]:
    """Of the noise scale, the length of an epoch and the learning-rate rule."""
    yield from _noise(problem, situation, found, plan)
    length, batch = problem.dataset_length, plan.global_batch
    if length is not None and length < FEW_STEPS * batch:
        steps = math.ceil(length / batch)
        yield Caveat("recommend.short_epoch", steps=steps, batch=batch, length=length)
    schedule = problem.schedule
    if schedule is not None and schedule.decays and batch > problem.base_global_batch:
        yield from _decays(problem, situation, batch)
    most, sizes = problem.most_for_updates, [timing.micro_batch for timing in situation.timings]
    if most is not None and max(sizes) * situation.world_size > most:
        yield Caveat(
            "recommend.few_updates",
            steps=problem.length,
            fewest=problem.fewest_updates,
            largest=math.floor(most),
            told=_told_by(problem),
        )
    if problem.base_learning_rate is not None and batch != problem.base_global_batch:
        yield from _rate(problem, batch)


def _decays(problem: Problem, situation: Situation, batch: int) -> Iterator[Caveat]:
    """A decayed run ends where its schedule does: what shortening it takes."""
    base, critical = problem.base_global_batch, situation.critical
    if critical is None:
        return
    share = (1 + critical / batch) / (1 + critical / base)
    yield Caveat(
        "recommend.decays",
        steps=problem.length,
        same_loss=share,
        same_epochs=base / batch,
    )


def _told_by(problem: Problem) -> str:
    """Which of the schedule's counts the length was read from, unless there is no doubt."""
    schedule = problem.schedule
    if problem.training_steps is not None or schedule is None or schedule.is_certain:
        return ""
    longest = max(schedule.counted, key=lambda each: each.value, default=None)
    return "" if longest is None else longest.name


def _noise(
    problem: Problem, situation: Situation, found: Sequence[Option], plan: BatchPlan
) -> Iterator[Caveat]:
    noise = problem.noise
    if noise is None or situation.critical is None:
        kept = problem.noise_is_wanted and situation.is_yours(plan)
        yield Caveat("recommend.no_noise_kept" if kept else "recommend.no_noise_scale")
        return
    if not noise.is_bounded:
        yield Caveat("recommend.noise_open", low=noise.low)
        return
    fastest = [
        min(found, key=lambda option: option.time_to_target(critical)).plan.global_batch
        for critical in (noise.low, noise.high)
        if critical > 0
    ]
    if fastest and max(fastest) > 4 * min(fastest):
        yield Caveat("recommend.noise_wide", smallest=min(fastest), largest=max(fastest))


def _rate(problem: Problem, batch: int) -> Iterator[Caveat]:
    family = None if problem.rule else problem.family
    if family is not None and family.caveat:
        yield Caveat(f"recommend.{family.caveat}", optimizer=problem.optimizer_family)
    low, high = trusted_range(problem.base_global_batch)
    if not low <= batch <= high:
        yield Caveat("recommend.far_from_base", base=problem.base_global_batch)
    if problem.noise is None and family is not None:
        yield Caveat("recommend.rate_uncapped")
