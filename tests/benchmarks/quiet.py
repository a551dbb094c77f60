"""Seconds as a machine without other work would show them, and how long nothing was said.

Linux counts for every thread how long it was ready to run and waited for a processor
(``/proc/…/schedstat``, the second number). A clock without those seconds shows what a call takes,
sleeping and reading included, whatever else runs beside it. With one thread, since several wait
for one another outside that count: two free cores are no slower.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Said", "use_quiet_clock"]


def use_quiet_clock() -> Callable[[], float]:
    """Make ``time.perf_counter`` such a clock; to be called before batchfinder is imported.

    Where the system does not count it stays as it is. Returns the plain one.
    """
    plain = time.perf_counter
    schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")

    def quiet() -> float:
        return plain() - int(schedule.read_bytes().split()[1]) * 1e-9

    if schedule.exists():
        time.perf_counter = quiet
    return plain


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
