"""What does each micro-batch cost? Throughput with an interval, peak memory, the loader's time.

Timing begins at the user's own size and works outward. Sizes are then visited in rounds, in an
order that rotates, and what slowed a whole round (heat, neighbours) is taken out of its times.
Those that cannot win whatever the noise scale are not visited again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from batchfinder.measure.timer import Timer
from batchfinder.measure.visits import Effort, Record, evened
from batchfinder.meter import unmetered
from batchfinder.protocols import (
    Advance,
    Clock,
    MemoryBackend,
    Observer,
    Setup,
    TrainStep,
)
from batchfinder.results import Energy, Measurement, Note, Trial
from batchfinder.run.batches import loading_seconds, scaled
from batchfinder.run.energy import EnergyCounter
from batchfinder.timing import Interval, half_steps_around_knee, median_interval, outward
from batchfinder.wording import Caveat

__all__ = ["MEMORY_GONE", "NOTHING_TIMED", "Effort", "about_timings", "measure"]

MEMORY_GONE = (
    "{found}, although it fit during the search; another process probably took memory. Close other "
    "programs on the device, or set memory_limit below what they leave, and rerun"
)
NOTHING_TIMED = MEMORY_GONE.format(found="every size ran out of memory during timing")

Loading: TypeAlias = Callable[..., dict[int, float]]
"""As ``loading_seconds``."""

IDLE_SECONDS = 0.5
"""For the draw without any work."""
WAITING = 1.25
"""Where the loader takes so many times as long as the user's step, their size is kept."""
AS_IT_WAITS = 0.35
"""Of the usual time for timing, since it decides nothing before the loader is mended."""
SCATTER = 0.1
"""How far a time that was taken once is believed to be off, at the least."""


def measure(
    setup: Setup[TrainStep],
    sizes: Sequence[int],
    *,
    first: int | None = None,
    most: float = math.inf,
    expected: Callable[[int], float | None] = lambda size: None,
    effort: Effort | None = None,
    energy: EnergyCounter | None = None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    observe: Observer | None = None,
    allowed: Callable[[int], bool] = lambda size: True,
    say: Callable[[Caveat], None] = lambda caveat: None,
    advance: Advance = unmetered,
    start_over: Callable[[], None] = lambda: None,
    known: Mapping[int, Trial] | None = None,
    loading: Loading = loading_seconds,
) -> tuple[Measurement, ...]:
    """Time whole training steps at the sizes that could win; the results in increasing size.

    Learning rates are set to zero first, so that no step moves the weights far: the caller puts
    the state back. Left out, and said so, are sizes that cannot win since a step takes as long as
    at a much larger one, sizes that would take too much of the time, and those that run out of
    memory here, and once more after a clean-up.

    Args:
        setup: the training step, whose update is timed apart from forward and backward; where
            ordinary batches of any size come from; and the device's memory, synchronised before
            every reading of the clock.
        sizes: micro-batches to time; half-steps around the knee are added.
        first: where timing begins, as a rule the user's own size; left out, the smallest.
        most: the largest size that can be chosen; beyond it a time is for show.
        expected: seconds of a step at a size, where they are known before.
        effort: how much time to spend.
        energy: the device's counter of joules, where it has one.
        clock: seconds; a fake one in tests.
        sleep: waits while the draw without any work is read.
        observe: gets each finished measurement.
        allowed: which half-steps may be added.
        say: gets a caveat for each size that is left out.
        advance: told of every trial and every visit to a size.
        start_over: puts back what earlier batches left for the next; called where sizes change.
        known: trials of sizes that ran already, which need none here.
        loading: times the loader by itself.
    """
    effort = effort or Effort()
    step, source, memory = setup.step, setup.source, setup.memory
    step.scale_learning_rate(0.0)
    order = outward(sizes, first if first is not None else min(sizes))
    timer = Timer(
        setup,
        effort,
        own=order[0],
        most=most,
        clock=clock,
        say=say,
        advance=advance,
        start_over=start_over,
        known=known,
    )
    affordable = timer.affordable(order, expected)
    loader_seconds = loading(
        source,
        affordable,
        batches=effort.loader_batches,
        budget_seconds=effort.loader_budget_seconds,
        clock=clock,
    )
    loading_own = loader_seconds.get(order[0], 0.0)
    waits = loading_own > WAITING * (expected(order[0]) or math.inf)
    seconds = effort.budget_seconds * (AS_IT_WAITS if waits else 1.0)
    started = clock()
    deadline = started + seconds / 2
    records = timer.warm_up(affordable, deadline, smallest=min(sizes))
    own = next((record for record in records if record.batch_size == order[0]), None)
    if own is not None:
        waits = loading_own > WAITING * own.seconds()
        seconds = effort.budget_seconds * (AS_IT_WAITS if waits else 1.0)
    records = timer.settle(records, started + 0.75 * seconds, effort.fewest_visits)
    if len(records) > 1:
        between = half_steps_around_knee(
            {record.batch_size: record.counted / record.seconds() for record in evened(records)}
        )
        more = [size for size in between if allowed(size)]
        records += timer.warm_up(more, deadline, at_least=0)
    records = timer.settle(records, started + seconds)
    if observe is not None:
        observe(Note(timer.why_it_stopped(records, clock() - started, waits=waits)))
    if energy is not None:
        timer.read_energy(records, energy)
    records = sorted(evened(records), key=lambda record: record.batch_size)
    idle_watts = None if energy is None else _idle_watts(energy, memory, sleep)
    scatter = _scatter(records, effort)
    measurements = []
    for record in records:
        waiting = scaled(record.batch_size, loader_seconds) if loader_seconds else None
        measurements.append(_summary(record, waiting, scatter, idle_watts))
        if observe is not None:
            observe(measurements[-1])
    return tuple(measurements)


def _scatter(records: Sequence[Record], effort: Effort) -> float:
    """How far one time is off, relatively: the widest half interval of those taken often."""
    widths = [
        median_interval(record.throughputs()).relative_width / 2
        for record in records
        if len(record.update) >= effort.least_visits
    ]
    return max([SCATTER, *widths])


def _summary(
    record: Record, loader_seconds: float | None, scatter: float, idle_watts: float | None
) -> Measurement:
    throughput = median_interval(record.throughputs())
    if len(record.update) == 1:  # no sample shows how far it is off
        middle = throughput.middle
        throughput = Interval(middle / (1 + scatter), middle, middle * (1 + scatter))
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
        energy=_energy(record, idle_watts),
    )


def _energy(record: Record, idle_watts: float | None) -> Energy | None:
    if idle_watts is None or not record.joules_per_sample:
        return None
    found = median_interval(record.joules_per_sample)
    if len(record.joules_per_sample) == 1:
        found = Interval(found.middle / (1 + SCATTER), found.middle, found.middle * (1 + SCATTER))
    return Energy(found.middle, found.low, found.high, idle_watts)


def _idle_watts(
    energy: EnergyCounter, memory: MemoryBackend, sleep: Callable[[float], None]
) -> float | None:
    memory.synchronize()
    before = energy.joules()
    sleep(IDLE_SECONDS)
    after = energy.joules()
    return None if before is None or after is None else (after - before) / IDLE_SECONDS


def about_timings(measurements: Sequence[Measurement]) -> tuple[Caveat, ...]:
    """What to say where most of the timings scatter, or were taken once."""
    shaky = [each for each in measurements if each.unstable or each.repeats < 2]
    if 2 * len(shaky) <= len(measurements):
        return ()
    return (Caveat("measure.unreliable", count=len(shaky), of=len(measurements)),)
