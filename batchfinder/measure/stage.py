"""What does each micro-batch cost? The sizes worth timing, timed on the bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from batchfinder.errors import NothingFits
from batchfinder.measure import NOTHING_TIMED, Effort, about_timings, measure
from batchfinder.measure.timed import Loading
from batchfinder.meter import Meter
from batchfinder.probe import step_seconds_at
from batchfinder.protocols import BatchSource, Clock, Ranks
from batchfinder.results import MemoryBreakdown, Note, ProbeResult, Stage, Timings, Trial
from batchfinder.run.batches import loading_seconds
from batchfinder.run.energy import energy_counter
from batchfinder.session import Call, stage
from batchfinder.timing import sizes_worth_measuring
from batchfinder.units import format_size
from batchfinder.wording import Caveat

__all__ = ["measure_sizes", "slowest_loading"]

OWN_STEPS = 60
"""Where the user's own steps are slow, as much time as so many of them take."""
OF_WHAT_WAS_GIVEN = 0.2
"""Share of a budget of the caller's own that is spent on timing where the usual time is less."""


def measure_sizes(
    call: Call, probed: ProbeResult, *, base: int, headroom: float, ran_here: bool = True
) -> Timings:
    """Time the sizes that could be recommended, in increasing order; only sizes that may be tried.

    ``ran_here`` is whether the search ran in this process: its sizes then need no trial before.

    Raises:
        NothingFits: where memory ran out at every one.
    """
    bench = call.bench
    largest = probed.max_batch_size
    inside = largest_within(probed.memory, largest, headroom)
    allowed = bench.sizes
    worth = sizes_worth_measuring(largest, allowed.at_most(inside), base)
    sizes = [size for size in worth if allowed.allows(size)]
    effort, said = _effort(call, step_seconds_at(probed.trials, base))

    known: dict[int, Trial] = {}
    if ran_here and not bench.source.varies:
        known = {each.batch_size: each for each in probed.trials}

    def say(caveat: Caveat) -> None:
        said.append(caveat)
        call.observe(Note(caveat))

    detail = f"{len(sizes)} sizes from {format_size(sizes[0])} to {format_size(sizes[-1])}"
    with stage(call, Stage.MEASURE, detail, effort.budget_seconds):
        bench.fresh()
        measured = measure(
            bench.setup,
            sizes,
            first=base,
            most=inside,
            expected=lambda size: step_seconds_at(probed.trials, size),
            effort=effort,
            energy=energy_counter(bench.step.device) if bench.step.ranks.alone else None,
            clock=call.budget.clock,
            allowed=allowed.allows,
            observe=call.observe,
            say=say,
            advance=Meter(
                Stage.MEASURE,
                call.observe,
                unit="timings",
                seconds=effort.budget_seconds,
                clock=call.budget.here,
            ),
            start_over=bench.start_over,
            known=known,
            loading=slowest_loading(bench.step.ranks, call.budget.here),
        )
    if not measured:
        raise NothingFits(NOTHING_TIMED)
    return Timings(measured, (*said, *about_timings(measured)))


def slowest_loading(ranks: Ranks, own_clock: Clock) -> Loading:
    """Times the slowest rank's loader; each times its own, by its own clock."""
    if ranks.alone:
        return loading_seconds

    def timed(
        source: BatchSource, sizes: Sequence[int], *, clock: Clock, **effort: Any
    ) -> dict[int, float]:
        del clock
        with ranks.together("the loader's time"):
            own = loading_seconds(source, sizes, clock=own_clock, **effort)
        every = ranks.tell("the loader's time", own)
        return {size: max(each[size] for each in every) for size in sizes if all(map(len, every))}

    return timed


def largest_within(memory: MemoryBreakdown, largest: int, headroom: float) -> int:
    """The largest micro-batch whose peak, by the memory line, leaves the headroom free."""
    if memory.per_sample_bytes <= 0:
        return largest
    room = (1 - headroom) * memory.limit_bytes - memory.fixed_bytes
    return max(1, min(largest, int(room / memory.per_sample_bytes)))


def _effort(call: Call, own_step_seconds: float | None) -> tuple[Effort, list[Caveat]]:
    """As much time as ``OWN_STEPS`` of the user's own steps take, or their budget allows for."""
    effort, share = Effort(), call.budget.share(0.4)
    patient = max(
        effort.budget_seconds,
        OWN_STEPS * (own_step_seconds or 0.0),
        OF_WHAT_WAS_GIVEN * (call.budget.total_seconds or 0.0),
    )
    if share is None or share >= patient:
        return replace(effort, budget_seconds=patient), []
    is_short = share < effort.budget_seconds
    effort = replace(
        effort,
        budget_seconds=share,
        loader_budget_seconds=min(effort.loader_budget_seconds, 0.2 * share),
    )
    return effort, [call.cut_short("session.timing", spent=share)] if is_short else []
