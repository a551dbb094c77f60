"""What was measured and what binds, as one frozen value that can be asked "what if?"."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from batchfinder.recommend.step_time import Vector, fitted, variances
from batchfinder.results import BatchPlan, Limit, Measurement, MemoryBreakdown

__all__ = ["Bounds", "Situation", "Timing", "extrapolated", "peak_line", "timings_of"]


@dataclass(frozen=True)
class Timing:
    """What one micro-batch costs, in seconds.

    ``was_run`` is false for a size beyond those measured, which is never recommended.
    """

    micro_batch: int
    forward_backward: float
    update: float
    loader: float = 0.0
    loader_overlaps: bool = True
    peak_bytes: int | None = None
    was_run: bool = True
    joules_per_sample: float | None = None

    def step_seconds(self, accumulation_steps: int = 1) -> float:
        """One optimizer step: k × forward-backward + one update, or the loader if it is slower."""
        work = self.work_seconds(accumulation_steps)
        loading = accumulation_steps * self.loader
        return max(work, loading) if self.loader_overlaps else work + loading

    def work_seconds(self, accumulation_steps: int = 1) -> float:
        """One optimizer step that never waits for data."""
        return accumulation_steps * self.forward_backward + self.update


@dataclass(frozen=True)
class Bounds:
    """The constraints. ``None`` is unbounded.

    ``stopped_by`` kept the probe from larger micro-batches; ``usable_bytes`` is the limit less
    headroom; ``ceiling`` and ``floor`` are the caller's, per device; ``dataset_length`` bounds the
    global batch, and so does ``most_for_updates``: a larger one leaves the training too few.
    """

    stopped_by: Limit
    usable_bytes: float | None = None
    ceiling: int | None = None
    floor: int = 1
    dataset_length: int | None = None
    most_for_updates: float | None = None


@dataclass(frozen=True)
class Situation:
    """Everything that the choice depends on.

    ``covariance`` is that of the logarithms of the step times, in the order of ``timings``.
    """

    timings: tuple[Timing, ...]
    covariance: Vector
    bounds: Bounds
    peak: Callable[[int], float | None]
    gradient_bytes: int
    base_batch: int
    critical: float | None
    world_size: int = 1
    can_accumulate: bool = True
    base_is_yours: bool = True
    run_only: bool = True
    noise_is_wanted: bool = False

    def without(self, limit: Limit) -> Situation:
        """The same situation with one constraint lifted."""
        if limit is Limit.NOISE:
            return replace(self, critical=math.inf)
        if limit is Limit.DATA_LOADING:
            return replace(self, timings=tuple(replace(t, loader=0.0) for t in self.timings))
        if limit is Limit.UPDATES:
            return replace(self, bounds=replace(self.bounds, most_for_updates=None))
        bounds = {
            Limit.MEMORY: replace(self.bounds, usable_bytes=None),
            Limit.USER: replace(self.bounds, ceiling=None),
            Limit.DATASET: replace(self.bounds, dataset_length=None),
        }.get(limit, self.bounds)
        return replace(self, bounds=bounds, run_only=limit is not bounds.stopped_by)

    def is_bound_by(self, limit: Limit) -> bool:
        """Whether lifting this constraint changes anything that is asked of the situation."""
        if limit is Limit.NOISE:
            return self.critical is not None
        if limit is Limit.DATA_LOADING:
            return any(timing.loader for timing in self.timings)
        binding = {
            Limit.MEMORY: self.bounds.usable_bytes,
            Limit.USER: self.bounds.ceiling,
            Limit.DATASET: self.bounds.dataset_length,
            Limit.UPDATES: self.bounds.most_for_updates,
        }.get(limit)
        return binding is not None or limit is self.bounds.stopped_by

    def is_yours(self, plan: BatchPlan) -> bool:
        """Whether this is the batch that the user trains with now, and not an assumed one."""
        return self.base_is_yours and plan.global_batch == self.base_batch

    def scatter_between(self, micro_batch: int, other: int) -> float:
        """Relative standard deviation of the ratio of two micro-batches' step times."""
        sizes = [timing.micro_batch for timing in self.timings]
        one, two = sizes.index(micro_batch), sizes.index(other)
        of = self.covariance
        return math.sqrt(max(0.0, of[one, one] + of[two, two] - of[one, two] - of[two, one]))

    def allows(self, timing: Timing, accumulation_steps: int = 1) -> bool:
        """Whether ``accumulation_steps`` micro-batches of this size respect every constraint."""
        bounds, per_device = self.bounds, timing.micro_batch * accumulation_steps
        if not timing.was_run and self.run_only:
            return False
        if per_device < bounds.floor:
            return False
        if bounds.ceiling is not None and per_device > bounds.ceiling:
            return False
        batch = per_device * self.world_size
        if any(
            most is not None and batch > most
            for most in (bounds.dataset_length, bounds.most_for_updates)
        ):
            return False
        usable, peak = bounds.usable_bytes, self.peak_bytes(timing, accumulation_steps)
        return usable is None or peak is None or peak <= usable

    def peak_bytes(self, timing: Timing, accumulation_steps: int = 1) -> float | None:
        """The measured peak, else the memory line's.

        From the second accumulated micro-batch on the gradients stay alive through the forward
        pass: at most their size is added.
        """
        measured = timing.peak_bytes
        peak = self.peak(timing.micro_batch) if measured is None else float(measured)
        if peak is None or accumulation_steps == 1:
            return peak
        return peak + self.gradient_bytes


