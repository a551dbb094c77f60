"""The user's loader at another batch size, and its arguments as text to paste."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import Batch
from batchfinder.run.batches.cutting import Rebatched
from batchfinder.run.batches.describe import Described, Kind, describe
from batchfinder.run.batches.samplers import private_copy, resized
from batchfinder.run.torch_internals.objects import draws_all

__all__ = ["at_size", "loader_arguments", "rebuild_loader"]


_NOT_BATCHING = {"sampler", "batch_sampler", "batch_size", "drop_last", "generator"}
_NEED_WORKERS = {"prefetch_factor", "persistent_workers", "multiprocessing_context"}


def rebuild_loader(
    loader: Any,
    size: int,
    *,
    make_loader: Callable[[int], Iterable[Batch]] | None = None,
) -> Iterable[Batch]:
    """``loader`` with batches of ``size``: same dataset, collate function, order and workers.

    Args:
        loader: a ``DataLoader``, a dataset, or an iterable of batches that can be iterated again.
        size: samples per batch (tokens, under a token budget).
        make_loader: builds the loader in place of all this.

    Raises:
        CannotBuildBatch: where the loader can be read only once, or hides how it makes batches.
        InvalidArgument: where ``size`` is below 1.
    """
    if make_loader is not None:
        return make_loader(_checked(size))
    return at_size(describe(loader), size)


def _checked(size: int) -> int:
    """``size`` as a Python int, which is all that a ``DataLoader`` takes."""
    if int(size) != size or size < 1:
        raise InvalidArgument(
            f"expected a batch size of at least 1; found {size!r}: pass the number of samples"
        )
    return int(size)


def at_size(described: Described, size: int, *, private: bool = False) -> Iterable[Batch]:
    """The loader at another size.

    Args:
        described: the loader.
        size: samples per batch (tokens, under a token budget).
        private: with copies of sampler and generator, so that iterating leaves the user's alone.
    """
    loader, size = described.loader, _checked(size)
    if described.kind in (Kind.BATCHES, Kind.DATASET_BATCHES):
        return Rebatched(loader, size)
    changes = _batching(described, size, private)
    with warnings.catch_warnings():  # of many workers, say: the user has been told already
        warnings.filterwarnings("ignore", module="torch.utils.data")
        if type(loader) is DataLoader:
            return DataLoader(**_arguments(loader), **changes)
        if not hasattr(loader, "load_state_dict"):
            return _clone(loader, size, changes, private)
        # One that counts its batches is built anew, since its count is of another size
        every = {**_arguments(loader), **changes}
        known = set(inspect.signature(DataLoader).parameters)
        own = set(inspect.signature(type(loader)).parameters) - known
        kept = {name: getattr(loader, name) for name in own if hasattr(loader, name)}
        anew: DataLoader[Any] = type(loader)(**every, **kept)
        return anew


def _batching(described: Described, size: int, private: bool) -> dict[str, Any]:
    """The constructor's arguments that say how samples become batches."""
    loader = described.loader
    parts = {
        "sampler": described.sampler,
        "batch_sampler": described.batch_sampler,
        "generator": loader.generator,
    }
    if private:
        parts = private_copy(parts, described.dataset)
    generator = {"generator": parts["generator"]}
    if described.kind is Kind.STREAM:
        return {"batch_size": size, "drop_last": loader.drop_last, **generator}
    if described.indexes_by_batch:
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
            vars(twin)[name] = at_size(describe(inner), size, private=private)
    return twin


_PLAIN = ("num_workers", "pin_memory", "timeout", "prefetch_factor", "persistent_workers")
_OBJECTS = ("worker_init_fn", "multiprocessing_context", "generator")


def loader_arguments(loader: Any) -> tuple[tuple[str, str], ...] | None:
    """Names and values of all but the dataset and the batch size, defaults left out.

    Objects are taken from the user's loader: ``collate_fn=loader.collate_fn``. ``None`` where one
    ``DataLoader(...)`` says not enough: another loader, or batches by a sampler of the user's own.
    """
    if type(loader) is not DataLoader or loader.batch_size is None:
        return None
    given = [*_order(loader)]
    if loader.drop_last:
        given.append(("drop_last", "True"))
    defaults = {"timeout": 0, "num_workers": 0, "pin_memory": False, "persistent_workers": False}
    if loader.num_workers:
        defaults["prefetch_factor"] = 2
    for name in _PLAIN:
        value = getattr(loader, name)
        if value is not None and value != defaults.get(name):
            given.append((name, repr(value)))
    if loader.collate_fn not in (default_collate, default_convert):
        given.append(("collate_fn", "loader.collate_fn"))
    given += [
        (name, f"loader.{name}") for name in _OBJECTS if getattr(loader, name, None) is not None
    ]
    return tuple(given)


def _order(loader: DataLoader[Any]) -> list[tuple[str, str]]:
    sampler: Any = loader.sampler
    if isinstance(loader.dataset, IterableDataset) or type(sampler) is SequentialSampler:
        return []
    plain = type(sampler) is RandomSampler and not sampler.replacement
    if plain and draws_all(sampler) and sampler.generator is loader.generator:
        return [("shuffle", "True")]
    return [("sampler", "loader.sampler")]
