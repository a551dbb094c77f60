"""Compiled code: the user's graphs left as they are, the recompile limit noticed.

``torch.compile`` keeps one graph per kind of shape for each function, eight at most by default;
beyond that it runs the function uncompiled and only logs it. A search visits more sizes than
that. So its graphs are kept in a region of their own (``isolate_recompiles``, torch 2.13) with a
limit of their own, and where the limit is met all the same, it is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from batchfinder.run.switches import wider_recompile_limit
from batchfinder.run.torch_internals.compiler import (
    compile_contexts,
    compile_region,
    is_compiled_function,
    is_compiled_module,
    new_compile_region,
    recompile_limit_met,
)
from batchfinder.wording import Caveat

__all__ = ["Compilation"]

_MOST_GRAPHS = 64  # of one function, over all sizes that a search visits


class Compilation:
    """The graphs that the steps of one call compile, apart from the user's own.

    Args:
        modules: whose parts may be compiled.
        others: functions and methods that the step reaches.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], others: Iterable[Any] = ()) -> None:
        parts = [part for module in modules for part in module.modules()]
        compiled = [
            *filter(is_compiled_module, parts),
            *(each for each in others if is_compiled_function(each)),
        ]
        self.is_any = bool(compiled)
        self._contexts = compile_contexts(compiled)
        self._region = new_compile_region() if self._contexts else None
        self._met_limit = False

    @property
    def notes(self) -> Iterator[Caveat]:
        """What a reader of the figures should know."""
        if self._met_limit:
            yield Caveat("step.recompile_limit")
        if self.is_any and self._region is None:
            yield Caveat("step.graphs_stay")

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, new graphs go to a region of their own, under a wider limit."""
        if self._region is None:  # where graphs are not kept apart, the user's own limit holds
            before = recompile_limit_met() if self.is_any else 0
            yield
            self._met_limit |= self.is_any and recompile_limit_met() > before
            return
        before = recompile_limit_met()
        try:
            with compile_region(self._contexts, self._region), wider_recompile_limit(_MOST_GRAPHS):
                yield
        finally:
            self._met_limit = self._met_limit or recompile_limit_met() > before