def peak_line(memory: MemoryBreakdown) -> Callable[[int], float | None]:
    """The memory line as a function of the micro-batch; ``None`` where no line was fitted."""
    if memory.per_sample_bytes <= 0:
        return lambda micro_batch: None
    return lambda micro_batch: memory.fixed_bytes + memory.per_sample_bytes * micro_batch


def timings_of(
    measurements: Iterable[Measurement], *, loader_overlaps: bool
) -> tuple[tuple[Timing, ...], Vector]:
    """Timings in increasing size, their noise shared out, and the covariance of their logarithms.

    The loader's time is filled in where it was not measured.
    """
    ordered = sorted(measurements, key=lambda measurement: measurement.batch_size)
    per_sample = [m.loader_seconds / m.batch_size for m in ordered if m.loader_seconds is not None]
    typical = median(per_sample) if per_sample else 0.0
    visits = [measurement.repeats for measurement in ordered]
    widths = [
        (m.samples_per_second_high - m.samples_per_second_low) / m.samples_per_second
        for m in ordered
    ]
    seconds = [measurement.step_seconds for measurement in ordered]
    sizes = [measurement.batch_size for measurement in ordered]
    times = fitted(sizes, seconds, variances(widths, visits), visits)
    factors = times.seconds / np.asarray(seconds)
    timings = tuple(
        Timing(
            micro_batch=m.batch_size,
            forward_backward=float(factor) * (m.step_seconds - m.update_seconds),
            update=float(factor) * m.update_seconds,
            loader=typical * m.batch_size if m.loader_seconds is None else m.loader_seconds,
            loader_overlaps=loader_overlaps,
            peak_bytes=m.peak_bytes,
            joules_per_sample=None if m.energy is None else m.energy.joules_per_sample,
        )
        for m, factor in zip(ordered, factors, strict=True)
    )
    return timings, times.covariance


def extrapolated(timings: Sequence[Timing], doublings: int = 6) -> list[Timing]:
    """What larger sizes would cost if time went on as a straight line: for "what if?" alone."""
    top = timings[-1]
    slope, intercept = _straight_line(timings[len(timings) // 2 :])
    scale = top.forward_backward / (intercept + slope * top.micro_batch)
    sizes = [top.micro_batch * 2**power for power in range(1, doublings + 1)]
    return [
        replace(
            top,
            micro_batch=size,
            forward_backward=scale * (intercept + slope * size),
            loader=top.loader * size / top.micro_batch,
            peak_bytes=None,
            was_run=False,
        )
        for size in sizes
    ]


def _straight_line(timings: Sequence[Timing]) -> tuple[float, float]:
    """Slope and intercept, neither negative, through the first and last of ``timings``."""
    first, last = timings[0], timings[-1]
    proportional = last.forward_backward / last.micro_batch
    if first is last:
        return proportional, 0.0
    rise = last.forward_backward - first.forward_backward
    slope = min(max(0.0, rise / (last.micro_batch - first.micro_batch)), proportional)
    return slope, last.forward_backward - slope * last.micro_batch
