"""Sources over what can only be read in sequence: streams of samples, and ready-made batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.batches.cutting import Cutting
from batchfinder.run.batches.host import copies_of
from batchfinder.run.batches.randomness import seeded
from batchfinder.run.batches.reading import StreamedByWorkers
from batchfinder.run.batches.rebuild import (
    is_one_shot,
    rebuild_loader,
)
from batchfinder.run.batches.samplers import (
    private_copy,
)
from batchfinder.run.batches.source import SampleSource
from batchfinder.run.batches.stores import Patience, Store
from batchfinder.run.batches.streamed import Streamed
from batchfinder.run.batches.structure import MAKE_LOADER
from batchfinder.run.ranks import WHOLE, OwnPart
from batchfinder.wording import Caveat

__all__ = ["Options", "Whole", "empty_loader", "from_batches", "from_stream", "rebuilder"]


@dataclass(frozen=True)
class Options:
    """What every source is made with."""

    seed: int
    allow_repeats: bool
    batch_dim: int | None
    count: Callable[[Batch], int] | None
    patience: Patience
    looking_seconds: float | None = None
    part: OwnPart = WHOLE

    def common(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "allow_repeats": self.allow_repeats,
            "batch_dim": self.batch_dim,
            "count": self.count,
        }

    def of_samples(self) -> dict[str, Any]:
        """What sources of single samples also take."""
        return {**self.common(), "patience_seconds": self.looking_seconds}


def empty_loader(loader: Any) -> str:
    """The message where a loader has no samples."""
    dataset = type(getattr(loader, "dataset", loader)).__name__
    return f"expected a loader with samples; found an empty one ({dataset}): {MAKE_LOADER}"


def rebuilder(loader: Any) -> Callable[[int], Iterable[Batch]]:
    """A size -> the loader at that size, iterating which leaves the user's sampler alone."""
    return lambda size: rebuild_loader(loader, size, private=True)


def from_stream(loader: DataLoader[Any], options: Options) -> SampleSource:
    """A source over a loader of a stream of samples."""
    dataset: Any = loader.dataset
    if is_one_shot(dataset) or iter(dataset) is iter(dataset):
        raise CannotBuildBatch(
            f"expected a dataset that can be read more than once; {type(dataset).__name__} gives "
            f"the same iterator every time, which reading would use up: {MAKE_LOADER}"
        )
    by_workers = StreamedByWorkers(loader)

    def said() -> tuple[Caveat, ...]:
        if not by_workers.repeats:
            return ()
        return (Caveat("batches.repeating_workers", workers=loader.num_workers),)

    start, share = options.part.of_stream(by_workers if loader.num_workers else lambda: dataset)
    store = Streamed(
        start,
        loader.collate_fn,
        options.seed,
        patience=options.patience,
        said=said,
    )
    _require_one(store, loader)
    length = _stated_length(loader.dataset)
    return SampleSource(
        store,
        loader.collate_fn,
        rebuilder(loader),
        base_batch_size=loader.batch_size,
        worker_copies=copies_of(loader),
        ceiling=None if length is None else length // share,
        notes=(Caveat("batches.stream", is_length_known=length is not None),),
        **options.of_samples(),
    )


def _stated_length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def _require_one(store: Store, loader: Any) -> None:
    if not store.available(1):
        raise CannotBuildBatch(empty_loader(loader))


class Whole:
    """The batches that a dataset makes itself, read in this process without the loader."""

    def __init__(self, loader: DataLoader[Any], sampler: Any) -> None:
        self._loader = loader
        self._sampler = sampler

    def __iter__(self) -> Any:
        convert = self._loader.collate_fn
        if isinstance(self._loader.dataset, IterableDataset):
            return (convert(batch) for batch in self._loader.dataset)
        indices = private_copy({"s": self._sampler}, self._loader.dataset)["s"]
        return (convert(self._loader.dataset[index]) for index in indices)


def from_batches(
    batches: Iterable[Batch],
    options: Options,
    base: int | None,
    notes: tuple[Caveat, ...],
    loader: Any = None,
) -> SampleSource:
    """A source over batches that something else makes, cut into rows and joined."""
    axis = options.batch_dim or 0
    with seeded(options.seed):
        first = list(itertools.islice(iter(batches), 2))
    if not first:
        raise CannotBuildBatch(empty_loader(loader if loader is not None else batches))
    cutting = Cutting.of(first, axis, options.count)

    def start() -> Iterator[Batch]:
        for batch in batches:
            yield from cutting.rows(batch)

    store = Streamed(
        options.part.of_stream(start)[0], cutting.join, options.seed, patience=options.patience
    )
    return SampleSource(
        store,
        cutting.join,
        rebuilder(loader if loader is not None else batches),
        base_batch_size=base or cutting.count(first[0]),
        notes=notes or (Caveat("batches.cut"),),
        **options.of_samples(),
    )
