"""Which kind of source stands behind a loader."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler, default_collate

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch, Clock
from batchfinder.run.batches.counting import count_of
from batchfinder.run.batches.factory import FactorySource
from batchfinder.run.batches.host import copies_of
from batchfinder.run.batches.indexed import Indexed
from batchfinder.run.batches.iterables import (
    Options,
    Whole,
    empty_loader,
    from_batches,
    from_stream,
    rebuilder,
)
from batchfinder.run.batches.lengths import Lengths
from batchfinder.run.batches.randomness import seeded
from batchfinder.run.batches.reading import reader_for
from batchfinder.run.batches.rebuild import (
    check_iterable,
    inner_loader,
    is_batched,
    is_dataset,
    loader_over,
    unwrapped,
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
from batchfinder.run.batches.stores import Patience
from batchfinder.run.batches.tables import Rows, table_behind
from batchfinder.run.batches.tokens import TokenSource
from batchfinder.run.ranks import WHOLE, OwnPart
from batchfinder.wording import Caveat

__all__ = ["Source", "source_from"]

Source = SampleSource | TokenSource | FactorySource


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
    patience = Patience(seconds_left, on_read, clock)
    options = Options(seed, allow_repeats, batch_dim, count, patience, patience_seconds, part)
    loader = unwrapped(loader)
    if make_loader is not None:
        base = _base_of(loader, options.count)
        return FactorySource(make_loader, base_batch_size=base, **options.common())
    if isinstance(loader, DataLoader):
        return _from_data_loader(loader, options)
    if is_dataset(loader):
        return _from_dataset(loader, options)
    check_iterable(loader)
    return from_batches(loader, options, _named_size(loader), ())


def _base_of(loader: Any, count: Callable[[Batch], int] | None) -> int | None:
    """The size that a loader names, or a loader inside it; else that of a list's first batch."""
    named = _named_size(loader)
    if named is not None or not isinstance(loader, (list, tuple)) or not loader:
        return named
    return int(count(loader[0])) if count is not None else count_of(loader[0], None)


def _named_size(loader: Any) -> int | None:
    for candidate in (loader, inner_loader(loader)):
        size = getattr(candidate, "batch_size", None)
        if isinstance(size, int) and size > 0:
            return size
    if isinstance(loader, DataLoader) and loader.batch_sampler is not None:
        return batch_size_of(loader.batch_sampler) or observed_batch_size(loader.batch_sampler)
    return None


def _from_data_loader(loader: DataLoader[Any], options: Options) -> Source:
    if not is_batched(loader):
        note = Caveat("batches.by_dataset")
        private = private_copy({"sampler": loader.sampler}, loader.dataset)["sampler"]
        batches = Whole(loader, private)
        return from_batches(batches, options, None, (note,), loader)
    if isinstance(loader.dataset, IterableDataset):
        return from_stream(loader, options)
    return _from_indexed(loader, options)


def _from_indexed(loader: DataLoader[Any], options: Options) -> Source:
    batching = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    sampler = getattr(batching, "sampler", None)
    with seeded(options.seed):
        every = indices_of(sampler if sampler is not None else batching, loader.dataset)
        indices = options.part.of_indices(every)
    if not len(indices):
        raise CannotBuildBatch(empty_loader(loader))
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
                rows, default_collate, rebuilder(loader), lengths=Lengths(), **common
            )
    served = Served(loader.dataset, loader.collate_fn, _indexing(loader))
    reader = reader_for(loader, served)
    store = Indexed(reader, indices, options.seed, base=None if budget else base, **reads)
    source = SampleSource(store, loader.collate_fn, rebuilder(loader), **common)
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


def _drop_last_note(loader: Any, base: int | None, count: int) -> tuple[Caveat, ...]:
    drops = getattr(loader.batch_sampler, "drop_last", loader.drop_last)
    if not drops or base is None or count >= base:
        return ()
    return (Caveat("batches.none_at_all", base=base, count=count),)


def _from_dataset(dataset: Any, options: Options) -> Source:
    source = _from_data_loader(loader_over(dataset, 1), options)
    source.restate(base_batch_size=None, note=Caveat("batches.of_dataset"))
    return source
