"""What a reader should know before acting on a choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batchfinder.recommend.candidates import Option
from batchfinder.recommend.problem import Problem
from batchfinder.recommend.situation import Situation
from batchfinder.results import BatchPlan
from batchfinder.scaling import trusted_range
from batchfinder.wording import Caveat

__all__ = ["caveats_of"]

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
