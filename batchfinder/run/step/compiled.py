"""Compiled models: the user's compiled graphs left as they are, the recompile limit noticed.

``torch.compile`` keeps one graph per kind of shape for each function, eight at most by default;
beyond that it runs the function uncompiled and only logs it. A search visits more sizes than
that. So its graphs are kept in a region of their own (``isolate_recompiles``, torch 2.13) with a
limit of their own, and where the limit is met all the same, it is said.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["Compilation", "is_compiled", "is_compiled_function"]

_MOST_GRAPHS = 64  # of one function, over all sizes that a search visits
_REGION = "_isolate_recompiles_id"


def is_compiled(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether any part was handed to ``torch.compile`` or told to ``.compile()``."""
    return any(_compiled(part) is not None for module in modules for part in module.modules())


def is_compiled_function(function: Any) -> bool:
    """Whether ``torch.compile`` has wrapped a function or a method."""
    return hasattr(function, "_torchdynamo_orig_callable")


def _compiled(module: torch.nn.Module) -> Any:
    """What runs a module compiled: its context or its function; ``None`` where it is not."""
    context = vars(module).get("dynamo_ctx")
    return context if context is not None else vars(module).get("_compiled_call_impl")


def _contexts(modules: Iterable[torch.nn.Module]) -> Iterator[Any]:
    """The compiler's context behind every compiled part, where its region can be set."""
    for module in modules:
        for part in module.modules():
            compiled = _compiled(part)
            cells = [cell.cell_contents for cell in getattr(compiled, "__closure__", None) or ()]
            for candidate in (compiled, *cells):
                if hasattr(candidate, _REGION) and hasattr(candidate, "callback"):
                    yield candidate


class Compilation:
    """The graphs that the steps of one call compile, apart from the user's own."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        modules = list(modules)
        self._is_compiled = is_compiled(modules)
        self._contexts = list({id(each): each for each in _contexts(modules)}.values())
        self._region = _new_region() if self._contexts else None
        self._met_limit = False

    @property
    def notes(self) -> Iterator[str]:
        """What a reader of the figures should know."""
        if self._met_limit:
            yield (
                "The compiled model met torch's recompile limit: larger or later sizes ran "
                "uncompiled, and their times are those of another program. Compile with "
                "dynamic=None or dynamic=True."
            )
        if self._is_compiled and self._region is None:
            yield (
                "The graphs compiled for the sizes that were tried stay in torch's cache and "
                "count towards its recompile limit; torch._dynamo.reset() clears them."
            )

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, new graphs go to a region of their own, under a wider limit."""
        if not self._is_compiled:
            yield
            return
        before = _times_met()
        own = [getattr(context, _REGION) for context in self._contexts]
        try:
            for context in self._contexts:
                setattr(context, _REGION, self._region)
            with _wider_limit(self._region is not None):
                yield
        finally:
            for context, region in zip(self._contexts, own, strict=True):
                setattr(context, _REGION, region)
            self._met_limit = self._met_limit or _times_met() > before


def _new_region() -> int | None:
    counter = getattr(sys.modules.get("torch._dynamo.eval_frame"), "_next" + _REGION, None)
    return None if counter is None else next(counter)


@contextmanager
def _wider_limit(apart: bool) -> Iterator[None]:
    """Room for every size of a search; the user's own limit where graphs are not kept apart."""
    config = getattr(sys.modules.get("torch._dynamo"), "config", None)
    if not apart or config is None:
        yield
        return
    most = max(config.recompile_limit, _MOST_GRAPHS)
    with config.patch(recompile_limit=most):
        yield


def _times_met() -> int:
    """How often the limit was met so far, in this process."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    reasons = counters.get("unimplemented", {})
    return sum(
        count for reason, count in reasons.items() if "recompile" in reason and "limit" in reason
    )
