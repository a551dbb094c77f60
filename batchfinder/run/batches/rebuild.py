"""The user's loader at another batch size: everything else as it was."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from batchfinder.errors import CannotBuildBatch, InvalidArgument
from batchfinder.protocols import Batch
from batchfinder.run.batches.cutting import Rebatched
from batchfinder.run.batches.order import EAGER, Shuffled
from batchfinder.run.batches.randomness import seeded
from batchfinder.run.batches.samplers import private_copy, resized
from batchfinder.run.batches.structure import MAKE_LOADER, leaves

__all__ = [
    "checked_size",
    "inner_loader",
    "is_batched",
    "is_dataset",
    "is_one_shot",
    "loader_over",
    "rebuild_loader",
    "unwrapped",
]

_NOT_BATCHING = {"sampler", "batch_sampler", "batch_size", "drop_last", "generator"}
_HELD_AS = ("loader", "dataloader", "data_loader", "_loader", "_dataloader", "base_dataloader")
_NEED_WORKERS = {"prefetch_factor", "persistent_workers", "multiprocessing_context"}


def rebuild_loader(
    loader: Any,
    size: int,
    *,
    make_loader: Callable[[int], Iterable[Batch]] | None = None,
    private: bool = False,
) -> Iterable[Batch]:
    """``loader`` with batches of ``size``: same dataset, collate function, order and workers.

    Args:
        loader: a ``DataLoader``, a dataset, or an iterable of batches that can be iterated again.
        size: samples per batch (tokens, under a token budget).
        make_loader: builds the loader in place of all this.
        private: with copies of sampler and generator, so that iterating leaves the user's alone.

    Raises:
        CannotBuildBatch: where the loader can be read only once, or hides how it makes batches.
        InvalidArgument: where ``size`` is below 1.
    """
    size = checked_size(size)
    if make_loader is not None:
        return make_loader(size)
    loader = unwrapped(loader)
    if isinstance(loader, DataLoader):
        return _rebuilt(loader, size, private)
    if is_dataset(loader):
        return loader_over(loader, size)
    check_iterable(loader)
    return Rebatched(loader, size)


def unwrapped(loader: Any) -> Any:
    """The loader inside one that only moves its batches to a device, as Fabric's."""
    inner = getattr(loader, "_dataloader", None)
    return inner if isinstance(inner, DataLoader) and not isinstance(loader, DataLoader) else loader


def checked_size(size: int) -> int:
    """``size`` as a Python int, which is all that a ``DataLoader`` takes."""
    if int(size) != size or size < 1:
        raise InvalidArgument(
            f"expected a batch size of at least 1; found {size!r}: pass the number of samples"
        )
    return int(size)


def loader_over(dataset: Any, size: int) -> DataLoader[Any]:
    """The loader of a dataset that was given by itself: shuffled, collated by default."""
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=size)
    if len(dataset) > EAGER:
        return DataLoader(dataset, batch_size=size, sampler=Shuffled(len(dataset)))
    return DataLoader(dataset, batch_size=size, shuffle=True)


def is_dataset(candidate: Any) -> bool:
    """Whether this is a dataset rather than a loader: samples, not batches."""
    if isinstance(candidate, IterableDataset):
        return not _yields_batches(candidate)
    return isinstance(candidate, Dataset) or hasattr(candidate, "__getitems__")


def _yields_batches(stream: Any) -> bool:
    """Whether an iterable dataset is itself a loader, as webdataset's is.

    One that holds a ``DataLoader``, or whose first item is of parts that agree in their first
    dimension, some of one dimension and some of more: inputs and targets of several samples.
    """
    if is_one_shot(stream) or inner_loader(stream) is not None:
        return True
    with seeded(0):
        iterator = iter(stream)
        if iterator is iter(stream):
            return False
        first = next(iterator, None)
    shapes = [leaf.shape for _, leaf in leaves(first) if hasattr(leaf, "shape")]
    sizes = {tuple(shape[:1]) for shape in shapes}
    return len(sizes) == 1 and () not in sizes and len({len(shape) for shape in shapes}) > 1


def inner_loader(wrapper: Any, depth: int = 3) -> DataLoader[Any] | None:
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
    found = (inner_loader(each, depth - 1) for each in named if each is not None)
    return next((each for each in found if each is not None), None)


def is_one_shot(iterable: Any) -> bool:
    """Whether iterating once uses it up, as a generator."""
    return hasattr(iterable, "__next__")


def is_batched(loader: DataLoader[Any]) -> bool:
    """Whether the loader itself makes batches, or hands on what its dataset makes."""
    return loader.batch_sampler is not None or _indexes_by_batch(loader)


