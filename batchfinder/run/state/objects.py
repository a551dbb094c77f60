"""What else the user names, put back; what a data set counts for itself, named.

A counter may belong to a cache beside it, or to a file that is open by now: put back alone it
would be a mistake of ours in the user's data.
"""

from __future__ import annotations

import cmath
import copy
from collections import deque
from collections.abc import Container, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from batchfinder.errors import InvalidArgument
from batchfinder.run.state.part import Part, digest
from batchfinder.run.state.plain import copied, is_plain, put_back
from batchfinder.run.torch_internals.objects import scaler_attributes
from batchfinder.run.torch_internals.tensors import version_of

__all__ = ["PlainObject", "ReadData", "StatefulObject", "says_its_state"]


def says_its_state(thing: Any) -> bool:
    """Whether ``thing`` gives its state and takes it back."""
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


class StatefulObject(Part):
    """A scheduler, a gradient scaler, an average of weights: anything with ``state_dict``.

    One that is as it was is not loaded.
    """

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self._saved = copy.deepcopy(thing.state_dict())
        self._before = digest([("", self._saved)])
        self._private = scaler_attributes(thing)

    def restore(self) -> None:
        if digest([("", self._thing.state_dict())]) != self._before:
            self._thing.load_state_dict(copy.deepcopy(self._saved))
        for name, value in self._private.items():
            setattr(self._thing, name, copy.deepcopy(value))

    def items(self) -> Iterator[tuple[str, Any]]:
        yield f"{type(self._thing).__qualname__}/state", self._thing.state_dict()


class PlainObject(Part):
    """An object by its attributes: numbers, text, tensors, arrays, generators, lists of them.

    Raises:
        InvalidArgument: where it has neither attributes nor ``state_dict``.
    """

    def __init__(self, thing: Any) -> None:
        if not hasattr(thing, "__dict__"):
            raise InvalidArgument(
                "expected a module, an optimizer, an object with state_dict() and "
                f"load_state_dict(), or one with attributes; found {type(thing).__qualname__}"
            )
        self._thing = thing
        self._names = frozenset(vars(thing))
        self._saved = {
            name: (value, copied(value)) for name, value in vars(thing).items() if is_plain(value)
        }

    def restore(self) -> None:
        attributes = vars(self._thing)
        for name in [name for name in attributes if name not in self._names]:
            del attributes[name]
        for name, (original, value) in self._saved.items():
            attributes[name] = put_back(original, value)

    def items(self) -> Iterator[tuple[str, Any]]:
        for name in sorted(vars(self._thing)):
            value = vars(self._thing)[name]
            if is_plain(value):
                yield f"{type(self._thing).__qualname__}/{name}", value


_NUMBERS = (bool, int, float)
_ABSENT = object()
_DEEPEST = 4


class ReadData(Part):
    """The data sets of a loader, and those that they wrap, as they were.

    Args:
        loader: a ``DataLoader``, a data set, or an iterable.
        kept: ids of what others put back.
    """

    def __init__(self, loader: Any, kept: Container[int] = ()) -> None:
        sets = {id(each): each for each in _data_sets(loader) if id(each) not in kept}
        self._before = [(each, _counted(each)) for each in sets.values()]

    def restore(self) -> None:
        """Nothing is put back."""

    def items(self) -> Iterator[tuple[str, Any]]:
        return iter(())

    def left_in_data(self) -> tuple[str, ...]:
        """``"Class.attribute"`` of numbers that have changed, and of what has grown or shrunk."""
        changed = (
            f"{type(each).__name__}.{name}"
            for each, before in self._before
            for name, value in _counted(each).items()
            if name in before and _differ(value, before[name])
        )
        return tuple(dict.fromkeys(changed))


def _differ(value: Any, before: Any) -> bool:
    """Whether two counts differ; NaN is equal to NaN."""
    if all(isinstance(each, float | complex) and cmath.isnan(each) for each in (value, before)):
        return False
    return bool(value != before)


def _data_sets(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, Dataset):
        yield value
    if depth == _DEEPEST:
        return
    inner = getattr(value, "dataset", None)
    for each in (inner, *(getattr(value, "datasets", None) or ())):
        if isinstance(each, Dataset):
            yield from _data_sets(each, depth + 1)


def _counted(data: Any) -> dict[str, Any]:
    """Numbers by their values, containers by their lengths, tensors by their versions."""
    found = {name: _count(value) for name, value in getattr(data, "__dict__", {}).items()}
    return {name: count for name, count in found.items() if count is not _ABSENT}


def _count(value: Any) -> Any:
    if isinstance(value, _NUMBERS):
        return value
    if isinstance(value, list | dict | set | deque):
        return len(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value.item()
    return version_of(value) if isinstance(value, torch.Tensor) else _ABSENT
