"""What a recommendation is made from, as one frozen value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import LearningRateRule, Objective
from batchfinder.rates import OptimizerFamily
from batchfinder.recommend.objectives import shortest_time
from batchfinder.recommend.situation import Bounds, Situation, peak_line, timings_of
from batchfinder.results import Limit, Measurement, MemoryBreakdown, NoiseScale, Schedule
from batchfinder.scaling import FamilyRule, critical_batch_size, rule_for

__all__ = ["Problem"]

FEWEST_UPDATES, FEWEST_DECAYING = 200, 500
"""Optimizer steps that a larger batch leaves a training of the same epochs at least; the second
where the rate decays. Over fewer, time to a loss is not what 1 + φ/B says: the rise of the rate
and what curvature allows take their share."""
TIMED_UP_TO = 1.5
"""Where sizes this many times the largest that was timed fit, it was time that ended the timing."""


@dataclass(frozen=True)
class Problem:
    """Measurements, the user's own pair and what binds.

    Args:
        measurements: what each micro-batch costs; only these sizes can be recommended.
        noise: the run's noise scale, in the unit of the batch sizes. ``None``: the
            user's own batch is kept if ``noise_is_wanted``, else the throughput knee recommended,
            with a caveat.
        base_batch: the batch per device that the user trains with now.
        base_learning_rate: its rate, for ``base_batch · world_size`` samples per step.
        max_batch_size: the largest micro-batch that was run and fitted.
        memory: the fitted memory line and the limit, in bytes.
        rule: learning-rate rule; ``None`` chooses by ``optimizer_family``.
        objective: what is best; ``None`` is ``shortest_time``.
        headroom: share of the limit that the recommended size leaves free.
        ceiling: the user's ceiling on the samples per device and step, accumulation included.
        floor: the least samples per device and step.
        probe_limit: what kept the probe from larger sizes.
        dataset_length: samples in the dataset; the global batch never exceeds it.
        world_size: devices that share one step; step times are those of one of them.
        optimizer_family: decides the rule; see ``scaling.rule_for``.
        can_accumulate: false where a step cannot be cut (the user's step updates by itself).
        workers: the loader's worker processes; without any, loading and training take turns.
        base_is_yours: whether the user named ``base_batch``, or their loader did: then it is
            kept unless another is reliably faster.
        rate_is_yours: whether ``base_learning_rate`` is the user's, and was not assumed.
        rate_is_measured: whether ``rule`` goes through a rate that was raced for.
        noise_is_wanted: whether a noise scale was asked for: where it is then unknown, the user's
            own batch is kept.
        training_steps: optimizer steps of the whole training at the base batch, where known.
        schedule: what its learning-rate schedulers tell.
    """

    measurements: tuple[Measurement, ...]
    noise: NoiseScale | None
    base_batch: int
    base_learning_rate: float | None
    max_batch_size: int
    memory: MemoryBreakdown
    rule: LearningRateRule | None = None
    objective: Objective | None = None
    headroom: float = 0.05
    ceiling: int | None = None
    floor: int = 1
    probe_limit: Limit = Limit.MEMORY
    dataset_length: int | None = None
    world_size: int = 1
    optimizer_family: OptimizerFamily = OptimizerFamily.UNKNOWN
    can_accumulate: bool = True
    workers: int = 1
    base_is_yours: bool = True
    rate_is_yours: bool = True
    rate_is_measured: bool = False
    noise_is_wanted: bool = False
    training_steps: int | None = None
    schedule: Schedule | None = None

    @property
    def length(self) -> int | None:
        """Optimizer steps of the training at the base batch: as given, else as its schedule says.

        ``None`` where neither does.
        """
        told = None if self.schedule is None else self.schedule.steps
        return self.training_steps or told

    @property
    def fewest_updates(self) -> int:
        """How many optimizer steps a larger batch leaves at least."""
        decays = self.schedule is not None and self.schedule.decays
        return FEWEST_DECAYING if decays else FEWEST_UPDATES

    @property
    def most_for_updates(self) -> float | None:
        """The largest global batch with which the same epochs have enough optimizer steps.

        Never below the user's own; ``None`` where the length of the training is not known, and
        under another objective than time.
        """
        if self.length is None or self.best is not shortest_time:
            return None
        return self.base_global_batch * max(1.0, self.length / self.fewest_updates)

    @property
    def rate_is_found(self) -> bool:
        """Whether the optimizer finds its own rate, so that the one it is given says little."""
        return self.optimizer_family == OptimizerFamily.PARAMETER_FREE

    @property
    def family(self) -> FamilyRule:
        """What is known of the optimizer's family."""
        return rule_for(self.optimizer_family)

    @property
    def rate_rule(self) -> LearningRateRule:
        """The caller's rule, else the family's."""
        return self.rule or self.family.rule

    @property
    def best(self) -> Objective:
        """What is best."""
        return self.objective or shortest_time

    @property
    def base_global_batch(self) -> int:
        """Samples per optimizer step that the user trains with now, over all devices."""
        return self.base_batch * self.world_size

    def rate_at(self, batch: int) -> float | None:
        """The rule's learning rate at a global batch; ``None`` where no base rate is known."""
        if self.base_learning_rate is None:
            return None
        base = self.base_global_batch
        return self.rate_rule(self.base_learning_rate, base, batch, self.noise)

    def at_noise(self, noise: NoiseScale | None) -> Problem:
        """The same problem at another noise scale."""
        return replace(self, noise=noise)

    def timed_exactly(self) -> Problem:
        """The same problem with every measured time taken as exact."""
        exact = tuple(
            replace(
                each,
                samples_per_second_low=each.samples_per_second,
                samples_per_second_high=each.samples_per_second,
                repeats=0,
            )
            for each in self.measurements
        )
        return replace(self, measurements=exact)

    def situation(self) -> Situation:
        """What can be chosen, timed and priced.

        Raises:
            InvalidArgument: where nothing was measured, or a time is not a positive number.
        """
        fitting = [each for each in self.measurements if each.batch_size <= self.max_batch_size]
        if not fitting:
            raise InvalidArgument(
                f"expected at least one measured batch size up to {self.max_batch_size}; found none"
            )
        _refuse_untimed(fitting)
        limit = self.memory.limit_bytes
        most = max(measurement.batch_size for measurement in fitting)
        all_were_timed = TIMED_UP_TO * most >= self.max_batch_size
        timings, covariance = timings_of(fitting, loader_overlaps=self.workers > 0)
        return Situation(
            timings=timings,
            covariance=covariance,
            bounds=Bounds(
                stopped_by=self.probe_limit if all_were_timed else Limit.TIME,
                usable_bytes=(1 - self.headroom) * limit if limit else None,
                ceiling=self.ceiling,
                floor=self.floor,
                dataset_length=self.dataset_length,
                most_for_updates=self.most_for_updates,
            ),
            peak=peak_line(self.memory),
            gradient_bytes=self.memory.gradient_bytes,
            base_batch=self.base_global_batch,
            base_is_yours=self.base_is_yours,
            critical=critical_batch_size(self.noise),
            world_size=self.world_size,
            can_accumulate=self.can_accumulate,
            noise_is_wanted=self.noise_is_wanted,
        )


def _refuse_untimed(measurements: Sequence[Measurement]) -> None:
    for each in measurements:
        speeds = (
            each.samples_per_second_low,
            each.samples_per_second,
            each.samples_per_second_high,
        )
        positive = (each.step_seconds, each.samples_per_second, each.samples_per_second_high)
        if not all(map(math.isfinite, (each.step_seconds, *speeds))) or min(positive) <= 0:
            raise InvalidArgument(
                f"expected positive times and speeds; found a step of "
                f"{each.step_seconds} s and {each.samples_per_second} samples/s "
                f"({speeds[0]} to {speeds[2]}) at batch size {each.batch_size}"
            )
