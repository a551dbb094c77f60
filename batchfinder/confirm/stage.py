"""Does the choice hold? Real steps of the plan, or of the next one, from untouched weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from batchfinder.base_pair import Base
from batchfinder.confirm import Bolder, Known, bolder, confirm, confirmed, raised
from batchfinder.protocols import LearningRateRule
from batchfinder.results import (
    BatchPlan,
    Confirmation,
    NoiseScale,
    ProbeResult,
    Recommendation,
    Stage,
)
from batchfinder.scaling import at_upper_end, rule_for
from batchfinder.session import Call, stage, world_size

__all__ = ["confirm_choice", "with_headroom"]

_STEPS = 40
_FEWEST_STEPS = 10


def confirm_choice(
    call: Call,
    choose: Callable[[NoiseScale | None], Recommendation],
    noise: NoiseScale | None,
    base: Base,
    rule: LearningRateRule | None,
) -> tuple[Recommendation, Confirmation | None]:
    """The choice that held, and the evidence; ``None`` where no time was left for any.

    Args:
        call: the call under way.
        choose: the choice at a noise scale.
        noise: the run's noise scale. Where training shows it to be low, ``choose`` is asked again
            at the upper end of its interval.
        base: the pair that the user trains with now.
        rule: the caller's own learning-rate rule, whose rate is never raised; or ``None``.
    """
    recommendation = choose(noise)
    bench = call.bench
    steps = _affordable_steps(call, recommendation)
    if steps < _FEWEST_STEPS:
        call.cut_short("session.not_confirmed")
        return recommendation, None
    if steps < _STEPS:
        call.cut_short("session.confirmed_short", steps=steps, of=_STEPS)

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
        found = confirmed(recommendation, run, known=_known(base), enough=call.budget.is_spent)
        if rule is not None or recommendation.plan.global_batch <= base.batch_size * world_size():
            return found
        return raised(
            recommendation,
            found,
            run,
            lambda: _bolder(call, choose, at_upper_end(noise), base),
            enough=lambda: _affordable_steps(call, recommendation) < steps,
        )


def with_headroom(probed: ProbeResult, recommendation: Recommendation) -> ProbeResult:
    """What stays free at the recommended size, in the breakdown of the memory."""
    chosen = next((each for each in recommendation.candidates if each.chosen), None)
    if chosen is None or chosen.peak_bytes is None:
        return probed
    free = probed.memory.limit_bytes - chosen.peak_bytes
    return replace(probed, memory=replace(probed.memory, headroom_bytes=free))


def _known(base: Base) -> Known | None:
    """The user's own pair, which trains; what was assumed may not."""
    if base.learning_rate is None or not base.is_yours:
        return None
    return Known(base.batch_size * world_size(), base.learning_rate)


def _bolder(
    call: Call,
    choose: Callable[[NoiseScale | None], Recommendation],
    noise: NoiseScale | None,
    base: Base,
) -> Bolder | None:
    highest = rule_for(call.bench.step.optimizer_family).highest
    if highest is None or noise is None or base.learning_rate is None:
        return None
    choice = choose(noise)
    batches = base.batch_size * world_size(), choice.plan.global_batch
    return bolder(choice, highest(base.learning_rate, *batches, None), noise.value)


def _affordable_steps(call: Call, recommendation: Recommendation) -> int:
    """As many steps as the budget has time for, at both rates."""
    left, seconds = call.budget.left(), _step_seconds(recommendation)
    return _STEPS if left is None or not seconds else min(_STEPS, int(left / (2 * seconds)))


def _step_seconds(recommendation: Recommendation) -> float:
    return next((each.step_seconds for each in recommendation.candidates if each.chosen), 0.0)
