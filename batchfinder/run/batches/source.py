"""Batches of any size from the user's own samples, the loader itself left alone."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from batchfinder.errors import CannotBuildBatch, InvalidArgument
from batchfinder.protocols import Batch, Unit
from batchfinder.run.batches.counting import Key, count_of, grown
from batchfinder.run.batches.lengths import FEWEST, Extent, Lengths, extent_of
from batchfinder.run.batches.stores import Store, check_host
from batchfinder.run.batches.streamed import CACHE_BYTES
from batchfinder.run.randomness import seeded
from batchfinder.run.tree import MAKE_LOADER, bytes_in, describe, fresh, leaves
from batchfinder.wording import Caveat

__all__ = ["SampleSource"]

READ_AHEAD = 4096
READING_AHEAD_SECONDS = 5.0
"""So many samples of a stream are read to see whether it ends, and for no longer than this."""

DISTINCT = 16
READING_SECONDS = 1.0
"""A trial needs shapes, not pictures: fixed batches repeat their samples once so many are distinct
and reading them has taken this long in all."""
READING_SHARE = 0.15
"""However few are distinct, they are repeated once reading has taken this share of the time."""


class SampleSource:
    """A ``BatchSource`` over a store of single samples and the loader's collate function.

    Samples are looked at beforehand (where they end, how long they are) for ``patience_seconds``
    from its making, softly; ``None`` for as long as it takes.
    """

    unit: Unit = "samples"

    def __init__(
        self,
        store: Store,
        collate: Callable[[list[Any]], Batch],
        rebuild: Callable[[int], Iterable[Batch]],
        *,
        base_batch_size: int | None = None,
        ceiling: int | None = None,
        seed: int = 0,
        allow_repeats: bool = False,
        batch_dim: int | None = None,
        count: Callable[[Batch], int] | None = None,
        cache_bytes: int = CACHE_BYTES,
        worker_copies: int = 0,
        notes: Sequence[Caveat] = (),
        patience_seconds: float | None = None,
        lengths: Lengths | None = None,
    ) -> None:
        self.store = store
        self._collate = collate
        self._rebuild = rebuild
        self._base = base_batch_size
        self._ceiling = ceiling
        self._seed = seed
        self._repeats = allow_repeats
        self._batch_dim = batch_dim
        self._count = count
        self._cache_bytes = cache_bytes
        self.worker_copies = worker_copies
        self._cache: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}
        self._cached_bytes = 0
        self._reading_seconds = 0.0
        self._notes = tuple(notes)
        patience = math.inf if patience_seconds is None else patience_seconds
        self._until = store.patience.clock() + patience
        self._lengths = lengths

    @property
    def base_batch_size(self) -> int | None:
        return self._base

    @property
    def length(self) -> int | None:
        return self.store.length

    @property
    def ceiling(self) -> int | None:
        if self._repeats:
            return None
        return self._ceiling if self._ceiling is not None else self._end

    @cached_property
    def _end(self) -> int | None:
        """How many samples there are, asked once: a stream that ends later repeats its samples."""
        clock = self.store.patience.clock
        until = min(self._until, clock() + READING_AHEAD_SECONDS)
        self.store.read_ahead(READ_AHEAD, lambda: clock() < until)
        return self.store.length

    @property
    def smallest(self) -> int:
        """The smallest size that a batch can have."""
        return 1

    @property
    def notes(self) -> tuple[Caveat, ...]:
        """What had to be assumed."""
        return (*self._notes, *self.lengths.notes, *self.store.notes)

    @property
    def lengths(self) -> Lengths:
        """What is known of the samples' lengths; scanned at the first call."""
        if self._lengths is None:
            self._lengths = Lengths()
            if self.store.is_apart:
                self._lengths = Lengths.scan(
                    self.store.length,
                    self._extents,
                    lambda positions: self.build(self.samples(positions)),
                    clock=self.store.patience.clock,
                    until=self._until,
                    block=self.store.block,
                )
        return self._lengths

    def _extents(self, first: int, count: int) -> Sequence[Extent]:
        """Of samples that are kept for batches, and of more that are not even sent here."""
        there = range(first, self.store.available(first + count))
        if first < FEWEST or self.store.block == 1:
            return [extent_of(sample) for sample in self.samples(there)]
        return self.store.extents(there)

    @property
    def varies(self) -> bool:
        """Whether a batch of the longest samples is larger than an ordinary one."""
        return self.lengths.vary

    def as_ordinary(self) -> SampleSource:
        """The same source with ordinary batches in place of the longest: for the other peak."""
        twin = copy.copy(self)
        twin._lengths = Lengths()
        return twin

    def take(self, size: int) -> Batch:
        return self._fixed(size, self.lengths.hardest(size))

    def ordinary(self, size: int) -> Batch:
        return self._fixed(size, ())

    def draw(self, size: int) -> Batch:
        self.check(size)
        return self.store.draw(size)

    def rewind(self, seed: int) -> None:
        self.store.rewind(seed)

    def expect(self, sizes: Sequence[int]) -> None:
        self.store.expect(sizes)

    def close(self) -> None:
        """Stop the worker processes that read."""
        self.store.close()

    def expected_seconds(self, size: int) -> float:
        return self.store.patience.seconds_in_bursts(size)

    def rebuild(self, size: int) -> Iterable[Batch]:
        return self.store.follow(self._rebuild(size))

    def count(self, batch: Batch) -> int:
        """By the caller's ``count`` or ``batch_dim``, or what grows with the number of samples."""
        if self._count is not None:
            return int(self._count(batch))
        key = self._counted if self._batch_dim is None else None
        return count_of(batch, key, self._batch_dim)

    @cached_property
    def _counted(self) -> Key | None:
        if not self.store.available(1):
            return None
        if not self.store.is_apart:
            return grown(lambda size: self.store.batch([0] * size))
        return grown(lambda size: self.build(self._first(1, ())[0] * size))

    def _fixed(self, size: int, preferred: Sequence[int]) -> Batch:
        """The first samples of the preferred order, repeated where not more can be kept."""
        self.check(size)
        if not self.store.is_apart:
            there = self.store.available(min(size, max(DISTINCT, self.store.block)))
            return self.store.batch([turn % there for turn in range(size)])
        samples, used = self._first(size, preferred)
        whole, rest = divmod(size, len(samples))
        check_host(size * used // len(samples), size)
        return self.build(samples * whole + samples[:rest])

    def _first(self, size: int, preferred: Sequence[int]) -> tuple[list[Any], int]:
        """Distinct samples, at most ``size``, and their bytes on the host; broken ones left out."""
        places = iter(preferred) if preferred else self._positions()
        found: list[Any] = []
        used = 0
        while len(found) < size and used < self._cache_bytes:
            if len(found) >= len(self._cache) and self._is_enough(len(found)):
                break
            block = self._next_block(places, size - len(found))
            if not block:
                break
            if any(place not in self._cache for place in block) and self._is_enough(len(found)):
                break
            for place, sample in zip(block, self.samples(block), strict=True):
                if sample is not None and used < self._cache_bytes:
                    found.append(sample)
                    used += self._sizes.get(place) or bytes_in(sample)
        if not found:
            raise CannotBuildBatch(f"expected samples; the loader yields none: {MAKE_LOADER}")
        return found, used

    def _next_block(self, places: Iterator[int], wanted: int) -> list[int]:
        """Positions to be read at once; a stream is read where it is asked how many there are."""
        clock = self.store.patience.clock
        started = clock()
        block = list(itertools.islice(places, min(self.store.block, wanted)))
        self._reading_seconds += clock() - started
        return block

    def _positions(self) -> Iterator[int]:
        place = 0
        while place < self.store.available(place + 1):
            yield place
            place += 1

    def _is_enough(self, count: int) -> bool:
        """Whether repeats do: reading takes long and some are distinct, or the time is up.

        And where a share of the whole time went into it, however few they are.
        """
        if count >= DISTINCT and self._reading_seconds > READING_SECONDS:
            return True
        patience = self.store.patience
        took_long = self._reading_seconds > READING_SHARE * patience.granted_seconds
        return count > 0 and (took_long or patience.is_over())

    def samples(self, positions: Sequence[int]) -> list[Any]:
        """The samples at positions of the fixed order, read once."""
        missing = [position for position in positions if position not in self._cache]
        if not missing:
            return [self._cache[position] for position in positions]
        clock = self.store.patience.clock
        started = clock()
        read = dict(zip(missing, self.store.fetch(missing), strict=True))
        self._reading_seconds += clock() - started
        for position, sample in read.items():
            if self._cached_bytes < self._cache_bytes:
                self._cache[position] = sample
                self._sizes[position] = bytes_in(sample)
                self._cached_bytes += self._sizes[position]
        return [self._cache[p] if p in self._cache else read[p] for p in positions]

    def build(self, samples: Sequence[Any]) -> Batch:
        """The batch that the loader's collate function makes of ``samples``."""
        try:
            with seeded(self._seed):
                return self._collate([fresh(sample) for sample in samples])
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError) or not _differ(samples):
                error.add_note(f"while collating {len(samples)} samples into a batch")
                raise
            raise CannotBuildBatch(
                f"expected the loader's collate function to join {len(samples)} samples; they "
                f"differ in shape ({describe(samples[0])}, …) and it failed: give the loader a "
                f"collate_fn that pads, or {MAKE_LOADER}"
            ) from error

    def check(self, size: int) -> None:
        """Refuse a size below 1, or beyond what the loader yields."""
        if size < 1:
            raise InvalidArgument(
                f"expected a batch size of at least 1; found {size}: pass the number of samples"
            )
        if self.ceiling is not None and size > self.ceiling:
            raise CannotBuildBatch(
                f"expected at most {self.ceiling} samples, all that the loader yields; found a "
                f"request for {size}"
            )


def _differ(samples: Sequence[Any]) -> bool:
    shapes = {
        tuple((path, getattr(leaf, "shape", None)) for path, leaf in leaves(sample))
        for sample in samples
    }
    return len(shapes) > 1
