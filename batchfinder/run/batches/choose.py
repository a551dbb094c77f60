"""Which kind of source stands behind a loader."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import IterableDataset, WeightedRandomSampler, default_collate

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch, Clock
from batchfinder.run.batches.cutting import Cutting
from batchfinder.run.batches.describe import Described, Kind, describe, named_size, size_of_batches
from batchfinder.run.batches.factory import FactorySource
from batchfinder.run.batches.indexed import Indexed
from batchfinder.run.batches.lengths import Lengths
from batchfinder.run.batches.reading import StreamedByWorkers, reader_for
from batchfinder.run.batches.rebuild import at_size
from batchfinder.run.batches.requests import Indexing, Served
from batchfinder.run.batches.samplers import (
    batch_size_of,
    indices_of,
    length_of,
    observed_batch_size,
    private_copy,
    sampler_in,
    token_budget,
)
from batchfinder.run.batches.source import SampleSource
from batchfinder.run.batches.stores import Patience, Rows, copies_of, table_behind
from batchfinder.run.batches.streamed import Streamed
from batchfinder.run.batches.tokens import TokenSource
from batchfinder.run.randomness import seeded
from batchfinder.run.ranks import WHOLE, OwnPart
from batchfinder.run.tree import MAKE_LOADER
from batchfinder.wording import Caveat

__all__ = ["Source", "source_from"]

Source = SampleSource | TokenSource | FactorySource


@dataclass(frozen=True)
class _Options:
    """What every source is made with."""

    common: dict[str, Any]
    looking_seconds: float | None
    patience: Patience
    part: OwnPart

    def source(
        self, store: Any, collate: Callable[[list[Any]], Batch], described: Described, **more: Any
    ) -> SampleSource:
        """Single samples of ``store``, and the user's loader at any size beside them."""
        notes = more.pop("notes", ())
        if described.is_bare:
            notes = (*notes, Caveat("batches.of_dataset"))
            more["base_batch_size"] = None
        rebuild = partial(at_size, described, private=True)
        settings = {**self.common, "patience_seconds": self.looking_seconds, **more}
        return SampleSource(store, collate, rebuild, notes=notes, **settings)


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
    clock: Clock = time.perf_counter,
    part: OwnPart = WHOLE,
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
        clock: seconds; a fake one in tests.
        part: which samples are this rank's.

    Raises:
        CannotBuildBatch: where the loader is empty, can be read only once, or is no loader.
    """
    common: dict[str, Any] = {
        "seed": seed,
        "allow_repeats": allow_repeats,
        "batch_dim": batch_dim,
        "count": count,
    }
    if make_loader is not None:
        base = size_of_batches(loader, count)
        return FactorySource(make_loader, base_batch_size=base, **common)
    options = _Options(common, patience_seconds, Patience(seconds_left, on_read, clock), part)
    described = describe(loader)
    if described.kind is Kind.INDEXED:
        return _by_index(described, options)
    if described.kind is Kind.STREAM:
        return _from_stream(described, options)
    return _from_batches(described, options)


def _by_index(described: Described, options: _Options) -> Source:
    """A source over a dataset read by index, or over a table."""
    loader, batching = described.loader, described.batching
    sampler = sampler_in(batching)
    with seeded(options.common["seed"]):
        every = indices_of(sampler if sampler is not None else batching, described.dataset)
        indices = options.part.of_indices(every)
    if not len(indices):
        raise CannotBuildBatch(_is_empty(described))
    budget = token_budget(batching)
    base = budget[1] if budget else batch_size_of(batching) or observed_batch_size(batching)
    weights = None
    if isinstance(sampler, WeightedRandomSampler):
        weights = sampler.weights[torch.as_tensor(indices)].double()
    reads: dict[str, Any] = {"weights": weights, "patience": options.patience}
    common: dict[str, Any] = {
        "base_batch_size": base,
        "worker_copies": copies_of(loader),
        "ceiling": length_of(sampler, len(indices)),
    }
    seed, is_batched = options.common["seed"], described.batch_sampler is not None
    if budget is None:
        drops = getattr(described.batch_sampler, "drop_last", loader.drop_last)
        if drops and base is not None and len(indices) < base:
            common["notes"] = (Caveat("batches.none_at_all", base=base, count=len(indices)),)
        table = table_behind(loader) if is_batched else None
        if table is not None:
            rows = Rows(table, indices, seed, **reads)
            return options.source(rows, default_collate, described, lengths=Lengths(), **common)
    indexing = Indexing.BY_LIST
    if is_batched:
        has_many = getattr(loader.dataset, "__getitems__", None)
        indexing = Indexing.MANY if has_many else Indexing.ONE_BY_ONE
    reader = reader_for(loader, Served(loader.dataset, loader.collate_fn, indexing))
    store = Indexed(reader, indices, seed, base=None if budget else base, **reads)
    source = options.source(store, loader.collate_fn, described, **common)
    if budget is None:
        return source
    return TokenSource(source, allow_repeats=options.common["allow_repeats"])


def _from_stream(described: Described, options: _Options) -> SampleSource:
    """A source over a loader of a stream of samples."""
    loader, dataset = described.loader, described.dataset
    if hasattr(dataset, "__next__") or iter(dataset) is iter(dataset):
        raise CannotBuildBatch(
            f"expected a dataset that can be read more than once; {type(dataset).__name__} "
            f"returns the same iterator every time, which reading would exhaust: {MAKE_LOADER}"
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
        options.common["seed"],
        patience=options.patience,
        said=said,
        burst=by_workers.burst,
    )
    if not store.available(1):
        raise CannotBuildBatch(_is_empty(described))
    try:
        length: int | None = len(dataset)
    except (TypeError, NotImplementedError):
        length = None
    return options.source(
        store,
        loader.collate_fn,
        described,
        base_batch_size=loader.batch_size,
        worker_copies=copies_of(loader),
        ceiling=None if length is None else length // share,
        notes=(Caveat("batches.stream", is_length_known=length is not None),),
    )


def _from_batches(described: Described, options: _Options) -> SampleSource:
    """A source over batches that something else makes, cut into rows and joined."""
    axis, seed = options.common["batch_dim"] or 0, options.common["seed"]
    batches, base, note = described.loader, None, Caveat("batches.cut")
    if described.kind is Kind.DATASET_BATCHES:
        batches, note = _Whole(described), Caveat("batches.by_dataset")
    else:
        base = named_size(described.loader)
    with seeded(seed):
        first = list(itertools.islice(iter(batches), 2))
    if not first:
        raise CannotBuildBatch(_is_empty(described))
    cutting = Cutting.of(first, axis, options.common["count"])

    def start() -> Iterator[Batch]:
        for batch in batches:
            yield from cutting.rows(batch)

    store = Streamed(
        options.part.of_stream(start)[0], cutting.join, seed, patience=options.patience
    )
    base = base or cutting.count(first[0])
    return options.source(store, cutting.join, described, base_batch_size=base, notes=(note,))


class _Whole:
    """The batches that a dataset makes itself, read in this process without the loader."""

    def __init__(self, described: Described) -> None:
        self._loader, self._dataset = described.loader, described.dataset
        self._sampler = private_copy({"s": described.sampler}, self._dataset)["s"]

    def __iter__(self) -> Any:
        convert = self._loader.collate_fn
        if isinstance(self._dataset, IterableDataset):
            return (convert(batch) for batch in self._dataset)
        indices = private_copy({"s": self._sampler}, self._dataset)["s"]
        return (convert(self._dataset[index]) for index in indices)


def _is_empty(described: Described) -> str:
    """The message where a loader has no samples."""
    dataset = described.loader if described.dataset is None else described.dataset
    return (
        f"expected a loader with samples; found an empty one ({type(dataset).__name__}): "
        f"{MAKE_LOADER}"
    )
