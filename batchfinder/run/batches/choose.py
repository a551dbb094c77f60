"""Which kind of source stands behind a loader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler, default_collate

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.batches.factory import FactorySource
from batchfinder.run.batches.host import copies_of
from batchfinder.run.batches.indexed import Indexed
from batchfinder.run.batches.lengths import Lengths
from batchfinder.run.batches.randomness import seeded
from batchfinder.run.batches.reading import StreamedByWorkers, reader_for
from batchfinder.run.batches.rebuild import (
    check_iterable,
    is_batched,
    is_dataset,
    is_one_shot,
    rebuild_loader,
)
from batchfinder.run.batches.requests import Indexing, Served
from batchfinder.run.batches.samplers import (
    batch_size_of,
    indices_of,
    length_of,
    observed_batch_size,
    private_copy,
    token_budget,
)
from batchfinder.run.batches.source import SampleSource
from batchfinder.run.batches.stores import Patience, Store
from batchfinder.run.batches.streamed import Streamed, rows_of
from batchfinder.run.batches.structure import MAKE_LOADER, join, rows_in
from batchfinder.run.batches.tables import Rows, table_behind
from batchfinder.run.batches.tokens import TokenSource

__all__ = ["Source", "source_from"]

Source = SampleSource | TokenSource | FactorySource


@dataclass(frozen=True)
class _Options:
    seed: int
    allow_repeats: bool
    batch_dim: int | None
    count: Callable[[Batch], int] | None
    patience: Patience
    looking_seconds: float | None = None

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


def source_from(
    loader: Any,
    *,
    make_loader: Callable[[int], Iterable[Batch]] | None = None,
    seed: int = 0,
    allow_repeats: bool = False,
    batch_dim: int | None = None,
    count: Callable[[Batch], int] | None = None,
    patience_seconds: float | None = None,
    seconds_left: Callable[[], float] = lambda: math.inf,
    on_read: Callable[[int, int], None] | None = None,
) -> Source:
    """The user's loader as batches of any size; the loader itself is never read or changed.

    Args:
        loader: a ``DataLoader``, a dataset, or an iterable of batches that can be iterated again.
        make_loader: builds the loader at any size; used in place of taking ``loader`` apart.
        seed: makes fixed batches and draws repeatable.
        allow_repeats: lets a fixed batch be larger than the dataset, by repeating samples.
        batch_dim: the dimension along which a batch counts samples; found where left out.
        count: how many samples a batch holds; found where left out.
        patience_seconds: how long samples may be looked at beforehand, softly.
        seconds_left: asked before samples are read. Once it is 0 fixed batches repeat the samples
            that were read, and ``draw`` raises ``OutOfTime``.
        on_read: called with the samples read so far and those under way, after every read.

    Raises:
        CannotBuildBatch: where the loader is empty, can be read only once, or is no loader.
    """
    patience = Patience(seconds_left, on_read)
    options = _Options(seed, allow_repeats, batch_dim, count, patience, patience_seconds)
    if make_loader is not None:
        return FactorySource(make_loader, base_batch_size=_base_of(loader), **options.common())
    if isinstance(loader, DataLoader):
        return _from_data_loader(loader, options)
    if is_dataset(loader):
        return _from_dataset(loader, options)
    check_iterable(loader)
    return _from_batches(loader, options, _base_of(loader), ())


def _base_of(loader: Any) -> int | None:
    size = getattr(loader, "batch_size", None)
    return size if isinstance(size, int) and size > 0 else None


def _from_data_loader(loader: DataLoader[Any], options: _Options) -> Source:
    if not is_batched(loader):
        note = (
            "The loader hands on batches that its dataset makes (batch_size=None); other sizes "
            "were cut and joined from those."
        )
        private = private_copy({"sampler": loader.sampler}, loader.dataset)["sampler"]
        batches = _Whole(loader, private)
        return _from_batches(batches, options, None, (note,), loader)
    if isinstance(loader.dataset, IterableDataset):
        return _from_stream(loader, options)
    return _from_indexed(loader, options)


def _rebuilder(loader: Any) -> Callable[[int], Iterable[Batch]]:
    return lambda size: rebuild_loader(loader, size, private=True)


def _from_indexed(loader: DataLoader[Any], options: _Options) -> Source:
    batching = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    sampler = getattr(batching, "sampler", None)
    with seeded(options.seed):
        indices = indices_of(sampler if sampler is not None else batching, loader.dataset)
    if not len(indices):
        raise CannotBuildBatch(_empty(loader))
    budget = token_budget(batching)
    base = budget[1] if budget else batch_size_of(batching) or observed_batch_size(batching)
    reads: dict[str, Any] = {
        "weights": _weights(sampler, indices),
        "patience": options.patience,
    }
    common = {
        "base_batch_size": base,
        "worker_copies": copies_of(loader),
        "ceiling": length_of(sampler, len(indices)),
        **options.of_samples(),
    }
    if budget is None:
        common["notes"] = _drop_last_note(loader, base, len(indices))
        table = table_behind(loader) if loader.batch_sampler is not None else None
        if table is not None:
            rows = Rows(table, indices, options.seed, **reads)
            return SampleSource(
                rows, default_collate, _rebuilder(loader), lengths=Lengths(), **common
            )
    served = Served(loader.dataset, loader.collate_fn, _indexing(loader))
    reader = reader_for(loader, served)
    store = Indexed(reader, indices, options.seed, base=None if budget else base, **reads)
    source = SampleSource(store, loader.collate_fn, _rebuilder(loader), **common)
    if budget is None:
        return source
    return TokenSource(source, allow_repeats=options.allow_repeats)


def _indexing(loader: DataLoader[Any]) -> Indexing:
    if loader.batch_sampler is None:
        return Indexing.BY_LIST
    return Indexing.MANY if getattr(loader.dataset, "__getitems__", None) else Indexing.ONE_BY_ONE


def _weights(sampler: Any, indices: Sequence[int]) -> torch.Tensor | None:
    if not isinstance(sampler, WeightedRandomSampler):
        return None
    return sampler.weights[torch.as_tensor(indices)].double()


def _empty(loader: Any) -> str:
    dataset = type(getattr(loader, "dataset", loader)).__name__
    return f"expected a loader with samples; found an empty one ({dataset}): {MAKE_LOADER}"


def _drop_last_note(loader: Any, base: int | None, count: int) -> tuple[str, ...]:
    drops = getattr(loader.batch_sampler, "drop_last", loader.drop_last)
    if not drops or base is None or count >= base:
        return ()
    return (
        f"The loader as it is yields no batch at all: drop_last=True, {base} samples per batch, "
        f"{count} samples.",
    )


def _from_stream(loader: DataLoader[Any], options: _Options) -> SampleSource:
    dataset: Any = loader.dataset
    if is_one_shot(dataset) or iter(dataset) is iter(dataset):
        raise CannotBuildBatch(
            f"expected a dataset that can be read more than once; {type(dataset).__name__} gives "
            f"the same iterator every time, which reading would use up: {MAKE_LOADER}"
        )
    start = StreamedByWorkers(loader) if loader.num_workers else lambda: dataset
    store = Streamed(start, loader.collate_fn, options.seed, patience=options.patience)
    _require_one(store, loader)
    return SampleSource(
        store,
        loader.collate_fn,
        _rebuilder(loader),
        base_batch_size=loader.batch_size,
        worker_copies=copies_of(loader),
        ceiling=_stated_length(loader.dataset),
        notes=(
            "The dataset is a stream: samples were buffered from its start, and its length is "
            "unknown."
            if _stated_length(loader.dataset) is None
            else "The dataset is a stream: samples were buffered from its start.",
        ),
        **options.of_samples(),
    )


def _stated_length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def _require_one(store: Store, loader: Any) -> None:
    if not store.available(1):
        raise CannotBuildBatch(_empty(loader))


def _from_dataset(dataset: Any, options: _Options) -> Source:
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=1, shuffle=not isinstance(dataset, IterableDataset)
    )
    source = _from_data_loader(loader, options)
    source.restate(
        base_batch_size=None,
        note="A dataset was given in place of a loader: batches are collated by default and "
        "shuffled.",
    )
    return source


class _Whole:
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


def _from_batches(
    batches: Iterable[Batch],
    options: _Options,
    base: int | None,
    notes: tuple[str, ...],
    loader: Any = None,
) -> SampleSource:
    axis = options.batch_dim or 0
    store = Streamed(
        rows_of(batches, axis), partial(join, axis=axis), options.seed, patience=options.patience
    )
    _require_one(store, loader if loader is not None else batches)
    if base is None:
        with seeded(options.seed):
            base = rows_in(next(iter(batches)), axis)
    return SampleSource(
        store,
        partial(join, axis=axis),
        _rebuilder(loader if loader is not None else batches),
        base_batch_size=base,
        notes=notes
        or ("The loader is an iterable of batches: other sizes were cut and joined from those.",),
        **options.of_samples(),
    )
