"""Seconds as a machine without other work would show them, and how long nothing was said.

Linux counts for every thread how long it was ready to run and waited for a processor
(``/proc/…/schedstat``, the second number). To import this makes ``time.perf_counter`` a clock
without those seconds: it shows what a call takes, sleeping and reading included, whatever else runs
beside it. To be imported before batchfinder, and used with one thread, since several wait for one
another outside that count: two free cores are no slower.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

__all__ = ["Said", "plain_clock"]

plain_clock = time.perf_counter
_SCHEDULE = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")


class _QuietClock:
    """No slower than the processor time of this thread: the count may run ahead of it."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._last, self._used = -1e300, 0.0

    def __call__(self) -> float:
        while True:
            before, now, after = _waited(), plain_clock(), _waited()
            if before == after:  # else it waited in between, and time would go back
                break
        found = now - before * 1e-9 + self._ahead
        if threading.current_thread() is threading.main_thread():
            used = time.thread_time()
            least = self._last + used - self._used
            if found < least:
                self._ahead += least - found
                found = least
            self._last, self._used = found, used
        return found


def _waited() -> int:
    """Nanoseconds."""
    return int(_SCHEDULE.read_bytes().split()[1])


if _SCHEDULE.exists():  # elsewhere it stays as it is
    time.perf_counter = _QuietClock()


class Said:
    """A stream that keeps what was written to it, and the longest time between two writings."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.longest = 0.0
        self.last = time.perf_counter()

    def write(self, text: str) -> int:
        self.pause()
        self.lines.append(text)
        return len(text)

    def pause(self) -> None:
        """Until now nothing was said."""
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return False
