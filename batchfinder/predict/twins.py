"""Modules and optimizers on fake tensors, and what else a step reaches."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

Twin: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

_TABLES = ("_parameters", "_buffers")
_KEPT = ("_modules", "training")


@contextmanager
def swapped(
    mode: FakeTensorMode, modules: Sequence[torch.nn.Module], optimizers: Sequence[Any]
) -> Iterator[None]:
    """Inside, ``modules`` and ``optimizers`` hold fakes; afterwards, what they held before."""
    every = list({id(inner): inner for module in modules for inner in module.modules()}.values())
    saved = [(owner, dict(vars(owner))) for owner in [*every, *optimizers]]
    twin = _twins(mode)
    try:
        for module in every:
            _swap_module(module, twin)
        for optimizer in optimizers:
            _swap_optimizer(optimizer, twin)
        yield
    finally:
        for owner, attributes in saved:
            vars(owner).clear()
            vars(owner).update(attributes)


@contextmanager
def kept_as_they_are(owners: Iterable[Any]) -> Iterator[None]:
    """Afterwards the attributes of ``owners`` are those of before."""
    saved = [(owner, dict(vars(owner))) for owner in owners]
    try:
        yield
    finally:
        for owner, attributes in saved:
            vars(owner).clear()
            vars(owner).update(attributes)


def _twins(mode: FakeTensorMode) -> Twin:
    """The fake of a tensor: the same at every call, so that shared tensors stay shared."""
    made: dict[int, torch.Tensor] = {}

    def twin(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in made:
            fake = mode.from_tensor(tensor)
            if fake.is_leaf:
                fake.grad = None
            made[id(tensor)] = fake
        return made[id(tensor)]

    return twin


def _swap_module(module: torch.nn.Module, twin: Twin) -> None:
    attributes = vars(module)
    for name, value in list(attributes.items()):
        if name in _TABLES:
            attributes[name] = {key: _mapped(inner, twin) for key, inner in value.items()}
        elif name not in _KEPT and not name.endswith("_hooks"):
            attributes[name] = _mapped(value, twin)


def _swap_optimizer(optimizer: Any, twin: Twin) -> None:
    state: defaultdict[Any, Any] = defaultdict(dict)
    for parameter, inner in optimizer.state.items():
        state[_mapped(parameter, twin)] = _mapped(inner, twin)
    attributes = vars(optimizer)
    attributes["param_groups"] = [_mapped(group, twin) for group in optimizer.param_groups]
    attributes["state"] = state


def _mapped(value: Any, twin: Twin) -> Any:
    """``value`` with the tensors in it, and in plain containers in it, replaced by their twins.

    Anything without a tensor is returned as the same object.
    """
    if isinstance(value, torch.Tensor):
        return twin(value)
    if type(value) in (list, tuple):
        parts = [_mapped(part, twin) for part in value]
        same = all(new is old for new, old in zip(parts, value, strict=True))
        return value if same and type(value) is tuple else type(value)(parts)
    if type(value) is dict:
        return {key: _mapped(inner, twin) for key, inner in value.items()}
    return value


@dataclass(frozen=True)
class Reachable:
    """Modules and optimizers to swap for fakes, scalers to rest, other objects to put back."""

    modules: list[torch.nn.Module]
    optimizers: list[Any]
    scalers: list[Any]
    others: list[Any]


def reachable_from(step: Any) -> Reachable:
    """What ``step`` holds: handed over, or held by the functions that it calls."""
    found = {id(each): each for each in [*step.modules(), *step.optimizers()]}
    scalers: dict[int, Any] = {}
    others: dict[int, Any] = {}
    queue, seen = [step], set(found)
    while queue:
        thing = queue.pop()
        if id(thing) in seen and thing is not step:
            continue
        seen.add(id(thing))
        if _is_swapped(thing):
            found[id(thing)] = thing
        elif isinstance(thing, torch.amp.GradScaler):
            scalers[id(thing)] = thing
        elif _is_ours(thing):
            others[id(thing)] = thing
            queue.extend(vars(thing).values())
        else:
            queue.extend(_held_by(thing))
    return Reachable(
        modules=[each for each in found.values() if isinstance(each, torch.nn.Module)],
        optimizers=[each for each in found.values() if not isinstance(each, torch.nn.Module)],
        scalers=list(scalers.values()),
        others=list(others.values()),
    )


def _is_swapped(thing: Any) -> bool:
    return isinstance(thing, (torch.nn.Module, torch.optim.Optimizer))


def _is_ours(thing: Any) -> bool:
    module = type(thing).__module__
    return module.startswith("batchfinder.") and hasattr(thing, "__dict__")


def _held_by(thing: Any) -> Iterator[Any]:
    """What a function closes over or names, and what a plain container holds."""
    if isinstance(thing, (list, tuple)):
        yield from thing
    elif isinstance(thing, Mapping):
        yield from thing.values()
    elif inspect.ismethod(thing):
        yield thing.__func__
        yield from _attributes(thing.__self__)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif inspect.isfunction(thing) and not thing.__module__.startswith(("torch.", "batchfinder.")):
        yield from _closed_over(thing)
        yield from (thing.__globals__.get(name) for name in thing.__code__.co_names)
    elif inspect.isfunction(thing):
        yield from _closed_over(thing)
    elif callable(thing) and not isinstance(thing, type):
        yield from _attributes(thing)


def _attributes(owner: Any) -> Iterator[Any]:
    """What an object holds; a module or an optimizer is swapped whole."""
    if _is_swapped(owner):
        yield owner
    else:
        yield from getattr(owner, "__dict__", {}).values()


def _closed_over(function: Any) -> Iterator[Any]:
    yield from inspect.getclosurevars(function).nonlocals.values()
    yield from function.__defaults__ or ()
