"""What a step reaches without having been handed it: put back where it is state, named where not.

State is what holds tensors: free ones, and containers, objects, closures and globals in which
tensors are exchanged. A list of numbers that a step appends to is a log: it stays as the step
left it, and its name is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from batchfinder.run.reachable import Reached
from batchfinder.run.state.part import Part
from batchfinder.run.state.plain import copied, put_back
from batchfinder.run.torch_internals.tensors import version_of

__all__ = ["FoundState"]

_MOST_BYTES = 512 * 1024**2
"""Of free tensors that are copied. Of the others it is only seen that they have changed."""


@dataclass(frozen=True)
class _Tensor:
    tensor: torch.Tensor
    version: int
    value: Any
    gradient: torch.Tensor | None

    def restore(self) -> None:
        if version_of(self.tensor) != self.version and self.value is not None:
            put_back(self.tensor, self.value)
        if self.tensor.is_leaf and self.tensor.grad is not self.gradient:
            self.tensor.grad = self.gradient


@dataclass(frozen=True)
class _Slots:
    """Named places that refer to values: of a container, an object, a closure, a module."""

    name: str
    read: Callable[[], dict[Any, Any]]
    write: Callable[[dict[Any, Any]], None]
    before: dict[Any, Any]

    def changed(self) -> dict[Any, Any]:
        """What is there now, by key, where it is not what was there; with what is gone."""
        now = self.read()
        keys = [*now, *(key for key in self.before if key not in now)]
        return {
            key: now.get(key)
            for key in keys
            if now.get(key) is not self.before.get(key) or (key in now) != (key in self.before)
        }

    def is_state(self) -> bool:
        """Whether tensors came or went."""
        changed = self.changed()
        return any(
            _holds_tensor(value) or _holds_tensor(self.before.get(key))
            for key, value in changed.items()
        )

    def restore(self) -> None:
        if self.is_state():
            self.write(self.before)


class FoundState(Part):
    """Everything of ``reached`` that no other part keeps.

    Args:
        reached: what the step reaches.
        known: ids of what others keep.
    """

    def __init__(self, reached: Reached, known: set[int]) -> None:
        self._tensors = list(_saved(each for each in reached.tensors if id(each) not in known))
        self._slots = [
            _Slots(name, read, write, read()) for name, read, write in _places(reached, known)
        ]

    def restore(self) -> None:
        self.restore_carried()

    def restore_carried(self) -> None:
        for slots in self._slots:
            slots.restore()
        for tensor in self._tensors:
            tensor.restore()

    def items(self) -> Iterator[tuple[str, Any]]:
        for position, saved in enumerate(self._tensors):
            if saved.value is None:
                yield f"large tensors that train_step reaches/{position}", version_of(saved.tensor)
            else:
                yield f"tensors that train_step reaches/{position}", saved.tensor
        for position, slots in enumerate(self._slots):
            yield f"tensors that train_step reaches/slots {position}", slots.is_state()

    def left(self) -> tuple[str, ...]:
        """Names of what holds no tensors, has changed, and stays so."""
        changed = (slots for slots in self._slots if slots.changed() and not slots.is_state())
        return tuple(dict.fromkeys(slots.name for slots in changed))


def _saved(tensors: Iterable[torch.Tensor]) -> Iterator[_Tensor]:
    room = _MOST_BYTES
    for tensor in tensors:
        if not tensor.is_leaf or tensor.is_meta:
            continue
        room -= tensor.numel() * tensor.element_size()
        value = copied(tensor) if room >= 0 else None
        yield _Tensor(tensor, version_of(tensor), value, tensor.grad)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    return isinstance(value, list | tuple | deque) and any(map(_holds_tensor, value))


_Place = tuple[str, Callable[[], dict[Any, Any]], Callable[[dict[Any, Any]], None]]


def _places(reached: Reached, known: set[int]) -> Iterator[_Place]:
    for container in reached.containers:
        if id(container) not in known:
            yield reached.names[id(container)], *_of_container(container)
    for instance in reached.instances:
        name = reached.names.get(id(instance), type(instance).__name__)
        yield name, *_of_mapping(vars(instance))
    for name, cell in reached.cells:
        yield name, *_of_cell(cell)
    for name, table in reached.stored_globals:
        yield name, *_of_global(table, name)


def _of_container(container: Any) -> tuple[Any, Any]:
    if isinstance(container, dict):
        return _of_mapping(container)
    if isinstance(container, set):
        return lambda: {id(each): each for each in container}, lambda before: _refill(
            container, before.values()
        )
    return lambda: dict(enumerate(container)), lambda before: _refill(container, before.values())


def _refill(container: Any, values: Iterable[Any]) -> None:
    kept = list(values)
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(kept)


def _of_mapping(table: dict[Any, Any]) -> tuple[Any, Any]:
    def write(before: dict[Any, Any]) -> None:
        for key in [key for key in table if key not in before]:
            del table[key]
        table.update(before)

    return lambda: dict(table), write


def _of_cell(cell: Any) -> tuple[Any, Any]:
    def read() -> dict[Any, Any]:
        try:
            return {"": cell.cell_contents}
        except ValueError:  # a name that is not bound yet
            return {}

    def write(before: dict[Any, Any]) -> None:
        if before:
            cell.cell_contents = before[""]

    return read, write


def _of_global(table: dict[str, Any], name: str) -> tuple[Any, Any]:
    def write(before: dict[Any, Any]) -> None:
        if before:
            table[name] = before[""]
        else:
            table.pop(name, None)

    return lambda: {"": table[name]} if name in table else {}, write
