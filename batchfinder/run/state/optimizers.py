"""The state of an optimizer: its per-parameter state (or none), groups and counters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, MutableMapping
from typing import Any

from batchfinder.run.state.part import Part
from batchfinder.run.state.plain import copied, is_plain, put_back

__all__ = ["OptimizerState", "is_optimizer"]


class OptimizerState(Part):
    """One optimizer, put back into the very tensors and containers that it held before.

    The state of a fresh optimizer is empty, and is empty again afterwards: a zero-filled state
    would change the bias correction of Adam's first step. A wrapper may share the containers of the
    optimizer that it wraps, which ``load_state_dict`` would replace.

    Args:
        optimizer: a ``torch.optim.Optimizer``, or anything that ``is_optimizer``.
        index: its place among several.
    """

    is_optimizer = True

    def __init__(self, optimizer: Any, index: int = 0) -> None:
        self._optimizer = optimizer
        self._index = index
        self._containers = (optimizer.state, optimizer.param_groups, [*optimizer.param_groups])
        self._state = {
            parameter: (inner, {key: _save(value) for key, value in inner.items()})
            for parameter, inner in optimizer.state.items()
        }
        self._groups = [
            {key: _save(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self._members = [list(group["params"]) for group in optimizer.param_groups]
        self._attributes = {
            name: (value, copied(value))
            for name, value in _attributes(optimizer).items()
            if name not in ("state", "param_groups") and is_plain(value)
        }
        self._names = frozenset(_attributes(optimizer))

    def restore(self) -> None:
        optimizer = self._optimizer
        state, groups, own_groups = self._containers
        for name, container in (("state", state), ("param_groups", groups)):
            if getattr(optimizer, name) is not container:
                setattr(optimizer, name, container)
        groups[:] = own_groups
        optimizer.state.clear()
        for parameter, (inner, saved) in self._state.items():
            inner.clear()
            inner.update({key: _load(original, value) for key, (original, value) in saved.items()})
            optimizer.state[parameter] = inner
        for group, saved_group, members in zip(
            optimizer.param_groups, self._groups, self._members, strict=True
        ):
            for key in [key for key in group if key != "params" and key not in saved_group]:
                del group[key]
            for key, (original, value) in saved_group.items():
                group[key] = _load(original, value)
            group["params"][:] = members
        for name in [name for name in _attributes(optimizer) if name not in self._names]:
            if "dynamo" not in name:  # the compiler's own marks are a cache, not the user's state
                delattr(optimizer, name)
        for name, (original, value) in self._attributes.items():
            setattr(optimizer, name, put_back(original, value))

    def items(self) -> Iterator[tuple[str, Any]]:
        kind = f"optimizer {self._index}" if self._index else "optimizer"
        for place, group in enumerate(self._optimizer.param_groups):
            yield f"{kind}/group {place}", {k: v for k, v in group.items() if k != "params"}
            for number, parameter in enumerate(group["params"]):
                if parameter in self._optimizer.state:
                    yield f"{kind}/state {place}.{number}", self._optimizer.state[parameter]


def is_optimizer(thing: Any) -> bool:
    """Whether ``thing`` has an optimizer's state and parameter groups, of torch or not."""
    groups = getattr(thing, "param_groups", None)
    return (
        isinstance(getattr(thing, "state", None), MutableMapping)
        and isinstance(groups, list)
        and all(isinstance(each, dict) and "params" in each for each in groups)
    )


def _attributes(optimizer: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(optimizer, "__dict__", {})
    return found


def _save(value: Any) -> tuple[Any, Any]:
    """The object itself and a copy of its contents, in host memory where it is a tensor."""
    return value, copied(value) if is_plain(value) else copy.deepcopy(value)


def _load(original: Any, saved: Any) -> Any:
    return put_back(original, saved) if is_plain(original) else copy.deepcopy(saved)
