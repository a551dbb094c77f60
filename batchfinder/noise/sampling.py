"""Fresh samples for the noise scale: never the same sample twice within one comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from batchfinder.errors import CannotBuildBatch, OutOfTime
from batchfinder.protocols import Batch, BatchSource, Clock

OUT_OF_DATA = (StopIteration, CannotBuildBatch)
"""What ``draw`` raises when fewer samples are left than were asked for."""


def samples_in(source: BatchSource) -> int | None:
    """Samples in the whole set; None for a stream, or where batches count something else."""
    return source.length if source.unit == "samples" else None


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
    ) -> None:
        self._batches = batches
        self.size = size
        self.source = source
        self.sum_reduced = sum_reduced
        self.deadline = deadline
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
    ) -> FreshBatches:
        """Micro-batches of ``size`` out of one pass over the data, shuffled by ``seed``."""
        source.rewind(seed)
        endless = iter(lambda: source.draw(size), object())
        length = samples_in(source)
        one_pass = endless if length is None else islice(endless, length // size)
        return cls(one_pass, size, source=source, sum_reduced=sum_reduced, deadline=deadline)

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
    def unit(self) -> str:
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

    def take(self, sizes: Sequence[int]) -> list[Batch]:
        """Batches of distinct samples, all from the same pass over the data.

        Raises:
            CannotBuildBatch: where a whole pass holds fewer samples than asked for.
        """
        wanted = sum(sizes)
        if self.left < wanted:
            self._start_over()
        try:
            batches = [self.source.draw(size) for size in sizes]
        except StopIteration:
            self._start_over()
            batches = [self.source.draw(size) for size in sizes]
        self.left -= wanted
        return batches

    def _start_over(self) -> None:
        self.seed += 1
        self.source.rewind(self.seed)
        length = samples_in(self.source)
        self.left = math.inf if length is None else length
