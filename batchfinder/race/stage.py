"""Which learning rate trains fastest? A race at the recommended batch, where it pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from batchfinder.base_pair import Base
from batchfinder.noise import hazards_in_room
from batchfinder.protocols import LearningRateRule
from batchfinder.race.arithmetic import runs_within, steps_at
from batchfinder.race.racing import length_of, race_rates
from batchfinder.race.rule import Race, Raced
from batchfinder.recommend import Problem, recommend
from batchfinder.results import (
    BatchPlan,
    NoiseFindings,
    NoiseScale,
    RaceResult,
    Recommendation,
    Stage,
)
from batchfinder.run.attempt import Shortage
from batchfinder.run.bench import Bench
from batchfinder.scaling import critical_batch_size, rule_for
from batchfinder.schedule import decays
from batchfinder.session import Call, stage
from batchfinder.training import Training, as_list
from batchfinder.wording import Caveat

__all__ = ["Settled", "settled_by_race"]

_USUAL_ARMS = 5
"""Four rates and a repeat: what a race takes where the rate is right or off by four."""
_REMEASURED = 4.0
"""From this factor on, the noise scale was measured at a rate that says little of the new one."""
_WORTH_SAYING = 1.5
_CONFIRMATION_STEPS = 80
_LOOKED_AT = 16


@dataclass(frozen=True)
class Settled:
    """What the rest of the call goes on with.

    The rule of ``problem`` goes through the rate that the race found, ``known`` is the pair that
    trains, and ``findings`` are new where the rate moved far. ``result`` is ``None`` where no race
    was asked for and none would pay.
    """

    problem: Problem
    findings: NoiseFindings
    known: Base
    result: RaceResult | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def has_raced(self) -> bool:
        """Whether the rate was measured."""
        return self.problem.rate_is_measured


def settled_by_race(
    call: Call,
    training: Training,
    rule: LearningRateRule | Race | None,
    *,
    problem: Problem,
    findings: NoiseFindings,
    base: Base,
    training_steps: int | None,
    measure_noise: Callable[[Base], NoiseFindings],
) -> Settled:
    """Race at the batch that would be chosen, where that was asked for or pays; and go on from it.

    Without a rule of the caller's own, and with ``training_steps``, a race is run where it costs
    at most a tenth of the training. Where it moves the rate by four or more, the noise scale is
    measured and the batch chosen again at the rate that was found.

    Args:
        call: the call under way.
        training: what is trained.
        rule: the caller's: a race, a rule, or ``None``.
        problem: what the choice is made from.
        findings: what the warm-up told of the noise scale.
        base: the pair that the user trains with now.
        training_steps: optimizer steps of the whole training at the base batch, where known.
        measure_noise: the warm-up once more, at another base.
    """
    only_if_it_pays = False
    match rule:
        case Race():
            race = rule
        case None if training_steps is not None:
            race, only_if_it_pays = Race(), True
        case _:
            return Settled(replace(problem, rule=rule), findings, base)
    inner = race.start or rule_for(call.bench.step.optimizer_family).rule
    problem = replace(problem, rule=race.start)
    recommendation = recommend(problem)
    result, said = _race(
        call,
        training,
        race,
        recommendation,
        run_steps=_run_steps(
            training_steps,
            recommendation.plan,
            base.batch_size * call.replicas,
            findings.training,
        ),
        training_steps=training_steps,
        only_if_it_pays=only_if_it_pays,
    )
    if result is None or result.best_rate is None or base.learning_rate is None:
        return Settled(problem, findings, base, result, said)
    raced = Raced(inner, result.batch, result.learning_rate)
    known = replace(
        base, batch_size=result.batch // call.replicas, learning_rate=result.learning_rate
    )
    if max(result.factor, 1 / result.factor) >= _REMEASURED:
        said = (*said, Caveat("race.remeasured", factor=max(result.factor, 1 / result.factor)))
        again = measure_noise(replace(base, learning_rate=base.learning_rate * result.factor))
        findings = findings if again.training is None else again
    problem = replace(problem, rule=raced, noise=findings.training, rate_is_measured=True)
    return Settled(problem, findings, known, result, said)


def _run_steps(
    training_steps: int | None, plan: BatchPlan, base_batch: int, noise: NoiseScale | None
) -> float | None:
    """Steps at ``plan`` that stand for the training's at the user's own batch."""
    if training_steps is None:
        return None
    return steps_at(
        plan.global_batch,
        base_batch=base_batch,
        base_steps=training_steps,
        critical=critical_batch_size(noise),
    )


def _race(
    call: Call,
    training: Training,
    race: Race,
    recommendation: Recommendation,
    *,
    run_steps: float | None,
    training_steps: int | None,
    only_if_it_pays: bool,
) -> tuple[RaceResult | None, tuple[Caveat, ...]]:
    """The race at the recommended batch, and what to say; ``None`` where it would not pay."""
    bench, plan, rate = call.bench, recommendation.plan, recommendation.learning_rate
    if rate is None:
        return None, (Caveat("race.no_rate"),)
    length = length_of(race, bench.source, plan.global_batch, run_steps)
    paid_for = None
    if only_if_it_pays:
        paid_for = runs_within(run_steps or 0.0, length.cost)
        if paid_for < _USUAL_ARMS:
            return None, ()
    falls = decays(as_list(training.scheduler), training_steps)
    step_seconds = next((c.step_seconds for c in recommendation.candidates if c.chosen), 0.0)
    seconds = _USUAL_ARMS * length.cost * step_seconds
    detail = f"{length.steps} steps each at batch {plan}"

    def start(at: float) -> None:
        bench.training()
        bench.set_learning_rate(at)

    def too_little_time() -> bool:
        """Whether another arm would take the time that the confirmation needs."""
        needed = (length.cost + _CONFIRMATION_STEPS) * step_seconds
        return _seconds_left(call) < needed

    with call.budget.aside(), stage(call, Stage.RACE, detail, seconds):
        refusal = _refusal(call, training, plan, steps=_USUAL_ARMS * length.cost, seconds=seconds)
        if refusal is not None:
            none = RaceResult(plan.global_batch, (), length.steps, rate, None, rate, run_steps)
            return replace(none, refusal=refusal), (refusal,)
        result = race_rates(
            bench.setup,
            plan,
            rate,
            race=race,
            start=start,
            run_steps=run_steps,
            averaged=falls if race.decays is None else race.decays,
            average_on=_room_for_average(bench, recommendation),
            seed=bench.seed,
            total=paid_for,
            enough=too_little_time,
            observe=call.observe,
        )
        bench.training()
    return result, _said(result)


def _refusal(
    call: Call, training: Training, plan: BatchPlan, *, steps: int, seconds: float
) -> Caveat | None:
    """Why there can be no race; ``None`` where there can."""
    bench, left = call.bench, _seconds_left(call)
    optimizers = as_list(training.optimizer)
    found = {
        Caveat("race.updates_itself"): bench.step.updates_itself,
        Caveat("race.ranks"): call.replicas > 1,
        Caveat("race.several_optimizers", count=len(optimizers)): _train_apart(
            optimizers, as_list(training.model)
        ),
        Caveat("race.no_time", steps=steps): left < seconds,
    }
    refusal = next((caveat for caveat, holds in found.items() if holds), None)
    if refusal is not None:
        return refusal
    bench.training()
    try:
        coupled = hazards_in_room(
            bench.step, bench.source, bench.seed, min(_LOOKED_AT, plan.micro_batch)
        ).refusal
    except Shortage:
        return Caveat("race.out_of_memory", micro_batch=plan.micro_batch)
    return Caveat("race.coupled") if coupled else None


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


def _seconds_left(call: Call) -> float:
    """Of what the caller gave: the default budget has nothing to do with what a race costs."""
    return math.inf if call.budget.total_seconds is None else call.budget.seconds_left()


def _said(result: RaceResult) -> tuple[Caveat, ...]:
    if result.refusal:
        return (result.refusal,)
    if max(result.factor, 1 / result.factor) < _WORTH_SAYING:
        return result.caveats
    moved = Caveat(
        "race.moved",
        factor=result.factor,
        batch=result.batch,
        rule_rate=result.rule_rate,
        rate=result.learning_rate,
        at_least=result.run_steps is None,
    )
    return (moved, *result.caveats)
