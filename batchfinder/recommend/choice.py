"""The recommendation: candidates priced, one chosen, its limit found, its certainty told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import LearningRateRule, Objective
from batchfinder.recommend.candidates import Option, options, priced, with_roles
from batchfinder.recommend.limits import choose, limit_of
from batchfinder.recommend.objectives import shortest_time
from batchfinder.recommend.situation import Bounds, Situation, peak_line, timings_of
from batchfinder.recommend.steadying import steadied
from batchfinder.recommend.uncertainty import spread, within_noise
from batchfinder.recommend.wording import caveats_of, reason_of
from batchfinder.results import (
    Candidate,
    Limit,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    Recommendation,
)
from batchfinder.scaling import FamilyRule, critical_batch_size, rule_for, trusted_range
from batchfinder.scaling.advice import Move, advise

__all__ = ["recommend"]

_WORTH_SHOWING = 1.10


@dataclass(frozen=True)
class _Rates:
    """Learning rates by global batch; ``None`` throughout where the base rate is not known."""

    rule: LearningRateRule
    family: FamilyRule | None
    base_rate: float | None
    base_batch: int
    noise: NoiseScale | None

    @property
    def name(self) -> str:
        return getattr(self.rule, "__name__", type(self.rule).__name__)

    def at(self, batch: int) -> float | None:
        if self.base_rate is None:
            return None
        return self.rule(self.base_rate, self.base_batch, batch, self.noise)


def recommend(
    measurements: Sequence[Measurement],
    noise: NoiseScale | None,
    *,
    base_batch: int,
    base_learning_rate: float | None,
    rule: LearningRateRule | None = None,
    objective: Objective | None = None,
    max_batch_size: int,
    memory: MemoryBreakdown,
    headroom: float = 0.05,
    ceiling: int | None = None,
    probe_limit: Limit = Limit.MEMORY,
    dataset_length: int | None = None,
    world_size: int = 1,
    optimizer_family: str = "unknown",
    can_accumulate: bool = True,
    loader_overlaps: bool = True,
) -> Recommendation:
    """Which batch size to use, at which learning rate, and what would have changed the answer.

    Args:
        measurements: what each micro-batch costs; only these sizes can be recommended.
        noise: the run's noise scale, in the unit of the batch sizes. ``None``: the throughput
            knee is recommended instead, with a caveat.
        base_batch: the batch per device that the user trains with now.
        base_learning_rate: its rate, for ``base_batch · world_size`` samples per step.
        rule: learning-rate rule; ``None`` chooses by ``optimizer_family``.
        objective: what is best; ``None`` is ``shortest_time``.
        max_batch_size: the largest micro-batch that was run and fitted.
        memory: the fitted memory line and the limit, in bytes.
        headroom: share of the limit that the recommended size leaves free.
        ceiling: the user's ceiling on the samples per device and step, accumulation included.
        probe_limit: what kept the probe from larger sizes.
        dataset_length: samples in the dataset; the global batch never exceeds it.
        world_size: devices that share one step; step times are those of one of them.
        optimizer_family: "sgd", "sgd-momentum", "adam", …; see ``scaling.rule_for``.
        can_accumulate: false where a step cannot be cut (the user's step updates by itself).
        loader_overlaps: whether loading runs beside the step (the loader has workers).

    Raises:
        InvalidArgument: where nothing was measured, or the objective returned something else
            than one of the candidates that it was given.
    """
    fitting = [each for each in measurements if each.batch_size <= max_batch_size]
    if not fitting:
        raise InvalidArgument(
            f"expected at least one measured batch size up to {max_batch_size}; found none"
        )
    situation = Situation(
        timings=tuple(steadied(timings_of(fitting, loader_overlaps=loader_overlaps))),
        bounds=Bounds(
            stopped_by=probe_limit,
            usable_bytes=(1 - headroom) * memory.limit_bytes if memory.limit_bytes else None,
            ceiling=ceiling,
            dataset_length=dataset_length,
        ),
        peak=peak_line(memory),
        gradient_bytes=memory.gradient_bytes,
        base_batch=base_batch * world_size,
        critical=critical_batch_size(noise),
        world_size=world_size,
        can_accumulate=can_accumulate,
    )
    rates = _Rates(
        rule=rule or rule_for(optimizer_family).rule,
        family=None if rule else rule_for(optimizer_family),
        base_rate=base_learning_rate,
        base_batch=base_batch * world_size,
        noise=noise,
    )
    return _recommend(situation, objective or shortest_time, rates, optimizer_family)


def _recommend(
    situation: Situation, objective: Objective, rates: _Rates, family: str
) -> Recommendation:
    situation, loosened = _with_something_allowed(situation)
    plan = choose(situation, objective).plan
    found = _with_the_largest(situation, options(situation))
    chosen = next(option for option in found if option.plan == plan)
    spreads = spread(found, chosen, rates.noise)
    certain = within_noise(found, spreads)
    raw = priced(situation, found)
    reference = raw[found.index(chosen)]
    candidates = [
        replace(
            each,
            relative_time=each.relative_time / reference.relative_time,
            relative_samples=each.relative_samples / reference.relative_samples,
            learning_rate=rates.at(each.plan.global_batch),
            chosen=each.plan == plan,
            relative_time_low=interval.low,
            relative_time_high=interval.high,
            roles=roles,
        )
        for each, interval, roles in zip(raw, spreads, with_roles(raw), strict=True)
    ]
    shown = tuple(each for each in candidates if _is_worth_showing(each))
    limit = limit_of(situation, objective, plan)
    return Recommendation(
        plan=plan,
        learning_rate=rates.at(plan.global_batch),
        learning_rate_rule=rates.name,
        limited_by=limit,
        candidates=shown,
        reason=reason_of(shown, limit, situation, objective),
        learning_rate_range=None if rates.base_rate is None else trusted_range(rates.base_batch),
        within_noise=certain,
        advice=advise(_move(situation, rates, chosen, family)),
        caveats=(
            *loosened,
            *caveats_of(chosen, found, situation, rates.noise),
            *_rate_caveats(rates, plan.global_batch),
        ),
    )


def _with_something_allowed(situation: Situation) -> tuple[Situation, tuple[str, ...]]:
    """The situation, its headroom given up where otherwise nothing could be recommended."""
    if options(situation):
        return situation, ()
    tight = replace(situation, bounds=replace(situation.bounds, usable_bytes=None))
    if options(tight):
        return tight, (
            "No measured size leaves the headroom asked for: the recommended one uses all "
            "of the memory. Lower headroom, or free memory.",
        )
    smallest = replace(situation.bounds, usable_bytes=None, ceiling=None, dataset_length=None)
    return replace(situation, bounds=smallest), (
        "No measured size respects the ceiling and the length of the dataset.",
    )


def _with_the_largest(situation: Situation, found: list[Option]) -> list[Option]:
    """The options and the largest size that was run, which headroom may have excluded."""
    roomy = replace(situation, bounds=replace(situation.bounds, usable_bytes=None))
    known = {option.plan.global_batch for option in found}
    plain = [option for option in options(roomy) if option.plan.accumulation_steps == 1]
    extra = [option for option in plain[-1:] if option.plan.global_batch not in known]
    return sorted([*found, *extra], key=lambda option: option.plan.global_batch)


def _is_worth_showing(candidate: Candidate) -> bool:
    plain = candidate.plan.accumulation_steps == 1
    near = candidate.relative_time <= _WORTH_SHOWING
    return plain or near or candidate.chosen or bool(candidate.roles)


def _move(situation: Situation, rates: _Rates, chosen: Option, family: str) -> Move:
    batch = chosen.plan.global_batch
    return Move(
        family=family,
        base_batch=situation.base_batch,
        batch=batch,
        micro_batch=chosen.plan.micro_batch,
        base_rate=rates.base_rate,
        rate=rates.at(batch),
        critical=situation.critical,
    )


def _rate_caveats(rates: _Rates, batch: int) -> list[str]:
    if rates.base_rate is None or batch == rates.base_batch:
        return []
    caveats = [rates.family.caveat] if rates.family and rates.family.caveat else []
    low, high = trusted_range(rates.base_batch)
    if not low <= batch <= high:
        caveats.append(
            f"The recommended batch is more than 16x away from yours ({rates.base_batch}): "
            "the learning rate is a guess there. Tune it."
        )
    if rates.noise is None and rates.family is not None:
        caveats.append(
            "Without a noise scale the learning rate could not be capped at the critical batch "
            "size: try half of it too."
        )
    return caveats
