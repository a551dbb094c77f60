"""Does the choice hold? Real steps of the plan, or of the next one, from untouched weights."""

from __future__ import annotations

from dataclasses import replace

from batchfinder.confirm import confirm, confirmed
from batchfinder.results import BatchPlan, Confirmation, ProbeResult, Recommendation, Stage
from batchfinder.stages.call import Call, stage

__all__ = ["confirm_choice", "with_headroom"]

_STEPS = 40
_FEWEST_STEPS = 10


def confirm_choice(
    call: Call, recommendation: Recommendation
) -> tuple[Recommendation, Confirmation | None]:
    """The recommendation that held, and the evidence; ``None`` where no time was left for any."""
    bench = call.bench
    steps = _affordable_steps(call, recommendation)
    if steps < _FEWEST_STEPS:
        call.cut.append("the recommended plan was not confirmed by training with it")
        return recommendation, None
    if steps < _STEPS:
        call.cut.append(f"the confirmation took {steps} steps in place of {_STEPS}")

    def run(plan: BatchPlan, rate: float | None) -> Confirmation:
        return confirm(
            bench.step,
            bench.source,
            bench.memory,
            plan,
            rate,
            steps=steps,
            observe=call.observe,
            fresh=bench.training,
        )

    detail = f"{steps} steps at {recommendation.plan}, then at twice the rate"
    with stage(call, Stage.CONFIRM, detail, 2 * steps * _step_seconds(recommendation)):
        return confirmed(recommendation, run, enough=call.budget.is_spent)


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
    return _STEPS if left is None or not seconds else min(_STEPS, int(left / (2 * seconds)))


def _step_seconds(recommendation: Recommendation) -> float:
    return next((each.step_seconds for each in recommendation.candidates if each.chosen), 0.0)
