"""Batches from ``make_loader``: the way out where a loader cannot be taken apart."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch, Unit
from batchfinder.run.batches.counting import Key, count_of, grown
from batchfinder.run.batches.stores import copies_of
from batchfinder.run.batches.workers import reading
from batchfinder.run.randomness import seeded
from batchfinder.run.tree import bytes_in, fresh
from batchfinder.wording import Caveat

__all__ = ["FactorySource"]

_LOOKED_AT = 8
_END: Any = object()


class FactorySource:
    """A ``BatchSource`` over a function that builds the user's loader at any size.

    Whether ``draw`` is in random order is for the loaders that it builds to say. Where its batches
    of one size differ in bytes, fixed batches are the largest of the first few: the longest
    samples cannot be asked for by name.
    """

    unit: Unit = "samples"
    smallest = 1

    def __init__(
        self,
        make_loader: Callable[[int], Iterable[Batch]],
        *,
        base_batch_size: int | None = None,
        seed: int = 0,
        allow_repeats: bool = False,
        batch_dim: int | None = None,
        count: Callable[[Batch], int] | None = None,
        notes: tuple[Caveat, ...] = (),
    ) -> None:
        self._make = make_loader
        self._base = base_batch_size
        self._seed = seed
        self._repeats = allow_repeats
        self._batch_dim = batch_dim
        self._count = count
        self._notes = notes
        self._length: int | None = None
        self._kept: dict[bool, tuple[int, Batch]] = {}
        self._varies: bool | None = None
        self._readers: dict[int, Generator[Batch]] = {}
        self.rewind(seed)

    @property
    def base_batch_size(self) -> int | None:
        return self._base

    @property
    def length(self) -> int | None:
        if self._length is None:
            with seeded(self._seed):
                self._length = _length_behind(self._make(1))
        return self._length or None

    @property
    def ceiling(self) -> int | None:
        return None if self._repeats else self.length

    @property
    def notes(self) -> tuple[Caveat, ...]:
        """What had to be assumed."""
        if not self.varies:
            return self._notes
        return (
            *self._notes,
            Caveat("batches.made_vary", looked_at=_LOOKED_AT),
        )

    @property
    def varies(self) -> bool:
        """Whether its first batches of one sample differ in bytes."""
        if self._varies is None:
            few = self._first(1, 4 * _LOOKED_AT)
            self._varies = len({bytes_in(batch) for batch in few}) > 1
        return self._varies

    def as_ordinary(self) -> FactorySource:
        """The same source with its first batches in place of the largest: for the other peak."""
        twin = copy.copy(self)
        twin._kept, twin._varies = {}, False
        twin.rewind(self._seed)
        return twin

    @property
    def worker_copies(self) -> int:
        """Batches that the workers of its loaders hold at once."""
        return copies_of(self._make(1))

    def expected_seconds(self, size: int) -> float:
        """Not known: its loaders make whole batches."""
        return 0.0

    def take(self, size: int) -> Batch:
        return self._fixed(size, largest=self.varies)

    def ordinary(self, size: int) -> Batch:
        return self._fixed(size, largest=False)

    def _fixed(self, size: int, largest: bool) -> Batch:
        if largest not in self._kept or self._kept[largest][0] != size:
            batches = self._first(size, _LOOKED_AT if largest else 1)
            whole = [batch for batch in batches if self.count(batch) == size]
            found = max(whole, key=bytes_in) if whole else next(iter(batches), None)
            self._kept[largest] = (size, self._checked(found, size))
        return fresh(self._kept[largest][1])

    def _first(self, size: int, count: int) -> list[Batch]:
        with seeded(self._seed), reading(self._made(size)) as batches:
            return list(itertools.islice(batches, count))

    def rewind(self, seed: int) -> None:
        self._epoch = seed
        self.close()

    def expect(self, sizes: Sequence[int]) -> None:
        """The user's own loader reads ahead as it does."""

    def draw(self, size: int) -> Batch:
        batch = self._next(size)
        if batch is None or self.count(batch) < size:
            self._readers.pop(size, None)
            self._epoch += 1
            batch = self._next(size)
        return self._checked(batch, size)

    def _next(self, size: int) -> Batch | None:
        if size not in self._readers:
            self._readers[size] = self._read(size, self._epoch)
        return next(self._readers[size], None)

    def _read(self, size: int, seed: int) -> Generator[Batch]:
        yield from _Seeded(self._made(size), seed)

    def rebuild(self, size: int) -> Iterable[Batch]:
        return self._made(size)

    def count(self, batch: Batch) -> int:
        """By the caller's ``count`` or ``batch_dim``, or what grows with the size asked for."""
        if self._count is not None:
            return int(self._count(batch))
        key = self._counted if self._batch_dim is None else None
        return count_of(batch, key, self._batch_dim)

    @cached_property
    def _counted(self) -> Key | None:
        return grown(lambda size: next(iter(self._first(size, 1)), None))

    def close(self) -> None:
        """Stop the workers of loaders that are being read."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    def _made(self, size: int) -> Iterable[Batch]:
        made = self._make(size)
        if not hasattr(made, "__iter__"):
            raise CannotBuildBatch(
                f"expected make_loader({size}) to return an iterable of batches; found "
                f"{type(made).__name__}"
            )
        return made

    def _checked(self, batch: Batch | None, size: int) -> Batch:
        found = 0 if batch is None else self.count(batch)
        if found != size:
            raise CannotBuildBatch(
                f"expected make_loader({size}) to return batches of {size} samples; the first "
                f"has {found}: check that make_loader=lambda batch_size: ... uses its argument, "
                "and "
                "that there are as many samples"
            )
        return batch


class _Seeded:
    """A loader read with random numbers of our own, the user's put back after every batch."""

    def __init__(self, loader: Any, seed: int) -> None:
        self._loader = loader
        self._seed = seed

    def __iter__(self) -> Iterator[Batch]:
        with ExitStack() as stack:
            with seeded(self._seed):
                batches = stack.enter_context(reading(self._loader))
            for count in itertools.count():
                with seeded(hash((self._seed, count))):
                    batch = next(batches, _END)
                if batch is _END:
                    return
                yield batch


def _length_behind(loader: Any) -> int:
    """Samples in the dataset behind a loader; 0 where it cannot be told."""
    dataset: Any = getattr(loader, "dataset", None)
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):  # no dataset, or one without a length
        return 0
