"""Runs and times the user's step at one size after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean

from batchfinder.measure.visits import Effort, Record, evened, is_as_quick, is_below_floor
from batchfinder.meter import unmetered
from batchfinder.protocols import Advance, Clock, Setup, TrainStep
from batchfinder.results import Outcome, Trial
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.energy import EnergyCounter
from batchfinder.run.trial import run_trial
from batchfinder.timing import scatter, unbeaten
from batchfinder.wording import Caveat

__all__ = ["Timer"]

ONE_SIZE = 0.25
"""Share of the time that one size may take before it is left out, the user's own excepted."""
STEPS_A_SIZE = 4
"""Steps that a size takes at the least: a trial's and two visits'."""
FEWEST_SIZES = 3
LEAST_SECONDS = 1e-9
"""No step takes less, whatever a clock says that is coarse or was set back."""
REACH = 1.645 * math.sqrt(math.pi / 2)
"""Half the 90% interval of a median of n normal values, times √n over their deviation."""


class Timer:
    """Runs and times the user's step at one size after another."""

    def __init__(
        self,
        setup: Setup[TrainStep],
        effort: Effort,
        *,
        own: int,
        most: float = math.inf,
        clock: Clock,
        say: Callable[[Caveat], None],
        start_over: Callable[[], None],
        known: Mapping[int, Trial] | None = None,
        advance: Advance = unmetered,
    ) -> None:
        self._setup = setup
        self._step, self._source, self._memory = setup.step, setup.source, setup.memory
        self._effort, self._own, self._clock, self._say = effort, own, clock, say
        self._advance = advance
        self._start_over = start_over
        self._known = known or {}
        self._most = most
        self._round = 0

    def affordable(
        self, sizes: Sequence[int], expected: Callable[[int], float | None]
    ) -> list[int]:
        """``sizes`` but for those whose steps would take too much of the time; never the first."""
        most = ONE_SIZE * self._effort.budget_seconds / STEPS_A_SIZE
        taking = {size: expected(size) or 0.0 for size in sizes}
        slow = [size for size in sizes[1:] if taking[size] > most]
        if slow:
            self._say(
                Caveat("measure.slow", size=min(slow), seconds=taking[min(slow)], own=self._own)
            )
        return [size for size in sizes if size not in slow]

    def warm_up(
        self,
        sizes: Sequence[int],
        deadline: float,
        *,
        at_least: int = FEWEST_SIZES,
        smallest: int | None = None,
    ) -> list[Record]:
        """One watched trial and one visit a size, in the order given.

        The trial gives the peak, and leaves compilation out of the times. Sizes not begun by the
        deadline are left out, but for ``at_least``. The smallest size, where one is named, shows
        how long any step takes at the least.
        """
        order = list(sizes)
        if smallest in order[2:]:
            order.remove(smallest)
            order.insert(1, smallest)
        records: list[Record] = []
        skipped, late = [], []
        floor: Record | None = None
        for count, size in enumerate(order):
            if floor is not None and is_below_floor(size, floor, records):
                skipped.append(size)
            elif count >= at_least and self._clock() > deadline:
                late.append(size)
            elif (record := self._warmed(size)) is not None:
                records.append(record)
                if size == smallest and self._visited(record):
                    floor = record
        if late and at_least:
            self._say(Caveat("measure.late", sizes=tuple(sorted(late))))
        if floor is not None:
            records = self._above_floor(floor, records, skipped)
        return records

    def _above_floor(
        self, floor: Record, records: list[Record], skipped: Sequence[int]
    ) -> list[Record]:
        """Without what cannot win since a step takes as long as at a much larger size."""
        as_quick = [each.batch_size for each in records if is_as_quick(each, floor)]
        below = [
            record.batch_size
            for record in records
            if record.batch_size != self._own and 2 * record.batch_size <= max(as_quick, default=0)
        ]
        left_out = tuple(sorted({*below, *skipped}))
        if left_out:
            self._say(
                Caveat("measure.floor", sizes=left_out, like=max(as_quick), seconds=floor.seconds())
            )
        return [record for record in records if record.batch_size not in left_out]

    def _warmed(self, size: int) -> Record | None:
        known = self._known.get(size)
        trial = known if known is not None and known.fits else self._trial(size)
        if not trial.fits:
            self._say(_left_out(size, trial.outcome))
            return None
        own = self._source.count(self._source.ordinary(size))
        count = round(fmean(self._step.ranks.tell("samples in a batch", own)))
        record = Record(size, trial.peak_bytes, count)
        if self._visited(record) or self._visited(record):
            return record
        self._say(_left_out(size, Outcome.OUT_OF_MEMORY))
        return None

    def _trial(self, size: int) -> Trial:
        """Run once more where it failed, since memory in fragments is whole after a clean-up.

        And where another process disturbed it, since its peak may be that one's too.
        """
        self._start_over()
        # Without a cache there is nothing to settle, and one step shows the peak.
        steps = 1 if self._memory.reserved_peak_bytes() is None else 2
        run = partial(run_trial, self._setup, size, steps=steps, clock=self._clock)
        trial = run()
        self._advance(size, steps=0)
        return trial if trial.fits and not trial.disturbed else run()

    def settle(
        self, records: list[Record], deadline: float, visits: float = math.inf
    ) -> list[Record]:
        """Visit sizes in rotated order until each is settled, or was visited so often.

        One that runs out of memory twice in a row is left out.
        """
        while self._clock() < deadline and (waiting := self.unsettled(records, visits)):
            turn = self._round = self._round + 1
            offset = turn % len(waiting)
            for record in waiting[offset:] + waiting[:offset]:
                if self._clock() >= deadline:
                    break
                if not (self._visited(record) or self._visited(record)):
                    records.remove(record)
                    self._say(_left_out(record.batch_size, Outcome.OUT_OF_MEMORY))
        return records

    def unsettled(self, records: Sequence[Record], visits: float = math.inf) -> list[Record]:
        """Those to be visited again: all that can win, until the last of them is known well enough.

        One round visits them all, so that what slows the machine for a while slows them alike. The
        user's own is among them in any case: prices are told against it.
        """
        matter = self._that_matter(evened(records))
        effort = self._effort
        scattered = scatter({each.batch_size: each.visits() for each in matter})
        enough: float = effort.least_visits
        if scattered is not None:
            enough = max(enough, (REACH * scattered / effort.tight) ** 2)
        enough = min(enough, effort.most_visits, visits)
        again = any(len(each.update) < enough for each in matter)
        sizes = {each.batch_size for each in matter} if again else set()
        return [
            record
            for record in records
            if record.batch_size in sizes or len(record.update) < effort.fewest_visits
        ]

    def _that_matter(self, records: Sequence[Record]) -> list[Record]:
        """The user's own and all that can win at some noise scale."""
        can_win = unbeaten({record.batch_size: record.seconds() for record in records})
        can_be_chosen = {size for size in can_win if size <= self._most} | {self._own}
        return [record for record in records if record.batch_size in can_be_chosen]

    def why_it_stopped(
        self, records: Sequence[Record], seconds: float, *, waits: bool = False
    ) -> Caveat:
        """A sentence for the observer; ``waits`` where the loader is much slower than the step."""
        left = len(self.unsettled(records))
        if left and waits:
            return Caveat("measure.waits", seconds=seconds, of=len(records))
        if left:
            return Caveat("measure.stopped", seconds=seconds, left=left, of=len(records))
        return Caveat("measure.settled", seconds=seconds, of=len(records))

    def read_energy(self, records: Sequence[Record], energy: EnergyCounter) -> None:
        """Every size once, and those that can win in rounds as long as there is time."""
        deadline = self._clock() + self._effort.energy_budget_seconds
        matter = self._that_matter(records)
        for turn in range(self._effort.energy_visits):
            for record in matter if turn else records:
                if turn and self._clock() >= deadline:
                    return
                self._visited(record, energy)

    def _visited(self, record: Record, energy: EnergyCounter | None = None) -> bool:
        """A few steps at one size, whose mean is one value of the sample; whether memory lasted.

        With ``energy`` its counter is read before and after, in place of the times.
        """
        size = record.batch_size
        forward_backward = update = 0.0
        steps = 0
        effort = self._effort
        least = effort.visit_seconds if energy is None else effort.energy_visit_seconds
        try:
            with (
                attempt(self._step, size, "timing", memory=self._memory),
                self._step.ranks.ungated(),
            ):
                self._start_over()
                batch = self._source.ordinary(size)
                self._memory.synchronize()
                before = None if energy is None else energy.joules()
                while steps == 0 or (steps < 64 and forward_backward + update < least):
                    self._step.zero_grad()
                    start = self._now()
                    self._step.forward_backward(batch)
                    middle = self._now()
                    self._step.update()
                    forward_backward += middle - start
                    update += self._now() - middle
                    steps += 1
                after = None if energy is None else energy.joules()
                self._step.zero_grad()
        except Shortage:
            return False
        self._advance(steps * record.counted)
        if energy is not None:
            if before is not None and after is not None:
                record.joules_per_sample.append((after - before) / (steps * record.counted))
            return True
        record.rounds.append(self._round)
        record.forward_backward.append(max(forward_backward / steps, LEAST_SECONDS))
        record.update.append(max(update / steps, 0.0))
        return True

    def _now(self) -> float:
        self._memory.synchronize()
        return self._clock()


def _left_out(size: int, outcome: Outcome) -> Caveat:
    return Caveat("measure.ran_out", size=size, outcome=outcome.name)
