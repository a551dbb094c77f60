"""Fresh samples for the noise scale: never the same sample twice within one comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import TypeAlias

from batchfinder.errors import CannotBuildBatch, OutOfTime
from batchfinder.meter import unmetered
from batchfinder.protocols import Advance, Batch, BatchSource, Clock, Unit

Allowed: TypeAlias = Callable[[int], bool]
"""Which sizes may reach the step, beside the one that the user trains with."""

OUT_OF_DATA = (StopIteration, CannotBuildBatch)
"""What ``draw`` raises when fewer samples are left than were asked for."""


def any_size(size: int) -> bool:
    """Every size is allowed."""
    return True


def nearest_allowed(size: int, allowed: Allowed, largest: int) -> int | None:
    """The largest allowed size up to ``size``, else the smallest above it up to ``largest``."""
    below = (each for each in range(size, 0, -1) if allowed(each))
    above = (each for each in range(size + 1, largest + 1) if allowed(each))
    return next(below, None) or next(above, None)


def cut(batch: int, largest: int, pieces: int, allowed: Allowed = any_size) -> list[int]:
    """``batch`` as at least ``pieces`` nearly equal parts, none above ``largest`` or below 1.

    Where no such parts are allowed, as many of the largest size that is, with what is left over
    left out; and where that is none, the batch as it is.
    """
    fewest = min(max(pieces, -(-batch // largest)), batch)
    for count in range(fewest, batch + 1):
        parts = [batch // count + (index < batch % count) for index in range(count)]
        if count == 1 or all(allowed(size) for size in set(parts)):
            return parts
    size = nearest_allowed(min(largest, batch // fewest), allowed, largest)
    return [batch] if size is None else [size] * max(1, batch // size)


def never() -> bool:
    """No time limit."""
    return False


def samples_in(source: BatchSource) -> int | None:
    """Samples in the whole set; None for a stream, or where batches count something else."""
    return source.length if source.unit == "samples" else None


def in_all(samples: int | None, replicas: int) -> int | None:
    """``samples`` on each of so many replicas; ``None`` for a stream."""
    return None if samples is None else samples * replicas


class FreshBatches:
    """Micro-batches with their counts, until the samples, the data or the time ends.

    ``weight(batch)`` is the factor under which a micro-batch's loss enters the accumulated
    gradient: its share of a nominal micro-batch, b_j / ``size``; for losses that are sums over
    the batch 1 / ``size``, since such a loss carries the factor b_j already.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        size: int,
        *,
        source: BatchSource | None = None,
        sum_reduced: bool = False,
        deadline: tuple[Clock, float] | None = None,
        advance: Advance = unmetered,
    ) -> None:
        self._batches = batches
        self.size = size
        self.source = source
        self.sum_reduced = sum_reduced
        self.deadline = deadline
        self.advance = advance
        self.ended = ""

    @classmethod
    def shuffled(
        cls,
        source: BatchSource,
        size: int,
        seed: int,
        *,
        sum_reduced: bool = False,
        deadline: tuple[Clock, float] | None = None,
        advance: Advance = unmetered,
        wanted: int = 0,
    ) -> FreshBatches:
        """Micro-batches of ``size`` out of one pass over the data, shuffled by ``seed``.

        As a rule ``wanted`` of them are taken.
        """
        source.rewind(seed)
        length = samples_in(source)
        source.expect([size] * (wanted if length is None else min(wanted, length // size)))
        endless = iter(lambda: source.draw(size), object())
        one_pass = endless if length is None else islice(endless, length // size)
        return cls(
            one_pass,
            size,
            source=source,
            sum_reduced=sum_reduced,
            deadline=deadline,
            advance=advance,
        )

    def __iter__(self) -> Iterator[Batch]:
        stream = iter(self._batches)
        while not self._out_of_time():
            try:
                batch = next(stream)
            except OUT_OF_DATA:
                self.ended = "the data"
                return
            except OutOfTime:
                self.ended = "the time"
                return
            self.advance(self.count(batch), steps=0)
            yield batch

    def _out_of_time(self) -> bool:
        if self.deadline is not None and self.deadline[0]() > self.deadline[1]:
            self.ended = "the time"
        return bool(self.ended)

    def count(self, batch: Batch) -> int:
        return self.size if self.source is None else self.source.count(batch)

    def weight(self, batch: Batch) -> float:
        return (1 if self.sum_reduced else self.count(batch)) / self.size

    def first(self, most: int) -> FreshBatches:
        """The first ``most`` micro-batches, and no more."""
        return FreshBatches(
            islice(self, most), self.size, source=self.source, sum_reduced=self.sum_reduced
        )

    @property
    def unit(self) -> Unit:
        return "samples" if self.source is None else self.source.unit

    @property
    def population(self) -> int | None:
        return None if self.source is None else samples_in(self.source)


class TrainingBatches:
    """Endless training batches: the set is shuffled anew whenever too little of it is left."""

    def __init__(self, source: BatchSource, seed: int) -> None:
        self.source = source
        self.seed = seed
        self.left: float = 0

    def take(self, sizes: Sequence[int], coming: Iterable[int] = ()) -> list[Batch]:
        """Batches of distinct samples, all from the same pass over the data.

        Args:
            sizes: of the batches.
            coming: of those that will be taken next, which may be read ahead.

        Raises:
            CannotBuildBatch: where a whole pass holds fewer samples than asked for.
        """
        wanted = sum(sizes)
        if self.left < wanted:
            self._start_over()
        self._expect([*sizes, *coming])
        try:
            batches = [self.source.draw(size) for size in sizes]
        except StopIteration:
            self._start_over()
            batches = [self.source.draw(size) for size in sizes]
        self.left -= wanted
        return batches

    def _expect(self, sizes: Sequence[int]) -> None:
        """No more than are left of this pass: the next one has an order of its own."""
        within = zip(sizes, accumulate(sizes), strict=True)
        self.source.expect([size for size, together in within if together <= self.left])

    def _start_over(self) -> None:
        self.seed += 1
        self.source.rewind(self.seed)
        length = samples_in(self.source)
        self.left = math.inf if length is None else length
