"""How far a stage is, and what is told while a step or a read takes long."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from batchfinder.outcomes import Stage
from batchfinder.protocols import Clock, Observer
from batchfinder.results import Event, Note, Progress, StageStarted
from batchfinder.wording import Caveat

__all__ = ["Meter", "Waiting", "unmetered"]


FIRST_SECONDS = 2.0
"""A stage that lasts no longer shows nothing in between."""

EVERY_SECONDS = 0.5


class Meter:
    """Called after every step; tells ``observe`` now and then.

    Args:
        stage: whose steps these are.
        observe: gets a ``Progress`` at most twice a second, none in the first two seconds.
        of: the steps planned; ``None`` where they are not known.
        unit: what is counted.
        seconds: how long the stage may last; with ``of``, whichever ends first is shown.
        clock: seconds; a fake one in tests.
    """

    def __init__(
        self,
        stage: Stage,
        observe: Observer,
        *,
        of: int | None = None,
        unit: str = "steps",
        seconds: float | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._stage, self._observe, self._clock = stage, observe, clock
        self._of, self._unit, self._seconds = of, unit, seconds
        self._started = self._told = self._prepared = clock()
        self._done = self._samples = 0

    def __call__(self, samples: int, steps: int = 1) -> None:
        """``steps`` more are done, or part of one (0), with ``samples`` samples.

        What comes before the first step says nothing of how long steps take.
        """
        self._done += steps
        self._samples += samples
        now = self._clock()
        if not self._done:
            self._prepared = now
        lasted = now - self._started
        if lasted < FIRST_SECONDS or now - self._told < EVERY_SECONDS:
            return
        self._told = now
        self._observe(
            Progress(
                self._stage,
                self._done,
                lasted,
                of=None if self._of is None else max(self._of, self._done),
                unit=self._unit,
                samples_per_second=self._samples / lasted,
                seconds_left=self._left(lasted),
            )
        )

    def _left(self, lasted: float) -> float | None:
        ends = []
        if self._seconds is not None:
            ends.append(max(0.0, self._seconds - lasted))
        if self._of is not None and self._done:
            stepping = self._started + lasted - self._prepared
            ends.append(stepping / self._done * max(0, self._of - self._done))
        return min(ends, default=None)


def unmetered(samples: int, steps: int = 1) -> None:
    """A meter that nobody reads."""


QUIET_SECONDS = 3.0
"""After so long without an event, what is under way is told."""
LOOK_SECONDS = 1.0


class Waiting:
    """An observer that hands every event on, and adds a ``Progress`` where none comes for long.

    Those come from a thread of its own, between ``with`` and its end; the events behind it come
    one at a time. An error, Ctrl-C included, passes through and is told last: to be entered before
    what puts the user's objects back.

    Args:
        observe: gets the events.
        clock: seconds; a fake one in tests.
    """

    def __init__(self, observe: Observer, clock: Clock = time.perf_counter) -> None:
        self._observe, self._clock = observe, clock
        self._one_at_a_time = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._stage = Stage.OPEN
        self._entered = self._began = self._told = clock()
        self._last: Progress | None = None
        self._read = self._read_before = 0

    def __call__(self, event: Event) -> None:
        with self._one_at_a_time:
            self._told = self._clock()
            match event:
                case StageStarted():
                    self._stage, self._began, self._last = event.stage, self._told, None
                    self._read_before = self._read
                case Progress():
                    self._last = event
            self._observe(event)

    def on_read(self, samples: int, planned: int) -> None:
        """``samples`` were read in all."""
        self._read = samples

    def look(self) -> None:
        """Tell what is under way, if nothing was told for a while."""
        with self._one_at_a_time:
            now = self._clock()
            if now - self._told < QUIET_SECONDS:
                return
            lasted, last, read = now - self._began, self._last, self._read - self._read_before
            self._observe(
                Progress(
                    self._stage,
                    0 if last is None else last.done,
                    lasted,
                    of=None if last is None else last.of,
                    unit="steps" if last is None else last.unit,
                    samples_per_second=read / lasted,
                    waited_seconds=now - self._told,
                )
            )

    def __enter__(self) -> Waiting:
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if error is not None:  # a row of its own, after a line that says how far it was
            seconds = self._clock() - self._entered
            self(Note(Caveat("session.left", error=type(error).__name__, seconds=seconds)))

    def _keep_looking(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.look()
