"""Samplers read, copied and resized without disturbing the user's own."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from batchfinder.run.batches.order import Shuffled
from batchfinder.run.randomness import kept

__all__ = [
    "TOKEN_BUDGETS",
    "Chunks",
    "batch_size_of",
    "indices_of",
    "length_of",
    "observed_batch_size",
    "private_copy",
    "resized",
    "sampler_in",
    "token_budget",
]

TOKEN_BUDGETS = (
    "max_tokens",
    "token_budget",
    "tokens_per_batch",
    "max_tokens_per_batch",
    "max_tokens_in_batch",
    "batch_tokens",
)
"""Names under which batch samplers keep how many tokens one batch may hold."""

_INNER = ("batch_sampler", "sampler", "base_sampler", "base_batch_sampler")
_MOST_INDICES = 10_000_000  # a sampler that never ends is read no further than this


def private_copy(parts: dict[str, Any], dataset: Any) -> dict[str, Any]:
    """Copies that draw what the originals would draw next; datasets are shared, not copied.

    What cannot be copied is shared too.
    """
    memo: dict[int, Any] = {id(dataset): dataset}
    for part in parts.values():
        _share_datasets(part, memo)
    return {name: _copied(part, memo) for name, part in parts.items()}


def _share_datasets(part: Any, memo: dict[int, Any], depth: int = 4) -> None:
    for value in getattr(part, "__dict__", {}).values():
        if isinstance(value, Dataset):
            memo[id(value)] = value
        elif isinstance(value, torch.Generator):
            memo.setdefault(id(value), _generator_copy(value))
        elif depth and hasattr(value, "__iter__") and hasattr(value, "__dict__"):
            _share_datasets(value, memo, depth - 1)


def _generator_copy(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin


def _copied(part: Any, memo: dict[int, Any]) -> Any:
    if isinstance(part, torch.Generator):
        return memo.setdefault(id(part), _generator_copy(part))
    try:
        return copy.deepcopy(part, memo)
    except (TypeError, NotImplementedError, AttributeError, RuntimeError):
        return part


def token_budget(sampler: Any) -> tuple[str, int] | None:
    """The attribute that holds a token budget, and the budget; ``None`` without one."""
    for name in TOKEN_BUDGETS:
        value = getattr(sampler, name, None)
        if isinstance(value, int) and value > 0:
            return name, value
    return None


def batch_size_of(sampler: Any) -> int | None:
    """The batch size that a batch sampler, or one inside it, is set to: on one rank."""
    size = getattr(sampler, "batch_size", None)
    if isinstance(size, int) and size > 0:
        return max(1, size // _ranks_of_one_batch(sampler))
    inner = getattr(sampler, "batch_sampler", None)
    return batch_size_of(inner) if inner is not None else None


def _ranks_of_one_batch(sampler: Any) -> int:
    """Over how many ranks every batch is cut, as by ``BatchSamplerShard(split_batches=True)``."""
    if not getattr(sampler, "split_batches", False):
        return 1
    return int(getattr(sampler, "num_processes", 1))


def sampler_in(batches: Any) -> Any:
    """The sampler of a batch sampler, also inside one that keeps every n-th batch for a rank."""
    if hasattr(batches, "process_index") and hasattr(batches, "num_processes"):
        batches = getattr(batches, "batch_sampler", batches)
    return getattr(batches, "sampler", None)


def resized(sampler: Any, size: int) -> Any:
    """A batch sampler like ``sampler`` whose batches hold ``size`` samples (or tokens).

    The standard one is built anew over the same sampler. A custom one is built anew from its own
    attributes, or copied with its size changed, and then *checked*: where its first batch does
    not have the new size, its indices are cut into chunks of ``size`` in the order they come.
    """
    if type(sampler) is BatchSampler:
        return BatchSampler(sampler.sampler, size, sampler.drop_last)
    budget = token_budget(sampler)
    if budget is not None:
        return _with_size(sampler, {budget[0]: size})
    if batch_size_of(sampler) is not None:
        candidate = _with_size(sampler, {"batch_size": size * _ranks_of_one_batch(sampler)})
        if _yields(candidate, size):
            return candidate
    return Chunks(sampler, size, bool(getattr(sampler, "drop_last", False)))


def _with_size(sampler: Any, changes: dict[str, int]) -> Any:
    """Built anew from its attributes where they cover its constructor; else a changed copy."""
    inner = {
        name: resized(part, changes["batch_size"])
        for name in _INNER
        if "batch_size" in changes
        and batch_size_of(part := getattr(sampler, name, None)) is not None
    }
    try:
        return _constructed(sampler, {**inner, **changes})
    except (LookupError, TypeError, ValueError):
        twin = copy.copy(sampler)
        for name, value in {**inner, **changes}.items():
            if hasattr(twin, name):
                setattr(twin, name, value)
        return twin


def _constructed(sampler: Any, changes: dict[str, Any]) -> Any:
    arguments = {}
    for name, parameter in inspect.signature(type(sampler)).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise LookupError(name)
        arguments[name] = _argument(sampler, name, changes)
    if not set(changes) <= set(arguments):
        raise LookupError("the size is not among the constructor's arguments")
    return type(sampler)(**arguments)


def _argument(sampler: Any, name: str, changes: dict[str, Any]) -> Any:
    if name in changes:
        return changes[name]
    for attribute in (name, f"_{name}"):
        if hasattr(sampler, attribute):
            return getattr(sampler, attribute)
    raise LookupError(name)


def _yields(sampler: Any, size: int) -> bool:
    """Whether the first of its batches holds ``size`` indices, or all it has; read from a copy."""
    batches = _first_batches(sampler, 2)
    if not batches:
        return True
    return len(batches[0]) == size or (len(batches) == 1 and len(batches[0]) < size)


def _first_batches(sampler: Any, count: int) -> list[Any]:
    """Read from a copy, with no random number spent."""
    twin = private_copy({"sampler": sampler}, None)["sampler"]
    with kept():
        return list(itertools.islice(iter(twin), count))


def observed_batch_size(sampler: Any) -> int | None:
    """The size of the first batch that a batch sampler yields; ``None`` where it yields none."""
    batches = _first_batches(sampler, 1)
    return len(batches[0]) or None if batches else None


class Chunks:
    """The indices of a batch sampler in its own order, cut into batches of another size."""

    def __init__(self, batches: Iterable[Sequence[int]], batch_size: int, drop_last: bool) -> None:
        self.batches = batches
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        indices = itertools.chain.from_iterable(self.batches)
        while chunk := list(itertools.islice(indices, self.batch_size)):
            if len(chunk) == self.batch_size or not self.drop_last:
                yield chunk

    def __len__(self) -> int:
        total = sum(len(batch) for batch in private_copy({"b": self.batches}, None)["b"])
        return total // self.batch_size if self.drop_last else -(-total // self.batch_size)


def length_of(sampler: Any, dataset_length: int) -> int:
    """How many samples one epoch of ``sampler`` yields, where it says so."""
    try:
        return min(len(sampler), dataset_length) if sampler is not None else dataset_length
    except (TypeError, NotImplementedError):
        return dataset_length


def indices_of(sampler: Any, dataset: Any) -> Sequence[int]:
    """The dataset's indices that ``sampler`` can yield, each once, in the dataset's order."""
    count = len(dataset)
    if sampler is None or isinstance(sampler, (SequentialSampler, RandomSampler, Shuffled)):
        return range(count)
    if isinstance(sampler, SubsetRandomSampler):
        return list(sampler.indices)
    if isinstance(sampler, WeightedRandomSampler):
        return [int(i) for i in torch.nonzero(sampler.weights).flatten()]
    if isinstance(sampler, DistributedSampler):
        return sorted(set(sampler))
    return _read(sampler, dataset, count)


def _read(sampler: Any, dataset: Any, count: int) -> Sequence[int]:
    """One epoch of a copy of a custom sampler."""
    twin = private_copy({"sampler": sampler}, dataset)["sampler"]
    found: set[int] = set()
    most = min(2 * count, _MOST_INDICES)
    for entry in itertools.islice(iter(twin), most):
        found.update([entry] if not isinstance(entry, (list, tuple)) else entry)
    return sorted(found) if found else range(count)
