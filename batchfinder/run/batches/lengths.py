"""Which samples are the longest, and whether that matters for a batch.

The batch that decides memory is the one of the longest samples, not the average one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchfinder.protocols import Clock
from batchfinder.run.batches.stores import Store
from batchfinder.run.batches.structure import bytes_in, leaves

__all__ = ["Lengths", "sample_length"]

_MOST = 4096  # samples scanned at most
_FEWEST = 32  # samples scanned at least, where there are as many
_PATIENCE = 0.5  # seconds spent while every sample had the same length
_BUDGET = 10.0  # seconds spent where lengths vary


@dataclass(frozen=True)
class Lengths:
    """The outcome of a scan: positions from the longest sample to the shortest, where it matters.

    ``longest_first`` is empty where every batch of one size is as large as every other.
    """

    longest_first: tuple[int, ...] = ()
    scanned: int = 0
    of: int | None = None
    longest: int = 0
    median: int = 0
    cut_short: bool = False
    """Whether the caller's time was up before enough were read."""

    @property
    def vary(self) -> bool:
        return bool(self.longest_first)

    @property
    def share(self) -> float | None:
        """The share of the samples that was scanned; ``None`` for a stream."""
        return self.scanned / self.of if self.of else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know: on what share of the samples the longest batch rests."""
        if self.cut_short:
            return (
                f"The budget left time to look at the lengths of {self.scanned} samples only; a "
                "longer one elsewhere would need more memory.",
            )
        if not self.vary or self.share == 1.0:
            return ()
        share = "of a stream" if self.share is None else f"({self.share:.1%} of the samples)"
        return (
            f"Samples vary in length. The longest were found among {self.scanned} {share}; "
            "a longer one elsewhere would need more memory.",
        )

    @classmethod
    def scan(
        cls,
        store: Store,
        sample: Callable[[int], Any],
        build: Callable[[list[Any]], Any],
        clock: Clock = time.perf_counter,
        until: float = math.inf,
    ) -> Lengths:
        """Read samples until enough are known; see the constants above for how many.

        No more are read once the clock has passed ``until``, but for one.
        """
        found, cut_short = _scanned(store, sample, clock, until)
        known = cls(scanned=len(found), of=store.length, cut_short=cut_short)
        if len(set(found)) < 2:
            return known
        order = sorted(range(len(found)), key=lambda position: -found[position])
        few = min(2, len(order) // 2)
        if not _matters(sample, build, order[:few], order[-few:]):
            return known
        ranked = sorted(found)
        return replace(
            known,
            longest_first=tuple(order),
            longest=ranked[-1],
            median=ranked[len(ranked) // 2],
        )


def _scanned(
    store: Store, sample: Callable[[int], Any], clock: Clock, until: float
) -> tuple[list[int], bool]:
    """One after the other, since a stream reads as far as it is asked for; and whether cut short.

    It is not where as many as always were read and all were alike.
    """
    found: list[int] = []
    started, vary = clock(), False
    while len(found) < _MOST and store.available(len(found) + 1) > len(found):
        found.append(sample_length(sample(len(found))))
        vary = vary or found[-1] != found[0]
        now, few = clock(), len(found) < _FEWEST
        if not few and now - started > (_BUDGET if vary else _PATIENCE):
            break
        if now >= until:
            return found, (few or vary) and len(found) != store.length
    return found, False


def _matters(
    sample: Callable[[int], Any],
    build: Callable[[list[Any]], Any],
    long: Sequence[int],
    short: Sequence[int],
) -> bool:
    """Whether the collate function lets a difference in length through to the batch."""
    longest, shortest = ([sample(p) for p in places] for places in (long, short))
    return bytes_in(build(longest)) != bytes_in(build(shortest))


def sample_length(sample: Any) -> int:
    """How long a sample is: entries of its tensors and columns, or else letters of its texts."""
    entries = letters = 0
    for _, leaf in leaves(sample):
        if hasattr(leaf, "shape"):
            entries += _product(leaf.shape) if leaf.shape else 0
        elif isinstance(leaf, (list, tuple)):
            entries += len(leaf)
        elif isinstance(leaf, (str, bytes)):
            letters += len(leaf)
    return entries or letters


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= int(size)
    return total
