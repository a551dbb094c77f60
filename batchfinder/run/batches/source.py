"""Batches of any size from the user's own samples, the loader itself left alone."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch

from batchfinder.errors import CannotBuildBatch, InvalidArgument
from batchfinder.protocols import Batch
from batchfinder.run.batches.host import check_host
from batchfinder.run.batches.lengths import Lengths
from batchfinder.run.batches.randomness import kept, seeded
from batchfinder.run.batches.stores import CACHE_BYTES, Store, Streamed
from batchfinder.run.batches.structure import (
    MAKE_LOADER,
    bytes_in,
    describe,
    fresh,
    leaves,
    rows_in,
    size_along,
)

__all__ = ["SampleSource"]

READ_AHEAD = 4096
READING_AHEAD_SECONDS = 10.0
"""So many samples of a stream are read to see whether it ends, and for no longer than this."""


class SampleSource:
    """A ``BatchSource`` over a store of single samples and the loader's collate function.

    Samples are looked at beforehand (where they end, how long they are) for ``patience_seconds``
    from its making, softly; ``None`` for as long as it takes.
    """

    unit = "samples"

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
        cache_bytes: int = CACHE_BYTES,
        worker_copies: int = 0,
        notes: Sequence[str] = (),
        patience_seconds: float | None = None,
    ) -> None:
        self._store = store
        self._collate = collate
        self._rebuild = rebuild
        self._base = base_batch_size
        self._ceiling = ceiling
        self._seed = seed
        self._repeats = allow_repeats
        self._batch_dim = batch_dim
        self._cache_bytes = cache_bytes
        self.worker_copies = worker_copies
        self._cache: dict[int, Any] = {}
        self._cached_bytes = 0
        self._sizes: dict[int, int] = {}
        self._notes = tuple(notes)
        patience = math.inf if patience_seconds is None else patience_seconds
        self._until = time.perf_counter() + patience
        self._counted: tuple[tuple[Any, ...], int] | None = None
        self._lengths: Lengths | None = None

    @property
    def base_batch_size(self) -> int | None:
        return self._base

    @property
    def length(self) -> int | None:
        return self._store.length

    @property
    def ceiling(self) -> int | None:
        if self._repeats:
            return None
        return self._ceiling if self._ceiling is not None else self._end

    @cached_property
    def _end(self) -> int | None:
        """How many samples there are, asked once: a stream that ends later repeats its samples."""
        if isinstance(self._store, Streamed):
            until = min(self._until, time.perf_counter() + READING_AHEAD_SECONDS)
            self._store.read_ahead(READ_AHEAD, lambda: time.perf_counter() < until)
        return self._store.length

    @property
    def smallest(self) -> int:
        """The smallest size that a batch can have."""
        return 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed, as sentences."""
        return self._notes + self.lengths.notes

    def restate(self, *, base_batch_size: int | None, note: str) -> None:
        """Say that the loader was ours: the user's base size, and one note more."""
        self._base = base_batch_size
        self._notes = (*self._notes, note)

    @property
    def lengths(self) -> Lengths:
        """What is known of the samples' lengths; scanned at the first call."""
        if self._lengths is None:
            with kept():
                self._lengths = Lengths.scan(
                    self._store, self._sample, self._build, until=self._until
                )
        return self._lengths

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
        return self._fixed(size, self.lengths.longest_first)

    def ordinary(self, size: int) -> Batch:
        return self._fixed(size, ())

    def draw(self, size: int) -> Batch:
        self._check(size)
        return self._build(self._store.draw(size))

    def rewind(self, seed: int) -> None:
        self._store.rewind(seed)

    def rebuild(self, size: int) -> Iterable[Batch]:
        return self._rebuild(size)

    def count(self, batch: Batch) -> int:
        """Along the dimension that grows with the batch, found by building two batches."""
        if self._counted is None and self._batch_dim is None:
            self._counted = self._find_counted()
        if self._counted is not None:
            path, axis = self._counted
            size = size_along(dict(leaves(batch)).get(path), axis)
            if size is not None:
                return size
        return rows_in(batch, self._batch_dim or 0)

    @property
    def bytes_per_sample(self) -> float:
        """Host memory of one sample in a batch of the longest ones."""
        probe = min(2, self._store.available(2))
        return bytes_in(self._fixed(probe, self.lengths.longest_first)) / max(1, probe)

    def _fixed(self, size: int, preferred: Sequence[int]) -> Batch:
        """The first samples of the preferred order, repeated where not more can be kept."""
        self._check(size)
        samples, used = self._first(size, preferred)
        whole, rest = divmod(size, len(samples))
        check_host(size * used // len(samples), size)
        return self._build(samples * whole + samples[:rest])

    def _first(self, size: int, preferred: Sequence[int]) -> tuple[list[Any], int]:
        """The samples and their bytes on the host."""
        there = self._store.available(size)
        if not there:
            raise CannotBuildBatch(f"expected samples; the loader gave none: {MAKE_LOADER}")
        samples, used = [], 0
        with kept():
            for position in preferred[:size] if preferred else range(there):
                samples.append(self._sample(position))
                used += self._sizes.get(position) or bytes_in(samples[-1])
                if used >= self._cache_bytes:
                    break
        return samples, used

    def _sample(self, position: int) -> Any:
        if position in self._cache:
            return self._cache[position]
        sample = self._store.fetch(position)
        if self._cached_bytes < self._cache_bytes:
            self._cache[position] = sample
            self._sizes[position] = bytes_in(sample)
            self._cached_bytes += self._sizes[position]
        return sample

    def _build(self, samples: list[Any]) -> Batch:
        try:
            with seeded(self._seed):
                return self._collate([fresh(sample) for sample in samples])
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError) or not _differ(samples):
                error.add_note(f"while {len(samples)} samples were collated into a batch")
                raise
            raise CannotBuildBatch(
                f"expected the loader's collate function to join {len(samples)} samples; they "
                f"differ in shape ({describe(samples[0])}, …) and it failed: give the loader a "
                f"collate_fn that pads, or {MAKE_LOADER}"
            ) from error

    def _check(self, size: int) -> None:
        if size < 1:
            raise InvalidArgument(
                f"expected a batch size of at least 1; found {size}: pass the number of samples"
            )
        if self.ceiling is not None and size > self.ceiling:
            raise CannotBuildBatch(
                f"expected at most {self.ceiling} samples, which is all that the loader yields; "
                f"{size} were asked for"
            )

    def _find_counted(self) -> tuple[tuple[Any, ...], int] | None:
        if self._store.available(3) < 3:
            return None
        with kept():
            alike = [self._sample(0)]
        two, three = (dict(leaves(self._build(alike * n))) for n in (2, 3))
        for path, leaf in three.items():
            for axis in range(getattr(leaf, "ndim", 1)):
                if (size_along(two.get(path), axis), size_along(leaf, axis)) == (2, 3):
                    return path, axis
        return None


def _differ(samples: Sequence[Any]) -> bool:
    shapes = {
        tuple((path, getattr(leaf, "shape", None)) for path, leaf in leaves(sample))
        for sample in samples
    }
    return len(shapes) > 1
