"""``package.module:make`` as a model, a loader and keyword arguments; every mistake named."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import Any

from batchfinder.errors import InvalidArgument
from batchfinder.training import Training

__all__ = ["Made", "made_by"]

_EXPECTED = "expected package.module:make"
_RETURNS = "a Training, (model, loader) or (model, loader, keyword arguments)"
_MEMBERS = tuple(field.name for field in fields(Training) if field.name not in ("model", "loader"))


@dataclass(frozen=True)
class Made:
    """What the user's factory returned."""

    model: Any
    loader: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    def training(self) -> Training:
        """What is trained, as one value."""
        members = {name: self.options[name] for name in _MEMBERS if name in self.options}
        return Training(self.model, self.loader, **members)

    def other_options(self) -> dict[str, Any]:
        """The options that are no part of the training."""
        return {name: value for name, value in self.options.items() if name not in _MEMBERS}

    def options_for(self, function: Callable[..., Any]) -> dict[str, Any]:
        """The options that ``function`` takes beside the training; the others are not for it."""
        taken = _arguments(function)
        return {name: value for name, value in self.other_options().items() if name in taken}


def made_by(target: str, *accepted_by: Callable[..., Any]) -> Made:
    """Call the factory that ``target`` names; each option must be an argument of ``accepted_by``.

    Raises:
        InvalidArgument: where the target cannot be found or used, or its result is not of the
            expected form. An error inside the user's own module or factory passes through.
    """
    name, factory = _find(target)
    made = _unpacked(target, factory(), name)
    known = set(_MEMBERS).union(*map(_arguments, accepted_by))
    if unknown := sorted(set(made.options) - known):
        raise InvalidArgument(
            f"{target} returned keyword arguments that {accepted_by[0].__name__} does not accept:"
            f" {', '.join(unknown)}"
        )
    return made


def _arguments(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _find(target: str) -> tuple[str, Callable[[], Any]]:
    module_name, colon, name = target.partition(":")
    if not (colon and module_name and name) or module_name.endswith(".py") or "/" in module_name:
        raise InvalidArgument(
            f"{_EXPECTED}, such as train:make for the function make of train.py; found {target!r}"
        )
    factory = _attribute(_imported(module_name), name)
    if not callable(factory):
        raise InvalidArgument(
            f"{_EXPECTED} with a function; {target} is of type {type(factory).__name__}"
        )
    _check_arguments(target, factory)
    return name, factory


def _imported(name: str) -> ModuleType:
    # A console script has its own folder on the path in place of the current one.
    if os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - likewise
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module was found; something that it imports was not
        raise InvalidArgument(
            f"{_EXPECTED}; there is no module {error.name!r} here. Looked from {os.getcwd()}"  # noqa: PTH109
        ) from None


def _attribute(module: ModuleType, name: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    offered = [
        each
        for each, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    there = f"its functions are {', '.join(offered)}" if offered else "it defines no function"
    raise InvalidArgument(f"{_EXPECTED}; {module.__name__} has no {name!r}; {there}")


def _check_arguments(target: str, factory: Callable[..., Any]) -> None:
    try:
        needed = [
            parameter.name
            for parameter in inspect.signature(factory).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return  # a callable without a readable signature is simply called
    if needed:
        raise InvalidArgument(
            f"expected a function without arguments; {target} needs {', '.join(needed)}"
        )


def _unpacked(target: str, returned: Any, name: str) -> Made:
    if isinstance(returned, Training):
        members = {each: getattr(returned, each) for each in _MEMBERS}
        return Made(returned.model, returned.loader, members)
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise InvalidArgument(
            f"expected {name}() to return {_RETURNS}; {target} returned {_described(returned)}"
        )
    made = Made(*returned)
    if not isinstance(made.options, Mapping) or not all(isinstance(k, str) for k in made.options):
        raise InvalidArgument(
            f"expected the third value returned by {name}() to be a dict of keyword arguments;"
            f" found {type(made.options).__name__}"
        )
    return made


def _described(returned: Any) -> str:
    if isinstance(returned, tuple):
        return f"a tuple of {len(returned)}"
    return "nothing" if returned is None else f"a {type(returned).__name__}"
