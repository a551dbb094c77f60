"""What was measured and what binds, as one frozen value that can be asked "what if?"."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from batchfinder.results import Limit, Measurement, MemoryBreakdown

__all__ = ["Bounds", "Situation", "Timing", "extrapolated", "peak_line", "timings_of"]


@dataclass(frozen=True)
class Timing:
    """What one micro-batch costs, in seconds.

    ``spread`` is the relative standard deviation of the time; ``was_run`` is false for a size
    beyond those measured, which is never recommended.
    """

    micro_batch: int
    forward_backward: float
    update: float
    loader: float = 0.0
    loader_overlaps: bool = True
    spread: float = 0.0
    peak_bytes: int | None = None
    was_run: bool = True
    joules_per_sample: float | None = None

    def step_seconds(self, accumulation_steps: int = 1) -> float:
        """One optimizer step: k × forward-backward + one update, or the loader if it is slower."""
        work = accumulation_steps * self.forward_backward + self.update
        loading = accumulation_steps * self.loader
        return max(work, loading) if self.loader_overlaps else work + loading


@dataclass(frozen=True)
class Bounds:
    """The constraints. ``None`` is unbounded.

    ``stopped_by`` kept the probe from larger micro-batches; ``usable_bytes`` is the limit less
    headroom; ``ceiling`` is the caller's, per device; ``dataset_length`` bounds the global batch.
    """

    stopped_by: Limit
    usable_bytes: float | None = None
    ceiling: int | None = None
    dataset_length: int | None = None


@dataclass(frozen=True)
class Situation:
    """Everything that the choice depends on."""

    timings: tuple[Timing, ...]
    bounds: Bounds
    peak: Callable[[int], float | None]
    gradient_bytes: int
    base_batch: int
    critical: float | None
    world_size: int = 1
    can_accumulate: bool = True
    run_only: bool = True

    def without(self, limit: Limit) -> Situation:
        """The same situation with one constraint lifted."""
        if limit is Limit.NOISE:
            return replace(self, critical=math.inf)
        bounds, lifted = self.bounds, replace(self, run_only=limit is not self.bounds.stopped_by)
        if limit is Limit.MEMORY:
            return replace(lifted, bounds=replace(bounds, usable_bytes=None))
        if limit is Limit.USER:
            return replace(lifted, bounds=replace(bounds, ceiling=None))
        if limit is Limit.DATASET:
            return replace(lifted, bounds=replace(bounds, dataset_length=None))
        return lifted

    def allows(self, timing: Timing, accumulation_steps: int = 1) -> bool:
        """Whether ``accumulation_steps`` micro-batches of this size respect every constraint."""
        bounds, per_device = self.bounds, timing.micro_batch * accumulation_steps
        if not timing.was_run and self.run_only:
            return False
        if bounds.ceiling is not None and per_device > bounds.ceiling:
            return False
        length = bounds.dataset_length
        if length is not None and per_device * self.world_size > length:
            return False
        return self._fits(timing, accumulation_steps)

    def _fits(self, timing: Timing, accumulation_steps: int) -> bool:
        usable, peak = self.bounds.usable_bytes, self.peak_bytes(timing, accumulation_steps)
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


def timings_of(measurements: Iterable[Measurement], *, loader_overlaps: bool) -> list[Timing]:
    """Measurements in increasing size, the loader's time filled in where it was not measured."""
    ordered = sorted(measurements, key=lambda each: each.batch_size)
    per_sample = [
        each.loader_seconds / each.batch_size for each in ordered if each.loader_seconds is not None
    ]
    typical = median(per_sample) if per_sample else 0.0
    return [_timing(each, typical, loader_overlaps) for each in ordered]


def _timing(measurement: Measurement, loader_per_sample: float, overlaps: bool) -> Timing:
    loader, energy = measurement.loader_seconds, measurement.energy
    width = measurement.samples_per_second_high - measurement.samples_per_second_low
    return Timing(
        micro_batch=measurement.batch_size,
        forward_backward=measurement.step_seconds - measurement.update_seconds,
        update=measurement.update_seconds,
        loader=loader_per_sample * measurement.batch_size if loader is None else loader,
        loader_overlaps=overlaps,
        # A 90% interval is 2 · 1.645 standard deviations wide.
        spread=max(0.0, width / measurement.samples_per_second / 3.29),
        peak_bytes=measurement.peak_bytes,
        joules_per_sample=None if energy is None else energy.joules_per_sample,
    )


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
