"""The choice checked by training: real steps of the plan, or of the next one."""

from __future__ import annotations

from dataclasses import replace

from batchfinder.confirm.branch import FEWEST_STEPS, OPENING, STEPS
from batchfinder.confirm.confirming import confirm, goes_on_at_twice
from batchfinder.confirm.procedure import confirm_recommendation
from batchfinder.confirm.retry import OwnPair
from batchfinder.meter import Meter
from batchfinder.recommend import Problem, recommend
from batchfinder.results import BatchPlan, Confirmation, ProbeResult, Recommendation, Stage
from batchfinder.session import Call, stage
from batchfinder.wording import Caveat

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
    steps = _affordable_steps(call, problem, recommendation.plan)
    if steps < FEWEST_STEPS:
        return _saying(recommendation, call.cut_short("session.not_confirmed")), None

    def run(plan: BatchPlan, rate: float | None) -> Confirmation:
        now = max(FEWEST_STEPS, min(steps, _affordable_steps(call, problem, plan)))
        return confirm(
            bench.setup,
            plan,
            rate,
            steps=now,
            clock=call.budget.clock,
            observe=call.observe,
            fresh=bench.training,
            advance=Meter(
                Stage.CONFIRM,
                call.observe,
                of=_passes(problem)[0] * now if rate is not None else now,
                clock=call.budget.here,
            ),
        )

    detail = f"{steps} steps at {recommendation.plan}"
    if recommendation.learning_rate is not None:
        detail += ", then at twice the rate"
    with stage(call, Stage.CONFIRM, detail, _seconds(problem, recommendation.plan, steps)):
        settled, confirmation = confirm_recommendation(
            problem,
            run,
            own=own,
            enough=lambda: _affordable_steps(call, problem, recommendation.plan) < FEWEST_STEPS,
            enough_for_more=lambda: _affordable_steps(call, problem, recommendation.plan) < steps,
        )
    if confirmation.steps < STEPS:
        short = call.cut_short("session.confirmed_short", steps=confirmation.steps, of=STEPS)
        settled = _saying(settled, short)
    return settled, confirmation


def _saying(recommendation: Recommendation, caveat: Caveat) -> Recommendation:
    return replace(recommendation, caveats=(*recommendation.caveats, caveat))


def with_headroom(probed: ProbeResult, recommendation: Recommendation) -> ProbeResult:
    """What stays free at the recommended size, in the breakdown of the memory."""
    chosen = next((each for each in recommendation.candidates if each.chosen), None)
    if chosen is None or chosen.peak_bytes is None:
        return probed
    free = probed.memory.limit_bytes - chosen.peak_bytes
    return replace(probed, memory=replace(probed.memory, headroom_bytes=free))


def _affordable_steps(call: Call, problem: Problem, plan: BatchPlan) -> int:
    """As many steps as there is time for, in every branch and with what is read for them."""
    left, one = call.budget.left(), _step_seconds(problem, plan)
    if left is None or not one:
        return STEPS
    return min(STEPS, int((left - _seconds(problem, plan, 0)) / one))


def _seconds(problem: Problem, plan: BatchPlan, steps: int) -> float:
    """What all branches of ``steps`` steps take, with the losses read before them."""
    return (steps + OPENING / plan.accumulation_steps) * _step_seconds(problem, plan)


def _step_seconds(problem: Problem, plan: BatchPlan) -> float:
    """What one step of every branch takes, by what was measured at this micro-batch."""
    sizes = (each for each in problem.measurements if each.batch_size == plan.micro_batch)
    measured = next(sizes, None)
    if measured is None:
        return 0.0
    branches, read = _passes(problem)
    count = plan.accumulation_steps
    work = count * measured.forward_backward_seconds + measured.update_seconds
    loading = count * (measured.loader_seconds or 0.0)
    with_reading = max(work, loading) if problem.workers else work + loading
    return read * with_reading + (branches - read) * work


def _passes(problem: Problem) -> tuple[int, int]:
    """Branches of a confirmation, and how many of them read batches that were not kept."""
    if problem.base_learning_rate is None:
        return 1, 1
    return (3, 2) if goes_on_at_twice(problem.optimizer_family) else (2, 1)
