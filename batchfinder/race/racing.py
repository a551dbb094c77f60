"""A race: arms run one after the other until the best lies between worse ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from batchfinder.errors import OutOfTime
from batchfinder.protocols import BatchSource, Observer, Setup, TrainStep
from batchfinder.race.arithmetic import (
    FARTHEST,
    Fall,
    are_alike,
    best_of,
    clipped,
    fall_of,
    for_the_run,
    held_out_batches,
    next_arm,
    offset_of,
    open_rates,
    passes_of,
    race_steps,
    scatter_of,
)
from batchfinder.race.arms import Course, Start
from batchfinder.race.rule import Race
from batchfinder.results import BatchPlan, RaceArm, RaceResult
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.wording import Caveat

__all__ = ["Finish", "Length", "LossAt", "length_of", "race_rates", "run_arms"]


LossAt = Callable[[float, int], RaceArm]
"""(rate, data order) -> one arm, run from the start."""


@dataclass(frozen=True)
class Finish:
    """How a race ended. ``best_rate`` is ``None`` where every rate ran away, or none was run."""

    arms: tuple[RaceArm, ...]
    best_rate: float | None
    at_edge: bool = False
    """Whether the best was the last one tried, so that a better one may lie beyond."""
    repeated: bool = True
    """Whether the best rate was seen to hold on a second order of the data."""
    first_best_rate: float | None = None
    """That of the lowest loss on the first order, if it was not best on another."""
    scatter: float = 0.0
    """By how much its loss differs between the two orders."""
    alike: bool = False
    """Whether the losses of all rates differ by no more than that."""


def run_arms(
    loss_at: LossAt,
    start: float,
    *,
    most: int,
    total: int | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Finish:
    """Walk from ``start`` by factors of two to the best rate, and repeat that on another order.

    Where the repeat runs away, or makes the mean of both orders worse than the next lower rate,
    that one takes its place and is repeated, and so on: a rate may diverge on one order of the data
    and be the fastest on another, and the best of many is so by luck too. An arm for which no time
    is left to read samples ends it, and does not count.

    Args:
        loss_at: runs one arm.
        start: the first rate.
        most: arms on the first order, and repeats on the second, at most.
        total: arms and repeats together, at most; at least one is left for a repeat.
        enough: asked before every arm but the first; true ends the race there.
    """
    losses: dict[int, float] = {}
    errors: dict[int, float] = {}
    arms: list[RaceArm] = []

    def run(k: int, order: int) -> float:
        arms.append(loss_at(start * 2.0**k, order))
        errors.setdefault(k, arms[-1].loss_error)
        return arms[-1].loss

    total = 2 * most if total is None else total
    first = min(most, total - 1)
    k = next_arm(losses, first)
    while k is not None:
        try:
            losses[k] = run(k, 1)
        except OutOfTime:
            break
        k = None if enough() else next_arm(losses, first)
    best = best_of(losses)
    if best is None:
        return Finish(tuple(arms), None)
    at_edge = not {best - 1, best + 1} <= losses.keys()
    kept, scatter = best, 0.0
    for _ in range(most):
        if len(arms) >= total or enough():
            return Finish(tuple(arms), _rate(start, kept), at_edge, repeated=False)
        try:
            again = run(kept, 2)
        except OutOfTime:
            return Finish(tuple(arms), _rate(start, kept), at_edge, repeated=False)
        if kept == best:
            scatter = scatter_of((losses[best], errors[best]), (again, arms[-1].loss_error))
        both = (losses.get(kept, again) + again) / 2
        if math.isfinite(both) and both <= losses.get(kept - 1, math.inf):
            offset = offset_of(losses, best) if kept == best else 0.0
            return Finish(
                tuple(arms),
                _rate(start, kept + offset),
                at_edge,
                first_best_rate=_rate(start, best) if kept < best else None,
                scatter=scatter,
                alike=are_alike(losses, scatter),
            )
        kept -= 1
    return Finish(tuple(arms), None)


def _rate(start: float, octaves: float) -> float:
    return float(start * 2.0**octaves)


_SEED = 104_729
"""Added to the call's seed: the noise scale's orders of the data are others."""


@dataclass(frozen=True)
class Length:
    """How long an arm is: optimizer steps, and batches that it leaves out of training."""

    steps: int
    held: int
    passes: float

    @property
    def cost(self) -> int:
        """Steps that one arm costs, the batches that it is judged on counted as such."""
        return self.steps + self.held


def length_of(race: Race, source: BatchSource, batch: int, run_steps: float | None) -> Length:
    """The length of the arms at ``batch`` for a run of ``run_steps``."""
    samples = source.length if source.unit == "samples" else None
    held = held_out_batches(batch, samples)
    steps = race.steps or race_steps(run_steps)
    return Length(steps, held, passes_of(steps, batch, held, samples))


def race_rates(
    setup: Setup[TrainStep],
    plan: BatchPlan,
    rate: float,
    *,
    race: Race,
    start: Start,
    run_steps: float | None = None,
    averaged: bool = False,
    average_on: torch.device | None = None,
    seed: int = 0,
    total: int | None = None,
    enough: Callable[[], bool] = lambda: False,
    observe: Observer | None = None,
) -> RaceResult:
    """The learning rate at ``plan`` by trial; where none was found, the rule's and why.

    Args:
        setup: the training, where its batches come from, and where the limit is enforced.
        plan: the batch of one optimizer step.
        rate: where to start: the rule's.
        race: the settings.
        start: puts everything back and sets a rate. The caller puts back after the last arm.
        run_steps: steps that the run will take at this batch; ``None`` where not known.
        averaged: whether the run's rate decays, so that averaged weights are judged.
        average_on: where the average is kept; ``None`` is beside the weights.
        seed: of the orders of the data.
        total: arms at most, repeats included.
        enough: asked before every arm but the first; true ends the race.
        observe: gets every arm.

    Raises:
        DeviceLost: where the device cannot be used again in this process.
        Exception: a mistake in the user's code, as itself, with a note.
    """
    source = setup.source
    length = length_of(race, source, plan.global_batch, run_steps)
    none = RaceResult(plan.global_batch, (), length.steps, rate, None, rate, run_steps, averaged)
    if not length.held:
        few = Caveat("race.too_little_data", samples=source.length, batch=plan.global_batch)
        return replace(none, refusal=few)
    course = Course(
        setup,
        plan,
        start=start,
        steps=length.steps,
        ramp=race.ramp,
        held=length.held,
        averaged=averaged,
        average_on=average_on,
        seed=seed + _SEED,
    )

    def arm(at: float, order: int) -> RaceArm:
        with attempt(setup.step, plan.micro_batch, "a race of learning rates", memory=setup.memory):
            ran = course.arm(at, order)
        if observe is not None:
            observe(ran)
        return ran

    try:
        finish = run_arms(arm, rate, most=race.arms, total=total, enough=enough)
    except Shortage:
        return replace(none, refusal=Caveat("race.out_of_memory", micro_batch=plan.micro_batch))
    if not finish.arms:
        return replace(none, refusal=Caveat("race.no_time", steps=length.steps))
    found = replace(
        none,
        arms=finish.arms,
        start_loss=course.start_loss,
        held_out_samples=length.held * plan.global_batch,
    )
    if finish.best_rate is None:
        tried = [ran.learning_rate for ran in finish.arms]
        away = Caveat("race.all_ran_away", count=len(tried), low=min(tried), high=max(tried))
        return replace(found, refusal=away)
    says_nothing = _says_nothing(finish, course.start_loss, length.steps)
    if says_nothing is not None:
        return replace(found, refusal=says_nothing)
    found = replace(
        found, best_rate=finish.best_rate, caveats=tuple(_said(finish, length, run_steps))
    )
    fall = fall_of(setup.step.optimizer_family, decays=averaged)
    return _carried(found, finish.best_rate, fall, finish.first_best_rate)


def _says_nothing(finish: Finish, start_loss: float, steps: int) -> Caveat | None:
    """Why the losses of the arms say nothing of the rate; ``None`` where they do."""
    lowest = min(ran.loss for ran in finish.arms)
    if not start_loss - lowest > finish.scatter:
        return Caveat("race.no_progress", steps=steps, start=start_loss, loss=lowest)
    if not finish.alike:
        return None
    tried = [ran.learning_rate for ran in finish.arms]
    losses = [ran.loss for ran in finish.arms if ran.order == 1]
    return Caveat(
        "race.alike",
        steps=steps,
        low=min(tried),
        high=max(tried),
        difference=max(losses) - min(losses),
        scatter=finish.scatter,
    )


def _carried(found: RaceResult, best: float, fall: Fall, up_to: float | None) -> RaceResult:
    """With the rate of the run that the race was for."""
    if found.run_steps is None:
        return replace(found, learning_rate=clipped(found.rule_rate, best))
    ratio = found.run_steps / found.steps
    return replace(
        found,
        learning_rate=for_the_run(found.rule_rate, best, ratio, fall, up_to=up_to),
        open_rates=open_rates(best, ratio, fall, up_to=up_to),
        exponent=min(fall.aim, 1 / 3),
    )


def _said(finish: Finish, length: Length, run_steps: float | None) -> list[Caveat]:
    said = []
    if finish.at_edge:
        said.append(Caveat("race.at_edge", rate=finish.best_rate))
    if not finish.repeated:
        said.append(Caveat("race.not_repeated", rate=finish.best_rate))
    if length.passes > 1:
        said.append(Caveat("race.passes", passes=length.passes, steps=length.steps))
    if run_steps is None:
        said.append(Caveat("race.length_unknown", steps=length.steps, rate=finish.best_rate))
    elif run_steps > FARTHEST * length.steps:
        ratio = run_steps / length.steps
        said.append(Caveat("race.extrapolated", ratio=math.floor(ratio), trusted=int(FARTHEST)))
    return said
