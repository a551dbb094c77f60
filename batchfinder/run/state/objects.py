"""Anything else that the user names: by its ``state_dict``, or by its plain attributes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from batchfinder.errors import InvalidArgument
from batchfinder.run.state.digest import digest
from batchfinder.run.state.part import Part
from batchfinder.run.state.plain import copied, is_plain, put_back
from batchfinder.run.torch_internals.training import scaler_attributes

__all__ = ["PlainObject", "StatefulObject", "says_its_state"]


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
