"""What the compiler keeps of modules and functions that it has wrapped."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = [
    "compile_contexts",
    "compile_region",
    "compiled_from",
    "inside_compiled",
    "is_compiled_function",
    "is_compiled_module",
    "is_loaded",
    "new_compile_region",
    "recompile_config",
    "recompile_limit_met",
    "uses_cuda_graphs",
]

_REGION = "_isolate_recompiles_id"
_ABSENT = object()


def is_compiled_module(module: torch.nn.Module) -> bool:
    """Whether it was handed to ``torch.compile``, or told to ``.compile()``."""
    return _runs_compiled(module) is not None


def is_compiled_function(function: Any) -> bool:
    """Whether ``torch.compile`` has wrapped a function or a method."""
    return compiled_from(function) is not None


def compiled_from(function: Any) -> Any:
    """The function as it was written; ``None`` where it is not compiled.

    What was kept from the compiler (``torch.compiler.disable``) is wrapped alike, and not compiled.
    """
    if isinstance(function, types.MethodType):
        function = function.__func__
    # not by getattr: some objects answer every attribute
    if inspect.getattr_static(function, "_torchdynamo_disable", None) is True:
        return None
    return inspect.getattr_static(function, "_torchdynamo_orig_callable", None)


def _runs_compiled(module: torch.nn.Module) -> Any:
    """What runs a module compiled: its context or its function; ``None`` where it is not."""
    context = vars(module).get("dynamo_ctx")
    return context if context is not None else vars(module).get("_compiled_call_impl")


def compile_contexts(things: Iterable[Any]) -> list[Any]:
    """The compiler's contexts behind compiled modules and functions, each once.

    Those whose graphs can be kept in a region of their own (torch 2.13); none before.
    """
    found: dict[int, Any] = {}
    for thing in things:
        compiled = _runs_compiled(thing) if isinstance(thing, torch.nn.Module) else thing
        if isinstance(compiled, types.MethodType):
            compiled = compiled.__func__
        closure = compiled.__closure__ if isinstance(compiled, types.FunctionType) else None
        for candidate in (compiled, *(cell.cell_contents for cell in closure or ())):
            if _has(candidate, _REGION) and _has(candidate, "callback"):
                found[id(candidate)] = candidate
    return list(found.values())


def _has(thing: Any, name: str) -> bool:
    """As ``hasattr``, but not fooled by an object that answers every attribute."""
    return inspect.getattr_static(thing, name, _ABSENT) is not _ABSENT


def new_compile_region() -> int | None:
    """A region for graphs (``isolate_recompiles``); ``None`` before torch 2.13.

    Without one, graphs count towards the user's own recompile limit.
    """
    counter = getattr(sys.modules.get("torch._dynamo.eval_frame"), "_next" + _REGION, None)
    return None if counter is None else next(counter)


@contextmanager
def compile_region(contexts: Iterable[Any], region: int | None) -> Iterator[None]:
    """Inside, the graphs that ``contexts`` compile go to ``region``."""
    contexts = list(contexts)
    own = [getattr(context, _REGION) for context in contexts]
    try:
        for context in contexts:
            setattr(context, _REGION, region)
        yield
    finally:
        for context, before in zip(contexts, own, strict=True):
            setattr(context, _REGION, before)


def recompile_limit_met() -> int:
    """How often the recompile limit was met so far in this process; 0 where it is not counted."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    reasons = counters.get("unimplemented", {})
    return sum(
        count for reason, count in reasons.items() if "recompile" in reason and "limit" in reason
    )


def is_loaded() -> bool:
    """Whether the compiler was loaded: importing it costs seconds, and nothing else needs it."""
    return "torch._dynamo" in sys.modules


def recompile_config() -> Any:
    """What holds ``recompile_limit``; ``None`` where the compiler has none or was not loaded."""
    config = getattr(sys.modules.get("torch._dynamo"), "config", None)
    return config if hasattr(config, "recompile_limit") else None


def uses_cuda_graphs() -> bool:
    """Whether the compiler was told to for everything; a ``mode`` of one call is not seen."""
    triton = getattr(sys.modules.get("torch._inductor.config"), "triton", None)
    return bool(getattr(triton, "cudagraphs", False))


def inside_compiled(module: Any) -> Any:
    """The module that ``torch.compile`` has wrapped in ``module``; ``None`` where it has not."""
    return getattr(module, "_orig_mod", None)
