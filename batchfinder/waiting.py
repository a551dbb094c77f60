"""Nothing is silent for long: a step or a read that takes long is told while it lasts."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from batchfinder.outcomes import Stage
from batchfinder.protocols import Clock, Observer
from batchfinder.results import Event, Note, Progress, StageStarted
from batchfinder.wording import Caveat

__all__ = ["Waiting"]

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
