"""A stream of samples, read from its start as often as needed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.batches.lengths import Extent, extent_of
from batchfinder.run.batches.stores import Patience
from batchfinder.run.randomness import kept, reseed
from batchfinder.run.tree import MAKE_LOADER, bytes_in, fresh
from batchfinder.wording import Caveat

__all__ = ["CACHE_BYTES", "Streamed"]

CACHE_BYTES = 256 * 1024**2
"""How much sample data is kept for fixed batches before samples are repeated."""

_WINDOW = 1024  # samples among which draws are shuffled


class Streamed:
    """Samples that can only be read in sequence, from the start as often as needed.

    What is read first is kept, up to ``cache_bytes``, and drawn from before more is read.
    Samples come in bursts of ``burst``, so that the time of one says little.
    """

    is_apart = True
    block = 1

    def __init__(
        self,
        start: Callable[[], Iterable[Any]],
        collate: Callable[[list[Any]], Batch],
        seed: int = 0,
        *,
        cache_bytes: int = CACHE_BYTES,
        patience: Patience | None = None,
        said: Callable[[], tuple[Caveat, ...]] = tuple,
        burst: int = 1,
    ) -> None:
        self.patience = patience or Patience()
        self._start, self._collate, self._seed = start, collate, seed
        self._cache_bytes, self._said = cache_bytes, said
        self._burst, self._in_burst, self._burst_seconds = burst, 0, 0.0
        self._kept: list[Any] = []
        self._kept_bytes = 0
        self._reader: Iterator[Any] | None = None
        self._length: int | None = None
        self._draws: Iterator[Any] = iter(())
        self.rewind(seed)

    @property
    def notes(self) -> tuple[Caveat, ...]:
        return self._said()

    @property
    def length(self) -> int | None:
        """Known once the stream has been read to its end."""
        return self._length

    @property
    def is_full(self) -> bool:
        """Whether no further sample is kept."""
        return self._length is not None or self._kept_bytes >= self._cache_bytes

    def available(self, wanted: int) -> int:
        if len(self._kept) < wanted and not self.is_full:
            with kept():
                while len(self._kept) < wanted and not self.is_full:
                    if self._kept and self.patience.is_over():
                        break
                    self._keep_one()
        return min(wanted, len(self._kept))

    def read_ahead(self, wanted: int, in_time: Callable[[], bool]) -> None:
        """Keep ``wanted`` samples while there is time: a short stream's end is met, and known."""
        while in_time() and self.available(len(self._kept) + 1) < wanted and not self.is_full:
            pass

    def fetch(self, positions: Sequence[int]) -> list[Any]:
        return [self._kept[position] for position in positions]

    def extents(self, positions: Sequence[int]) -> list[Extent]:
        return [extent_of(sample) for sample in self.fetch(positions)]

    def batch(self, positions: Sequence[int]) -> Batch:
        return self._batch(self.fetch(positions), self._seed)

    def _batch(self, samples: list[Any], seed: int) -> Batch:
        with kept():
            reseed(seed)
            return self._collate([fresh(sample) for sample in samples])

    def _keep_one(self) -> None:
        if self._reader is None:
            self._reader = self._read(self._seed)
        try:
            sample = next(self._reader)
        except StopIteration:
            self._length = len(self._kept)
            self._reader = None
            return
        self.patience.note(1)
        self._kept.append(sample)
        self._kept_bytes += bytes_in(sample)
        if self.is_full:
            self._end_reader()

    def _end_reader(self) -> None:
        close = getattr(self._reader, "close", None)
        if close is not None:
            close()
        self._reader = None

    def _read(self, seed: int) -> Iterator[Any]:
        """The stream from its start; advanced inside ``randomness.kept`` only."""
        reseed(seed)
        samples = iter(self._start())
        for count in itertools.count():
            reseed(hash((seed, count)))
            started = self.patience.clock()
            try:
                sample = next(samples)
            except StopIteration:
                return
            except Exception as error:
                error.add_note(
                    f"while reading sample {count} of the stream for a batch; to build batches "
                    f"in another way, {MAKE_LOADER}"
                )
                raise
            self._took_one(self.patience.clock() - started)
            yield sample

    def _took_one(self, seconds: float) -> None:
        self._in_burst += 1
        self._burst_seconds += seconds
        if self._in_burst >= self._burst:
            self.patience.took_burst(self._in_burst, self._burst_seconds)
            self._in_burst, self._burst_seconds = 0, 0.0

    def rewind(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._epoch_seed, self._drawn = seed, 0
        self._draws = self._mixed(self._from_kept())

    def expect(self, sizes: Sequence[int]) -> None:
        """Samples are read ahead one by one, whatever the sizes."""

    def _from_kept(self) -> Iterator[Any]:
        """The first epoch: what is kept already, then what comes, as long as that is kept too."""
        place = 0
        while place < len(self._kept) or not self.is_full:
            if place == len(self._kept):
                self._keep_one()
            if place < len(self._kept):
                yield self._kept[place]
            place += 1
        if self._length is None:
            yield from itertools.islice(self._read(self._seed), place, None)

    def draw(self, size: int) -> Batch:
        seed = hash((self._epoch_seed, self._drawn))
        return self._batch(self.draw_samples(size), seed)

    def draw_samples(self, count: int) -> list[Any]:
        self.patience.check(count)
        with kept():
            drawn = list(itertools.islice(self._draws, count))
            if len(drawn) < count:
                self._epoch_seed += 1
                self._draws = self._mixed(self._read(self._epoch_seed))
                drawn = list(itertools.islice(self._draws, count))
        if len(drawn) < count:
            raise CannotBuildBatch(
                f"expected a stream of at least {count} samples; it ended after {len(drawn)}"
            )
        self._drawn += count
        self.patience.note(count)
        return drawn

    def _mixed(self, samples: Iterator[Any]) -> Iterator[Any]:
        """Each sample once, shuffled within a window that grows as more are read.

        Not filled before the first is given: at 50 ms a sample that would be a minute.
        """
        window: list[Any] = []
        for count, sample in enumerate(samples):
            window.append(sample)
            if count % 2 == 0 and len(window) < _WINDOW:
                continue  # two are read for one that is given, until the window is full
            place = self._random.randrange(len(window))
            window[place], window[-1] = window[-1], window[place]
            yield window.pop()
        self._random.shuffle(window)
        yield from window

    def follow(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        return loader

    def close(self) -> None:
        self._end_reader()
        self._draws = iter(())
