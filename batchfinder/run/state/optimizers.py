"""The state of an optimizer: its per-parameter state (or none), groups and counters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from batchfinder.run.state.plain import copied, is_plain, put_back

__all__ = ["OptimizerState"]


class OptimizerState:
    """One optimizer, put back into the very tensors that it held before.

    The state of a fresh optimizer is empty, and is empty again afterwards: a zero-filled state
    would change the bias correction of Adam's first step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, index: int = 0) -> None:
        self._optimizer = optimizer
        self._index = index
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
            for name, value in vars(optimizer).items()
            if name not in ("state", "param_groups") and is_plain(value)
        }
        self._names = frozenset(vars(optimizer))

    def restore(self) -> None:
        optimizer = self._optimizer
        optimizer.state.clear()
        for parameter, (inner, saved) in self._state.items():
            inner.clear()
            inner.update({key: _load(original, value) for key, (original, value) in saved.items()})
            optimizer.state[parameter] = inner
        del optimizer.param_groups[len(self._groups) :]
        for group, saved_group, members in zip(
            optimizer.param_groups, self._groups, self._members, strict=True
        ):
            for key in [key for key in group if key != "params" and key not in saved_group]:
                del group[key]
            for key, (original, value) in saved_group.items():
                group[key] = _load(original, value)
            group["params"][:] = members
        for name in [name for name in vars(optimizer) if name not in self._names]:
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


def _save(value: Any) -> tuple[Any, Any]:
    """The object itself and a copy of its contents, in host memory where it is a tensor."""
    return value, copied(value) if is_plain(value) else copy.deepcopy(value)


def _load(original: Any, saved: Any) -> Any:
    return put_back(original, saved) if is_plain(original) else copy.deepcopy(saved)
