"""The choice checked by training: real steps of the plan, or of the next one."""

from __future__ import annotations

from dataclasses import replace

from batchfinder.confirm.confirming import confirm
from batchfinder.confirm.constants import FEWEST_STEPS, STEPS
from batchfinder.confirm.procedure import confirm_recommendation
from batchfinder.confirm.retry import OwnPair
from batchfinder.meter import Meter
from batchfinder.recommend import Problem, recommend
from batchfinder.results import BatchPlan, Confirmation, ProbeResult, Recommendation, Stage
from batchfinder.session import Call, stage

__all__ = ["confirm_choice", "with_headroom"]


def confirm_choice(
    call: Call, problem: Problem, own: OwnPair | None
) -> tuple[Recommendation, Confirmation | None]:
    """The choice that held, and the evidence; ``None`` where no time was left for any.

    Raises:
        LossIsNotFinite: where it becomes so at the user's own pair.
    """
    with stage(call, Stage.RECOMMEND):
        recommendation = recommend(problem)
        call.observe(recommendation)
    bench = call.bench
    steps = _affordable_steps(call, recommendation)
    if steps < FEWEST_STEPS:
        call.cut_short("session.not_confirmed")
        return recommendation, None
    if steps < STEPS:
        call.cut_short("session.confirmed_short", steps=steps, of=STEPS)

    def run(plan: BatchPlan, rate: float | None) -> Confirmation:
        return confirm(
            bench.step,
            bench.source,
            bench.memory,
            plan,
            rate,
            steps=steps,
            clock=call.budget.clock,
            observe=call.observe,
            fresh=bench.training,
            advance=Meter(
                Stage.CONFIRM,
                call.observe,
                of=2 * steps if rate is not None else steps,
                clock=call.budget.here,
            ),
        )

    detail = f"{steps} steps at {recommendation.plan}, then at twice the rate"
    with stage(call, Stage.CONFIRM, detail, 2 * steps * _step_seconds(recommendation)):
        return confirm_recommendation(
            problem,
            run,
            own=own,
            enough=call.budget.is_spent,
            enough_for_more=lambda: _affordable_steps(call, recommendation) < steps,
        )


def with_headroom(probed: ProbeResult, recommendation: Recommendation) -> ProbeResult:
    """What stays free at the recommended size, in the breakdown of the memory."""
    chosen = next((each for each in recommendation.candidates if each.chosen), None)
    if chosen is None or chosen.peak_bytes is None:
        return probed
    free = probed.memory.limit_bytes - chosen.peak_bytes
    return replace(probed, memory=replace(probed.memory, headroom_bytes=free))


def _affordable_steps(call: Call, recommendation: Recommendation) -> int:
    """As many steps as the budget has time for, at both rates."""
    left, seconds = call.budget.left(), _step_seconds(recommendation)
    return STEPS if left is None or not seconds else min(STEPS, int(left / (2 * seconds)))


def _step_seconds(recommendation: Recommendation) -> float:
    return next((each.step_seconds for each in recommendation.candidates if each.chosen), 0.0)
