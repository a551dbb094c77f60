"""Batches from ``make_loader``: the way out where a loader cannot be taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.batches.randomness import seeded
from batchfinder.run.batches.structure import map_leaves, rows_in
from batchfinder.run.batches.workers import reading

__all__ = ["FactorySource"]


class FactorySource:
    """A ``BatchSource`` over a function that builds the user's loader at any size.

    Whether ``draw`` is in random order is for the loaders that it builds to say.
    """

    unit = "samples"
    varies = False

    def __init__(
        self,
        make_loader: Callable[[int], Iterable[Batch]],
        *,
        base_batch_size: int | None = None,
        seed: int = 0,
        allow_repeats: bool = False,
        batch_dim: int | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._make = make_loader
        self._base = base_batch_size
        self._seed = seed
        self._repeats = allow_repeats
        self._axis = batch_dim or 0
        self.notes = notes
        self._length: int | None = None
        self._kept: tuple[int, Batch] | None = None
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

    def take(self, size: int) -> Batch:
        if self._kept is None or self._kept[0] != size:
            with seeded(self._seed), reading(self._made(size)) as batches:
                self._kept = (size, self._checked(next(batches, None), size))
        return map_leaves(_copied, self._kept[1])

    def ordinary(self, size: int) -> Batch:
        return self.take(size)

    def rewind(self, seed: int) -> None:
        self._epoch = seed
        self._readers: dict[int, Iterator[Batch]] = {}

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

    def _read(self, size: int, seed: int) -> Iterator[Batch]:
        with seeded(seed):
            batches = iter(self._made(size))
        step = 0
        while True:
            with seeded(hash((seed, step)) % 2**63):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
            step += 1

    def rebuild(self, size: int) -> Iterable[Batch]:
        return self._made(size)

    def count(self, batch: Batch) -> int:
        return rows_in(batch, self._axis)

    @property
    def bytes_per_sample(self) -> float:
        """Host memory of one sample in a batch."""
        from batchfinder.run.batches.structure import bytes_in

        return float(bytes_in(self.take(1)))

    def _made(self, size: int) -> Iterable[Batch]:
        made = self._make(size)
        if not hasattr(made, "__iter__"):
            raise CannotBuildBatch(
                f"expected make_loader({size}) to give an iterable of batches; found "
                f"{type(made).__name__}"
            )
        return made

    def _checked(self, batch: Batch | None, size: int) -> Batch:
        found = 0 if batch is None else self.count(batch)
        if found != size:
            raise CannotBuildBatch(
                f"expected make_loader({size}) to give batches of {size} samples; its first held "
                f"{found}: check that make_loader=lambda batch_size: ... uses its argument, and "
                "that there are as many samples"
            )
        return batch


def _copied(leaf: Any) -> Any:
    return list(leaf) if type(leaf) is list else leaf


def _length_behind(loader: Any) -> int:
    """Samples in the dataset behind a loader; 0 where it cannot be told."""
    dataset = getattr(loader, "dataset", None)
    try:
        return len(dataset)  # type: ignore[arg-type]  # no dataset, or one without a length
    except (TypeError, NotImplementedError):
        return 0
