"""What does each micro-batch cost? Throughput with an interval, peak memory, the loader's time.

Sizes are visited in turn, in an order that rotates, so that a machine that slows down (heat,
neighbours) does not favour the size that happened to be measured first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from batchfinder.protocols import BatchSource, Clock, MemoryBackend, Observer, TrainStep
from batchfinder.results import Measurement, Outcome, Trial
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.batches import loading_seconds
from batchfinder.run.trial import run_trial
from batchfinder.timing import half_steps_around_knee, median_interval

__all__ = ["MEMORY_GONE", "NOTHING_TIMED", "Effort", "measure"]

MEMORY_GONE = (
    "expected what fitted in the search to fit still; found that {found}: something else took "
    "memory meanwhile. Close other programs on the device, or set memory_limit below what they "
    "leave, and call again"
)
NOTHING_TIMED = MEMORY_GONE.format(found="memory ran out at every size that was to be timed")

_OUT = Outcome.OUT_OF_MEMORY.value
_LEFT_OUT = (
    "batch size {size} {outcome} while it was timed, twice, though the search had found that it "
    "fits: it is not among the sizes to choose from"
)


@dataclass(frozen=True)
class Effort:
    """How much is spent on timing. The interval is tight once it is within ``tight`` of itself."""

    budget_seconds: float = 15.0
    least_visits: int = 5
    most_visits: int = 30
    visit_seconds: float = 0.05
    tight: float = 0.05
    loader_batches: int = 6
    loader_budget_seconds: float = 4.0
    may_leave_out: bool = False
    """Whether the largest sizes are left untimed once half the budget went into warming up."""


@dataclass
class _Record:
    """The visits to one size so far: seconds per step, in its two parts."""

    batch_size: int
    peak_bytes: int | None
    counted: int
    """Samples or tokens that a batch really holds: a token budget is rarely filled whole."""
    forward_backward: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)

    def throughputs(self) -> list[float]:
        pairs = zip(self.forward_backward, self.update, strict=True)
        return [self.counted / max(sum(pair), 1e-12) for pair in pairs]

    def is_settled(self, effort: Effort) -> bool:
        visits = len(self.update)
        if visits < effort.least_visits:
            return False
        tight = median_interval(self.throughputs()).relative_width <= 2 * effort.tight
        return tight or visits >= effort.most_visits


def measure(
    step: TrainStep,
    source: BatchSource,
    memory: MemoryBackend,
    sizes: Sequence[int],
    *,
    effort: Effort | None = None,
    clock: Clock = time.perf_counter,
    observe: Observer | None = None,
    allowed: Callable[[int], bool] = lambda size: True,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Measurement, ...]:
    """Time whole training steps at every size that still fits, in increasing order of size.

    Learning rates are set to zero first, so that no step moves the weights far: the caller puts
    the state back. A size that runs out of memory here, and once more after a clean-up, is left
    out.

    Args:
        step: the training step; ``step.update`` is timed apart from forward and backward.
        source: where ordinary batches of any size come from.
        memory: synchronised before every reading of the clock.
        sizes: micro-batches to time; half-steps around the knee are added.
        effort: how much time to spend.
        clock: seconds; a fake one in tests.
        observe: gets each finished measurement.
        allowed: which half-steps may be added.
        say: gets a sentence for each size that is left out.
    """
    effort = effort or Effort()
    step.scale_learning_rate(0.0)
    timer = _Timer(step, source, memory, effort, clock=clock, say=say)
    started = clock()
    deadline = started + effort.budget_seconds / 2 if effort.may_leave_out else math.inf
    records = timer.settle(timer.warm_up(sizes, deadline), started + 0.75 * effort.budget_seconds)
    if len(records) > 1:
        between = half_steps_around_knee(
            {record.batch_size: max(record.throughputs()) for record in records}
        )
        records += timer.settle(
            timer.warm_up([size for size in between if allowed(size)], deadline, at_least=0),
            started + effort.budget_seconds,
        )
    records.sort(key=lambda record: record.batch_size)
    loader_seconds = loading_seconds(
        source,
        [record.batch_size for record in records],
        batches=effort.loader_batches,
        budget_seconds=effort.loader_budget_seconds,
        clock=clock,
    )
    measurements = []
    for record in records:
        measurements.append(_summary(record, loader_seconds.get(record.batch_size)))
        if observe is not None:
            observe(measurements[-1])
    return tuple(measurements)


class _Timer:
    """Runs and times the user's step at one size after another."""

    def __init__(
        self,
        step: TrainStep,
        source: BatchSource,
        memory: MemoryBackend,
        effort: Effort,
        *,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._step, self._source, self._memory = step, source, memory
        self._effort, self._clock, self._say = effort, clock, say

    def warm_up(self, sizes: Sequence[int], deadline: float, at_least: int = 3) -> list[_Record]:
        """One watched trial a size: it gives the peak, and leaves compilation out of the times.

        From the smallest up; those not begun by the deadline are left out, but for ``at_least``.
        """
        records = []
        for count, size in enumerate(sorted(set(sizes))):
            if count >= at_least and self._clock() > deadline:
                break
            trial = self._trial(size)
            if trial.fits:
                records.append(_Record(size, trial.peak_bytes, self._counted(size)))
            else:
                self._say(_LEFT_OUT.format(size=size, outcome=trial.outcome.value))
        return records

    def _trial(self, size: int) -> Trial:
        """Run once more where it failed, since memory in fragments is whole after a clean-up.

        And where another process disturbed it, since its peak may be that one's too.
        """
        trial = run_trial(self._step, self._source, self._memory, size, clock=self._clock)
        if trial.fits and not trial.disturbed:
            return trial
        return run_trial(self._step, self._source, self._memory, size, clock=self._clock)

    def _counted(self, size: int) -> int:
        return self._source.count(self._source.ordinary(size))

    def settle(self, records: list[_Record], deadline: float) -> list[_Record]:
        """Visit sizes in rotated order until each is settled or the time is up.

        Every size is visited at least once, whatever the deadline; one that runs out of memory
        twice in a row is left out.
        """
        turn = 0
        while waiting := [each for each in records if not each.is_settled(self._effort)]:
            offset = turn % len(waiting)
            for record in waiting[offset:] + waiting[:offset]:
                if record.update and self._clock() >= deadline:
                    continue
                if not (self._visited(record) or self._visited(record)):
                    records.remove(record)
                    self._say(_LEFT_OUT.format(size=record.batch_size, outcome=_OUT))
            turn += 1
            if self._clock() >= deadline:
                break
        return records

    def _visited(self, record: _Record) -> bool:
        """Whether memory lasted; where it did not, nothing of the visit is left."""
        try:
            attempt(
                partial(self._visit, record),
                step=self._step,
                memory=self._memory,
                size=record.batch_size,
                doing="timing",
            )
        except Shortage:
            return False
        return True

    def _visit(self, record: _Record) -> None:
        """A few steps at one size; their mean is one value of the sample."""
        batch = self._source.ordinary(record.batch_size)
        forward_backward = update = 0.0
        steps = 0
        while steps == 0 or forward_backward + update < self._effort.visit_seconds:
            self._step.zero_grad()
            start = self._now()
            self._step.forward_backward(batch)
            middle = self._now()
            self._step.update()
            forward_backward += middle - start
            update += self._now() - middle
            steps += 1
            if steps >= 64:
                break
        self._step.zero_grad()
        record.forward_backward.append(forward_backward / steps)
        record.update.append(update / steps)

    def _now(self) -> float:
        self._memory.synchronize()
        return self._clock()


def _summary(record: _Record, loader_seconds: float | None) -> Measurement:
    throughput = median_interval(record.throughputs())
    forward_backward = median_interval(record.forward_backward).middle
    update = median_interval(record.update).middle
    return Measurement(
        batch_size=record.batch_size,
        samples_per_second=throughput.middle,
        samples_per_second_low=throughput.low,
        samples_per_second_high=throughput.high,
        step_seconds=forward_backward + update,
        forward_backward_seconds=forward_backward,
        update_seconds=update,
        loader_seconds=loader_seconds,
        peak_bytes=record.peak_bytes,
        repeats=len(record.update),
    )
