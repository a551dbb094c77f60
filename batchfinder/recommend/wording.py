"""The recommendation in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batchfinder.protocols import Objective
from batchfinder.recommend.candidates import Option
from batchfinder.recommend.objectives import YOURS, shortest_time
from batchfinder.recommend.situation import Situation
from batchfinder.results import BatchPlan, Candidate, Limit, NoiseScale
from batchfinder.units import format_count, format_size

__all__ = ["caveats_of", "reason_of"]

_FEW_STEPS = 10
_SHOWN = 3


def reason_of(
    candidates: Sequence[Candidate], limit: Limit, situation: Situation, objective: Objective
) -> str:
    """The choice, the limit that binds, and what the alternatives cost."""
    chosen = next(each for each in candidates if each.chosen)
    name = getattr(objective, "__name__", type(objective).__name__)
    if objective is shortest_time:
        why = _why_shortest(candidates, chosen, situation)
    else:
        why = f"is the choice of the objective {name}"
    batch = format_size(chosen.plan.global_batch)
    sentences = [f"A batch of {batch} {why}.", f"It is limited by {limit.value}."]
    alternatives = list(_alternatives(candidates, situation))
    if alternatives:
        sentences.append(f"{'; '.join(alternatives)}.")
    return " ".join(sentences)


def _why_shortest(candidates: Sequence[Candidate], chosen: Candidate, situation: Situation) -> str:
    if situation.critical is None:
        return (
            "is the throughput knee: the smallest within 10% of the most samples per second; "
            "no noise scale was known"
        )
    best = min(each.relative_time for each in candidates)
    if best > 1 - 0.005:
        return "has the shortest predicted time to the same loss"
    if best > 1 / 1.035:
        return "is the smallest within 3% of the shortest predicted time to the same loss"
    if YOURS in chosen.roles:
        return "is yours, and the fastest smaller one would save too little time to go below it"
    return "is the smallest not below yours that is near the shortest predicted time"


def _alternatives(candidates: Sequence[Candidate], situation: Situation) -> Iterator[str]:
    """The faster one, if any, then those with a role, at most three."""
    others = [each for each in candidates if not each.chosen]
    faster = [each for each in others if each.relative_time < 0.995]
    picked = [min(faster, key=lambda each: each.relative_time)] if faster else []
    picked += [each for each in others if each.roles and each not in picked]
    for each in picked[:_SHOWN]:
        yield _price(each, known=situation.critical is not None)


def _price(candidate: Candidate, *, known: bool) -> str:
    role = f" ({', '.join(candidate.roles)})" if candidate.roles else ""
    name = f"{format_size(candidate.plan.global_batch)}{_cut(candidate.plan)}{role}"
    time, samples = candidate.relative_time, candidate.relative_samples
    if not known:
        return f"{name} takes {time:.2f}x the time per sample"
    if time < 0.995:
        text = f"{name} would reach the target {100 * (1 - time):.0f}% sooner"
    else:
        text = f"{name} would take {time:.2f}x the time"
    if math.isfinite(samples):
        text += f" for {format_count(samples)}x the samples"
    return text


def _cut(plan: BatchPlan) -> str:
    """How a global batch is made, where it is not one micro-batch: `` as 1,024 x 16 …``."""
    if plan.accumulation_steps == 1:
        return ""
    devices = f" x {plan.world_size} devices" if plan.world_size > 1 else ""
    micro = format_size(plan.micro_batch)
    return f" as {micro} x {plan.accumulation_steps} accumulation steps{devices}"


def caveats_of(
    chosen: Option, found: Sequence[Option], situation: Situation, noise: NoiseScale | None
) -> Iterator[str]:
    """What a reader should know before acting on the choice."""
    yield from _noise_caveats(found, situation, noise)
    yield from _data_caveats(chosen, situation)


def _noise_caveats(
    found: Sequence[Option], situation: Situation, noise: NoiseScale | None
) -> Iterator[str]:
    if noise is None or situation.critical is None:
        yield (
            "No noise scale is known: the size was chosen by throughput alone, and a larger or "
            "smaller one may train faster."
        )
        return
    if not noise.is_bounded:
        yield (
            f"The noise scale is only bounded below (at least {format_count(noise.low)}): a "
            "larger batch than the recommended one may train faster."
        )
        return
    picks = [_fastest(found, critical) for critical in (noise.low, noise.high) if critical > 0]
    if picks and max(picks) > 4 * min(picks):
        yield (
            f"Within the interval of the noise scale the fastest size runs from {min(picks)} to "
            f"{max(picks)}: more samples for the estimate would narrow it."
        )


def _fastest(found: Sequence[Option], critical: float) -> int:
    return min(found, key=lambda option: option.time_to_target(critical)).plan.global_batch


def _data_caveats(chosen: Option, situation: Situation) -> Iterator[str]:
    plan = chosen.plan
    length = situation.bounds.dataset_length
    if length is not None and length < _FEW_STEPS * plan.global_batch:
        yield (
            f"An epoch is only {math.ceil(length / plan.global_batch)} steps at {plan.global_batch}"
            f" of {length} samples: schedules by epoch and per-epoch statistics become coarse."
        )
