"""What a step can touch: also what the user's own functions hold without having handed it over.

A ``train_step`` often closes over a gradient scaler or an optimizer. Left real, they would be
given fake state.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


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
