"""What a training step can touch beyond what was handed over.

A ``train_step`` often closes over an optimizer, a teacher, averaged weights or a gradient scaler,
or reaches them through globals, bound objects, hooks, or dicts keyed by parameters.
"""

from __future__ import annotations

import dis
import functools
import inspect
import random
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from batchfinder.run.torch_internals.compiler import compiled_from, is_compiled_function
from batchfinder.run.torch_internals.objects import OWN_ATTRIBUTES, hooks_of, parameters_of

__all__ = ["Reached", "reached_from"]

_MOST = 20_000
"""Objects looked at; a step that reaches more holds data rather than state."""


@dataclass
class Reached:
    """Everything of each kind, each once, in the order in which it was found.

    ``instances`` are of the user's own classes; ``names`` says under which name each of them and
    each container was found. ``distributed`` are what ``torch.distributed`` keeps for itself.
    ``cells`` are what closures refer to, ``stored_globals`` what functions write, each with the
    table that it is in. ``complete`` is false where there was too much.
    """

    modules: list[torch.nn.Module] = field(default_factory=list)
    optimizers: list[Any] = field(default_factory=list)
    scalers: list[Any] = field(default_factory=list)
    stateful: list[Any] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    generators: list[Any] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    instances: list[Any] = field(default_factory=list)
    compiled: list[Any] = field(default_factory=list)
    distributed: list[Any] = field(default_factory=list)
    cells: list[tuple[str, CellType]] = field(default_factory=list)
    stored_globals: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    complete: bool = True


def reached_from(things: Iterable[Any]) -> Reached:
    """Walk from functions, modules and optimizers through all that they hold.

    Not entered: loaders and data sets, what ``torch.distributed`` keeps for itself, code and
    globals of installed packages.
    """
    found = Reached()
    queue: list[tuple[str, Any]] = [("", thing) for thing in things]
    seen: set[int] = set()
    kept: list[Any] = []  # what is made on the way must live as long as its id counts
    while queue:
        name, thing = queue.pop(0)
        if id(thing) in seen or thing is None or isinstance(thing, _ATOMS):
            continue
        seen.add(id(thing))
        kept.append(thing)
        if len(seen) > _MOST:
            found.complete = False
            break
        if name:
            found.names[id(thing)] = name
        queue.extend(_sorted_in(found, thing, name))
    return found


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)

_ATOMS = (bool, int, float, complex, str, bytes, type)

_PLAIN = (list, tuple, set, Mapping, torch.Tensor)
"""What an optimizer's own attributes may be that are put back with it."""


def _sorted_in(found: Reached, thing: Any, name: str) -> Iterable[tuple[str, Any]]:
    """Put ``thing`` where it belongs; what it holds in turn."""
    held: Iterable[tuple[str, Any]] = ()
    is_compiled = is_compiled_function(thing)
    if is_compiled:
        found.compiled.append(thing)
    if is_compiled and not isinstance(thing, torch.nn.Module):
        held = [(name, compiled_from(thing))]
    elif isinstance(thing, torch.Tensor):
        found.tensors.append(thing)
        held = _hooks_of(thing)
    elif isinstance(thing, torch.nn.Module):
        found.modules.append(thing)
        held = _in_module(thing)
    elif isinstance(thing, torch.optim.Optimizer):
        found.optimizers.append(thing)
        # its plain attributes are put back with it
        others = ((n, v) for n, v in _attributes(thing) if not isinstance(v, _PLAIN))
        held = [*_hooks_of(thing), *others]
    elif isinstance(thing, _GENERATORS):
        found.generators.append(thing)
    elif isinstance(thing, torch.amp.GradScaler):
        found.scalers.append(thing)
    elif isinstance(thing, list | tuple | set | frozenset | deque | Mapping):
        held = _in_container(found, thing, name)
    elif type(thing).__module__.startswith("torch.distributed."):
        found.distributed.append(thing)  # kept for itself, behind a wrapper's hooks
    elif not isinstance(thing, DataLoader | Dataset | ModuleType):
        held = _in_object(found, thing, name)
    return held


def _in_module(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    for part in module.modules():
        yield from _hooks_of(part)
        for parameter in parameters_of(part).values():
            if parameter is not None:
                yield from _hooks_of(parameter)
        for name, value in vars(part).items():
            if name not in OWN_ATTRIBUTES:
                yield name, value
        yield from _methods_of(type(part))


def _hooks_of(thing: Any) -> Iterator[tuple[str, Any]]:
    return (("", hook) for hook in hooks_of(thing))


def _in_container(found: Reached, thing: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, list | set | deque | dict) and name:
        found.containers.append(thing)
    if isinstance(thing, Mapping):
        yield from ((name, key) for key in thing if isinstance(key, torch.Tensor))
        yield from ((f"{name}[{key!r}]"[:40], value) for key, value in list(thing.items()))
    else:
        yield from ((name, each) for each in list(thing)[:_MOST])


def _in_object(found: Reached, thing: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, functools.partial):
        yield from (("", each) for each in (thing.func, *thing.args, *thing.keywords.values()))
    elif inspect.ismethod(thing):
        yield "", thing.__func__
        yield "", thing.__self__
    elif isinstance(thing, FunctionType):
        yield from _in_function(found, thing)
    elif not inspect.isbuiltin(thing) and not inspect.isroutine(thing):
        # of the class: an object may answer to every name
        if hasattr(type(thing), "state_dict") and hasattr(type(thing), "load_state_dict"):
            found.stateful.append(thing)
        elif _is_of_the_user(type(thing)) and hasattr(thing, "__dict__"):
            found.instances.append(thing)
        yield from _attributes(thing)
        yield from _methods_of(type(thing))


def _methods_of(kind: type) -> Iterator[tuple[str, Any]]:
    """Those that the user wrote: what they name, a step may touch."""
    for each in kind.__mro__:
        if _is_of_the_user(each):
            yield from (("", value) for value in vars(each).values() if inspect.isfunction(value))


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(thing, "__dict__", {}).items())


def _in_function(found: Reached, function: FunctionType) -> Iterator[tuple[str, Any]]:
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield "", wrapped
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        found.cells.append((name, cell))
        try:
            yield name, cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield "", value
    if _is_file_of_the_user(function.__code__.co_filename):
        stored = (each.argval for each in dis.get_instructions(function) if each.opname == _STORE)
        found.stored_globals += [(name, function.__globals__) for name in dict.fromkeys(stored)]
        yield from _globals_of(function)


_STORE = "STORE_GLOBAL"


def _globals_of(function: FunctionType) -> Iterator[tuple[str, Any]]:
    names = set(_names_in(function.__code__))
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            if _is_file_of_the_user(getattr(value, "__file__", None)):
                yield from ((each, vars(value).get(each)) for each in sorted(names))
        elif value is not None:
            yield name, value


def _names_in(code: CodeType) -> Iterator[str]:
    """The global names of a function and of those defined in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _is_of_the_user(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    return kind.__module__ == "__main__" or _is_file_of_the_user(file)


def _is_file_of_the_user(file: str | None) -> bool:
    """Whether code is neither Python's nor an installed package's, nor this one's.

    A cell of a notebook is no file at all, and the user's.
    """
    if file is None:
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(place) for place in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    own = Path(__file__).resolve().parent.parent
    named = [Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return (*dict.fromkeys(named), own)
