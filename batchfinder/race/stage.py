"""Which learning rate trains fastest? A race at the recommended batch, where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from batchfinder.noise import NoRoom, hazards_in_room
from batchfinder.protocols import LearningRateRule
from batchfinder.race.arithmetic import runs_within, steps_at
from batchfinder.race.racing import Length, length_of, race_rates
from batchfinder.race.rule import Race
from batchfinder.race.schedule import decays
from batchfinder.results import BatchPlan, RaceResult, Recommendation, Stage
from batchfinder.run.bench import Bench
from batchfinder.session import Call, stage, world_size
from batchfinder.training import Training, as_list
from batchfinder.wording import Caveat

__all__ = ["Wanted", "race_learning_rate", "wanted"]

_USUAL_ARMS = 5
"""Four rates and a repeat: what a race takes where the rate is right or off by four."""
_REMEASURED = 4.0
"""From this factor on, the noise scale was measured at a rate that says little of the new one."""
_WORTH_SAYING = 1.5
_CONFIRMATION_STEPS = 80
_LOOKED_AT = 16


@dataclass(frozen=True)
class Wanted:
    """A race that the caller asked for, or, where ``pays`` is asked first, one of our own."""

    race: Race
    only_if_it_pays: bool
    training_steps: int | None


def wanted(rule: LearningRateRule | Race | None, training_steps: int | None) -> Wanted | None:
    """Whether the learning rate is to be raced for: ``None`` where a rule was given instead."""
    if isinstance(rule, Race):
        return Wanted(rule, False, training_steps)
    if rule is not None or training_steps is None:
        return None
    return Wanted(Race(), True, training_steps)


def race_learning_rate(
    call: Call,
    training: Training,
    asked: Wanted,
    recommendation: Recommendation,
    *,
    base_batch: int,
    critical: float | None,
) -> RaceResult | None:
    """The race at the recommended batch; ``None`` where nobody asked and it would not pay.

    Args:
        call: the call under way.
        training: what is trained.
        asked: the race, and how long the run is.
        recommendation: the choice, at whose batch and rate the race starts.
        base_batch: samples per optimizer step of the user's training, over all devices.
        critical: the critical batch size, where known.
    """
    bench, plan, rate = call.bench, recommendation.plan, recommendation.learning_rate
    run_steps = None
    if asked.training_steps is not None:
        run_steps = steps_at(
            plan.global_batch,
            base_batch=base_batch,
            base_steps=asked.training_steps,
            critical=critical,
        )
    length = length_of(asked.race, bench.source, plan.global_batch, run_steps)
    paid_for = None
    if asked.only_if_it_pays:
        paid_for = runs_within(run_steps or 0.0, length.cost)
        if paid_for < _USUAL_ARMS:
            return None
    none = RaceResult(plan.global_batch, (), length.steps, rate or 0.0, None, rate or 0.0)
    step_seconds = next((c.step_seconds for c in recommendation.candidates if c.chosen), 0.0)
    seconds = _USUAL_ARMS * length.cost * step_seconds
    detail = f"{length.steps} steps each at batch {plan}"
    with stage(call, Stage.RACE, detail, seconds):
        refusal = _refusal(call, training, plan, rate, length, seconds)
        if refusal is not None or rate is None:
            call.said.extend(filter(None, [refusal]))
            return replace(none, refusal=refusal or "")
        result = race_rates(
            bench.step,
            bench.source,
            bench.memory,
            plan,
            rate,
            race=asked.race,
            start=lambda at: _start(bench, at),
            run_steps=run_steps,
            averaged=_averages(asked, training),
            average_on=_room_for_average(bench, recommendation),
            seed=bench.seed,
            most=None if paid_for is None else paid_for - 1,
            enough=lambda: _too_little_time(call, length.cost * step_seconds, step_seconds),
            observe=call.observe,
        )
        bench.training()
    call.said.extend(_said(result, paid_for))
    return result


def _start(bench: Bench, rate: float) -> None:
    bench.training()
    bench.set_learning_rate(rate)


def _averages(asked: Wanted, training: Training) -> bool:
    if asked.race.decays is not None:
        return asked.race.decays
    return decays(as_list(training.scheduler), asked.training_steps)


def _refusal(
    call: Call,
    training: Training,
    plan: BatchPlan,
    rate: float | None,
    length: Length,
    seconds: float,
) -> Caveat | None:
    """Why there can be no race; ``None`` where there can."""
    bench = call.bench
    if rate is None:
        return Caveat("race.no_rate")
    if bench.step.updates_itself:
        return Caveat("race.updates_itself")
    if world_size() > 1:
        return Caveat("race.ranks")
    optimizers = as_list(training.optimizer)
    if _train_apart(optimizers, as_list(training.model)):
        return Caveat("race.several_optimizers", count=len(optimizers))
    left = call.budget.left()
    if left is not None and left < seconds:
        return Caveat("race.no_time", steps=_USUAL_ARMS * length.cost)
    bench.training()
    try:
        hazards = hazards_in_room(
            bench.step, bench.source, bench.seed, min(_LOOKED_AT, plan.micro_batch)
        )
    except NoRoom:
        return Caveat("race.out_of_memory", micro_batch=plan.micro_batch)
    return Caveat("race.coupled") if hazards.refusal else None


def _train_apart(optimizers: Sequence[Any], modules: Sequence[torch.nn.Module]) -> bool:
    """Whether no two of several optimizers train the same one of several modules."""
    if len(optimizers) < 2 or len(modules) < 2:
        return False
    trained = []
    for optimizer in optimizers:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        trained.append(
            {
                number
                for number, module in enumerate(modules)
                if any(id(parameter) in held for parameter in module.parameters())
            }
        )
    return sum(map(len, trained)) == len(set().union(*trained))


def _room_for_average(bench: Bench, recommendation: Recommendation) -> torch.device | None:
    """Beside the weights, or in host memory where the recommended batch leaves no room there."""
    peak = next((c.peak_bytes for c in recommendation.candidates if c.chosen), None)
    needed = sum(4 * parameter.numel() for parameter in bench.step.parameters())
    if peak is None or peak + needed > bench.memory.limit_bytes():
        return torch.device("cpu")
    return None


def _too_little_time(call: Call, arm_seconds: float, step_seconds: float) -> bool:
    """Whether another arm would take the time that the confirmation needs."""
    left = call.budget.left()
    return left is not None and left < arm_seconds + _CONFIRMATION_STEPS * step_seconds


def needs_remeasuring(result: RaceResult) -> bool:
    """Whether the rate moved so far that noise scale and choice were made at a wrong one."""
    return max(result.factor, 1 / result.factor) >= _REMEASURED


def _said(result: RaceResult, paid_for: int | None) -> list[str]:
    if result.refusal:
        return [result.refusal]
    said = []
    if max(result.factor, 1 / result.factor) >= _WORTH_SAYING:
        said.append(Caveat("race.moved", factor=result.factor, steps=result.steps))
    first = [arm for arm in result.arms if arm.order == 1]
    if paid_for is not None and len(first) == paid_for - 1:
        said.append(Caveat("race.cut", arms=len(first)))
    return [*said, *result.caveats]
