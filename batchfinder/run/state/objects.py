"""Anything else that the user names: whatever can say its state and take it back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from batchfinder.errors import InvalidArgument

__all__ = ["StatefulObject"]


class StatefulObject:
    """A scheduler, a gradient scaler, an average of weights: anything with ``state_dict``.

    Raises:
        InvalidArgument: where the object has no ``state_dict`` and ``load_state_dict``.
    """

    # A gradient scaler keeps these outside its state_dict; a failed step leaves them half-way.
    _SCALER_PRIVATE = ("_scale", "_growth_tracker", "_per_optimizer_states")

    def __init__(self, thing: Any) -> None:
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise InvalidArgument(
                "expected a module, an optimizer, or an object with state_dict() and "
                f"load_state_dict(); found {type(thing).__qualname__}"
            )
        self._thing = thing
        self._saved = copy.deepcopy(thing.state_dict())
        self._private = {
            name: copy.deepcopy(getattr(thing, name))
            for name in self._SCALER_PRIVATE
            if hasattr(thing, name)
        }

    def restore(self) -> None:
        if self._saved or not self._private:
            self._thing.load_state_dict(copy.deepcopy(self._saved))
        for name, value in self._private.items():
            setattr(self._thing, name, copy.deepcopy(value))

    def items(self) -> Iterator[tuple[str, Any]]:
        yield f"{type(self._thing).__qualname__}/state", self._thing.state_dict()