def _indexes_by_batch(loader: DataLoader[Any]) -> bool:
    """The idiom ``DataLoader(dataset, sampler=BatchSampler(...), batch_size=None)``."""
    if loader.batch_sampler is not None or isinstance(loader.dataset, IterableDataset):
        return False
    return isinstance(getattr(loader.sampler, "batch_size", None), int)


def check_iterable(loader: Any) -> None:
    """Refuse what cannot be read, or can be read only once.

    Raises:
        CannotBuildBatch: naming the way out.
    """
    if is_one_shot(loader):
        raise CannotBuildBatch(
            f"expected a loader that can be read more than once; found a "
            f"{type(loader).__name__}, which reading would use up: {MAKE_LOADER}"
        )
    if isinstance(loader, Mapping) or hasattr(loader, "iterables"):
        raise CannotBuildBatch(
            f"expected one loader; found several in one {type(loader).__name__}, whose batches "
            "belong together in a way that cannot be seen: pass make_loader=lambda batch_size: "
            "..., which builds them all, and count=lambda batch: ..., which counts the samples"
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


def _rebuilt(loader: DataLoader[Any], size: int, private: bool) -> Iterable[Batch]:
    parts = _batching(loader, private)
    if loader.batch_sampler is None and not _indexes_by_batch(loader):
        return Rebatched(loader, size)
    changes = _resized_parts(loader, parts, size)
    with warnings.catch_warnings():  # of many workers, say: the user has been told already
        warnings.filterwarnings("ignore", module="torch.utils.data")
        return _made(loader, size, changes, private)


def _made(
    loader: DataLoader[Any], size: int, changes: dict[str, Any], private: bool
) -> DataLoader[Any]:
    if type(loader) is DataLoader:
        return DataLoader(**_arguments(loader), **changes)
    if hasattr(loader, "load_state_dict"):
        return type(loader)(**_own_arguments(loader, changes))
    return _clone(loader, size, changes, private)


def _own_arguments(loader: DataLoader[Any], changes: dict[str, Any]) -> dict[str, Any]:
    """For a loader that counts its batches: built anew, since its count is of another size."""
    every = {**_arguments(loader), **changes}
    known = set(inspect.signature(DataLoader).parameters)
    own = set(inspect.signature(type(loader)).parameters) - known
    return {**every, **{name: getattr(loader, name) for name in own if hasattr(loader, name)}}


def _batching(loader: DataLoader[Any], private: bool) -> dict[str, Any]:
    """Sampler, batch sampler and generator: the user's own, or copies that draw the same."""
    parts = {
        "sampler": loader.sampler,
        "batch_sampler": loader.batch_sampler,
        "generator": loader.generator,
    }
    return private_copy(parts, loader.dataset) if private else parts


def _resized_parts(loader: DataLoader[Any], parts: dict[str, Any], size: int) -> dict[str, Any]:
    """The constructor's arguments that say how samples become batches."""
    generator = {"generator": parts["generator"]}
    if isinstance(loader.dataset, IterableDataset):
        return {"batch_size": size, "drop_last": loader.drop_last, **generator}
    if _indexes_by_batch(loader):
        return {"batch_size": None, "sampler": resized(parts["sampler"], size), **generator}
    if loader.batch_size is not None:
        drop = loader.drop_last
        return {"batch_size": size, "sampler": parts["sampler"], "drop_last": drop, **generator}
    return {"batch_sampler": resized(parts["batch_sampler"], size), **generator}


def _arguments(loader: DataLoader[Any]) -> dict[str, Any]:
    """What the constructor was given, apart from how samples become batches."""
    names = set(inspect.signature(DataLoader.__init__).parameters)
    names -= {"self", "shuffle", "pin_memory_device"} | _NOT_BATCHING
    if loader.num_workers == 0:
        names -= _NEED_WORKERS
    return {name: getattr(loader, name) for name in names if hasattr(loader, name)}


def _clone(
    loader: DataLoader[Any], size: int, changes: dict[str, Any], private: bool
) -> DataLoader[Any]:
    """A subclass, copied shallowly with its batches replaced.

    Its constructor is not called again: it may hide its arguments, shuffle by a default of its
    own, or load the data anew.
    """
    twin = copy.copy(loader)
    plain = DataLoader(**_arguments(loader), **changes)
    batching = {name: vars(plain)[name] for name in ("sampler", "batch_sampler", "generator")}
    vars(twin).update(batching, batch_size=plain.batch_size, _iterator=None)
    for name, inner in vars(loader).items():
        if isinstance(inner, DataLoader):
            vars(twin)[name] = rebuild_loader(inner, size, private=private)
    return twin
