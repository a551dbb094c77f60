"""What single samples come from, and how long reading them may take.

A store offers *positions*, ``0 … available-1``, in a fixed order, and apart from them batches drawn
in random order for one epoch after another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchfinder.errors import OutOfTime
from batchfinder.protocols import Batch, Clock
from batchfinder.run.batches.lengths import Extent
from batchfinder.wording import Caveat

__all__ = ["Patience", "Store"]


@dataclass
class Patience:
    """How long reading may go on, and what it has taken so far.

    ``seconds_left`` is the caller's; ``on_read`` is told of every read: samples so far, and
    samples under way.
    """

    seconds_left: Callable[[], float] = lambda: float("inf")
    on_read: Callable[[int, int], None] | None = None
    clock: Clock = time.perf_counter
    samples_read: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    """Seconds per sample of the latest reads that were waited for from start to end."""

    def is_over(self) -> bool:
        return self.seconds_left() <= 0

    def note(self, samples: int, planned: int = 0, seconds: float | None = None) -> None:
        """``samples`` more were read, in ``seconds`` where they were waited for from the start."""
        self.samples_read += samples
        if seconds is not None:
            self.took(samples, seconds)
        if self.on_read is not None:
            self.on_read(self.samples_read, planned)

    def took(self, samples: int, seconds: float) -> None:
        """A read of ``samples`` was waited for from start to end, for ``seconds``."""
        if samples:
            self.recent.append(seconds / samples)

    def expected_seconds(self, samples: int) -> float:
        """For reading so many, by the median of the latest reads; 0.0 before the first."""
        if not self.recent:
            return 0.0
        return samples * sorted(self.recent)[len(self.recent) // 2]

    def check(self, samples: int) -> None:
        """Raise ``OutOfTime`` where reading so many would take longer than there is time."""
        left = self.seconds_left()
        if left <= 0 or self.expected_seconds(samples) > left:
            raise OutOfTime(
                f"expected time to read {samples} samples, about "
                f"{self.expected_seconds(samples):.1f} s; {max(left, 0):.1f} s of budget_seconds "
                "are left: raise it, or give the loader more workers"
            )


class Store(Protocol):
    """Samples of the user's."""

    patience: Patience

    @property
    def length(self) -> int | None:
        """Samples in all; ``None`` for a stream."""
        ...

    @property
    def is_apart(self) -> bool:
        """Whether samples can be had one by one, rather than in batches only."""
        ...

    @property
    def notes(self) -> tuple[Caveat, ...]:
        """What is to be said of how it reads."""
        ...

    @property
    def block(self) -> int:
        """Samples that are best read at once."""
        ...

    def available(self, wanted: int) -> int:
        """How many positions there are, at most ``wanted``."""
        ...

    def read_ahead(self, wanted: int, in_time: Callable[[], bool]) -> None:
        """Look for the end, where it is not known, among the first ``wanted`` samples."""
        ...

    def fetch(self, positions: Sequence[int]) -> list[Any]:
        """The samples at positions of the fixed order."""
        ...

    def extents(self, positions: Sequence[int]) -> list[Extent]:
        """How long each is."""
        ...

    def batch(self, positions: Sequence[int]) -> Batch:
        """Their batch, as the user's own path makes it."""
        ...

    def draw(self, size: int) -> Batch:
        """A batch of the next ``size`` samples in random order; a new epoch where too few are left.

        Raises:
            OutOfTime: where there is no time left to read them.
        """
        ...

    def draw_samples(self, count: int) -> list[Any]:
        """The next ``count`` samples in random order."""
        ...

    def follow(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        """``loader``, read by the workers that run already where that can be."""
        ...

    def rewind(self, seed: int) -> None:
        """Start drawing anew."""
        ...

    def expect(self, sizes: Sequence[int]) -> None:
        """The sizes of the next draws, with none to be read ahead after them."""
        ...

    def close(self) -> None:
        """Stop what reads."""
        ...
