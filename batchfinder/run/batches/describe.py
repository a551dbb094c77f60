"""What a loader is made of, asked once: its kind, its samples, and how it makes batches of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.batches.counting import count_of
from batchfinder.run.batches.order import EAGER, Shuffled
from batchfinder.run.batches.samplers import batch_size_of, observed_batch_size
from batchfinder.run.randomness import seeded
from batchfinder.run.tree import MAKE_LOADER, leaves

__all__ = ["Described", "Kind", "describe", "loader_over", "named_size", "size_of_batches"]

_HELD_AS = ("loader", "dataloader", "data_loader", "_loader", "_dataloader", "base_dataloader")


class Kind(Enum):
    """What can be had of a loader."""

    INDEXED = "samples by their index"
    STREAM = "samples in sequence"
    DATASET_BATCHES = "batches that the data set makes, which a DataLoader hands on"
    BATCHES = "batches that something else makes"


@dataclass(frozen=True)
class Described:
    """A loader taken apart. Nothing of it is read; ``loader`` is what all of it was read from.

    Everything below ``kind`` is a ``DataLoader``'s.
    """

    loader: Any
    kind: Kind
    dataset: Any = None
    sampler: Any = None
    batch_sampler: Any = None
    batching: Any = None
    """What makes batches of indices: the batch sampler, or a sampler in its place."""
    is_bare: bool = False
    """Whether a data set was given without a loader: batching and order are then ours."""
    indexes_by_batch: bool = False
    """The idiom ``DataLoader(dataset, sampler=BatchSampler(...), batch_size=None)``."""


def describe(loader: Any) -> Described:
    """What ``loader`` is: a ``DataLoader``, a data set, or an iterable of batches.

    Raises:
        CannotBuildBatch: where it can be read only once, or is none of these.
    """
    inner = getattr(loader, "_dataloader", None)
    if isinstance(inner, DataLoader) and not isinstance(loader, DataLoader):
        loader = inner  # of one that only moves its batches to a device, as Fabric's
    if isinstance(loader, DataLoader):
        return _of_data_loader(loader)
    if _is_dataset(loader):
        return replace(_of_data_loader(loader_over(loader, 1)), is_bare=True)
    _refuse_unreadable(loader)
    return Described(loader, Kind.BATCHES)


def _of_data_loader(loader: DataLoader[Any]) -> Described:
    is_stream = isinstance(loader.dataset, IterableDataset)
    is_batched = loader.batch_sampler is not None
    by_batch = (
        not is_batched
        and not is_stream
        and isinstance(getattr(loader.sampler, "batch_size", None), int)
    )
    kind = Kind.STREAM if is_stream else Kind.INDEXED
    return Described(
        loader,
        kind if is_batched or by_batch else Kind.DATASET_BATCHES,
        dataset=loader.dataset,
        sampler=loader.sampler,
        batch_sampler=loader.batch_sampler,
        batching=loader.batch_sampler if is_batched else loader.sampler,
        indexes_by_batch=by_batch,
    )


def loader_over(dataset: Any, size: int) -> DataLoader[Any]:
    """The loader of a dataset that was given by itself: shuffled, collated by default."""
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=size)
    if len(dataset) > EAGER:
        return DataLoader(dataset, batch_size=size, sampler=Shuffled(len(dataset)))
    return DataLoader(dataset, batch_size=size, shuffle=True)


def named_size(loader: Any) -> int | None:
    """The batch size that a loader names, or one inside it, or its batch sampler; else ``None``."""
    for candidate in (loader, _inner_loader(loader)):
        size = getattr(candidate, "batch_size", None)
        if isinstance(size, int) and size > 0:
            return size
    for candidate in (loader, _inner_loader(loader)):
        if isinstance(candidate, DataLoader) and candidate.batch_sampler is not None:
            sampler = candidate.batch_sampler
            return batch_size_of(sampler) or observed_batch_size(sampler)
    return None


def size_of_batches(loader: Any, count: Callable[[Batch], int] | None) -> int | None:
    """The size that a loader names, or a loader inside it; else that of a list's first batch."""
    named = named_size(loader)
    if named is not None or not isinstance(loader, (list, tuple)) or not loader:
        return named
    return int(count(loader[0])) if count is not None else count_of(loader[0], None)


def _is_dataset(candidate: Any) -> bool:
    """Whether this is a dataset rather than a loader: samples, not batches."""
    if isinstance(candidate, IterableDataset):
        return not _yields_batches(candidate)
    return isinstance(candidate, Dataset) or hasattr(candidate, "__getitems__")


def _yields_batches(stream: Any) -> bool:
    """Whether an iterable dataset is itself a loader, as webdataset's is.

    One that holds a ``DataLoader``, or whose first item is of parts that agree in their first
    dimension, some of one dimension and some of more: inputs and targets of several samples.
    """
    if hasattr(stream, "__next__") or _inner_loader(stream) is not None:
        return True
    with seeded(0):
        iterator = iter(stream)
        if iterator is iter(stream):
            return False
        first = next(iterator, None)
    shapes = [leaf.shape for _, leaf in leaves(first) if hasattr(leaf, "shape")]
    sizes = {tuple(shape[:1]) for shape in shapes}
    return len(sizes) == 1 and () not in sizes and len({len(shape) for shape in shapes}) > 1


def _inner_loader(wrapper: Any, depth: int = 3) -> DataLoader[Any] | None:
    """The ``DataLoader`` that a wrapper holds, as timm's, Fabric's and webdataset's do."""
    if isinstance(wrapper, DataLoader):
        return wrapper
    if not depth or isinstance(wrapper, (torch.nn.Module, torch.Tensor)):
        return None
    held = getattr(wrapper, "__dict__", None) or {}
    inside = [
        part
        for value in held.values()
        for part in (value if isinstance(value, (list, tuple)) and len(value) < 9 else [value])
    ]
    loaders = [part for part in inside if isinstance(part, DataLoader)]
    if loaders:
        return loaders[0]
    named = (held.get(name) for name in _HELD_AS)
    found = (_inner_loader(each, depth - 1) for each in named if each is not None)
    return next((each for each in found if each is not None), None)


def _refuse_unreadable(loader: Any) -> None:
    if hasattr(loader, "__next__"):
        raise CannotBuildBatch(
            f"expected a loader that can be read more than once; found a "
            f"{type(loader).__name__}, which reading would exhaust: {MAKE_LOADER}"
        )
    if isinstance(loader, Mapping) or hasattr(loader, "iterables"):
        raise CannotBuildBatch(
            f"expected one loader; found several in one {type(loader).__name__}, whose batches "
            "belong together in an unknown way: pass make_loader=lambda batch_size: "
            "..., which builds all of them, and count=lambda batch: ..., which counts the samples"
        )
    if not hasattr(loader, "__iter__") or isinstance(loader, (str, bytes)):
        raise CannotBuildBatch(
            "expected a DataLoader, a dataset or an iterable of batches; found "
            f"{type(loader).__name__}: {MAKE_LOADER}"
        )
    if hasattr(loader, "ndim"):
        raise CannotBuildBatch(
            f"expected a DataLoader, a dataset or an iterable of batches; found one "
            f"{type(loader).__name__}: wrap it in torch.utils.data.TensorDataset"
        )
