"""Private parts of torch, each with a test for it and a fallback."""

from __future__ import annotations

import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves, tree_map

__all__ = [
    "BATCH_NORMS",
    "DROPOUTS",
    "CpuAllocations",
    "compile_contexts",
    "compile_region",
    "compiled_from",
    "inner_tensors",
    "is_compiled_function",
    "is_compiled_module",
    "like_subclass",
    "new_compile_region",
    "recompile_limit_met",
    "resizes_followed",
    "tree_leaves",
    "tree_map",
    "under_fake_tensors",
]


BATCH_NORMS = (torch.nn.modules.batchnorm._BatchNorm,)
"""The base of batch norms over any number of dimensions, ``SyncBatchNorm`` and lazy ones too."""
DROPOUTS = (torch.nn.modules.dropout._DropoutNd,)
"""The base of all dropouts."""

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


def inner_tensors(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors that a subclass keeps its data in, by attribute; empty for a plain tensor.

    A ``DTensor``'s is its local one. A subclass that does not tell is taken for a plain tensor.
    """
    if not hasattr(tensor, "__tensor_flatten__"):
        return {}
    names, _ = tensor.__tensor_flatten__()
    parts = {name: getattr(tensor, name) for name in names}
    return {name: part for name, part in parts.items() if isinstance(part, torch.Tensor)}


def like_subclass(tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    """What makes another tensor of the same subclass from tensors such as ``inner_tensors``.

    It keeps the kind and the layout of ``tensor``, and none of its data.
    """
    kind: Any = type(tensor)
    names, context = tensor.__tensor_flatten__()  # type: ignore[attr-defined]  # of a subclass
    values = {name: getattr(tensor, name) for name in names}
    rest = {name: each for name, each in values.items() if not isinstance(each, torch.Tensor)}
    size, stride = tensor.size(), tensor.stride()

    def make(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        made: torch.Tensor = kind.__tensor_unflatten__({**rest, **parts}, context, size, stride)
        return made

    return make


class Resizing(Protocol):
    """What hears of storages that are resized, which is no operator."""

    def before_resize(self, storage: Any, size: int) -> None: ...
    def after_resize(self, storage: Any) -> None: ...


_PATCHING = threading.Lock()


@contextmanager
def resizes_followed(listener: Resizing) -> Iterator[None]:
    """``UntypedStorage.resize_`` tells ``listener`` inside; afterwards it is as it was.

    Sharded training frees and refills storages so. Any number of listeners, of any threads, may
    come and go in any order: the last to go takes the patch away.
    """
    with _PATCHING:
        listeners = _listeners()
        if listeners is None:
            listeners = _patch_resize()
        listeners.append(listener)
    try:
        yield
    finally:
        with _PATCHING:
            listeners.remove(listener)
            if not listeners and _listeners() is listeners:
                del torch.UntypedStorage.resize_


def _listeners() -> list[Resizing] | None:
    own: Any = vars(torch.UntypedStorage).get("resize_")
    found: list[Resizing] | None = getattr(own, "listeners", None)
    return found


def _patch_resize() -> list[Resizing]:
    # A method of the base class in C; a patch of somebody else's stays below ours.
    original: Any = torch.UntypedStorage.resize_
    listeners: list[Resizing] = []

    def resize_(storage: Any, size: int) -> Any:
        now = list({id(each): each for each in list(listeners)}.values())
        for each in now:
            each.before_resize(storage, size)
        result = original(storage, size)
        for each in now:
            each.after_resize(storage)
        return result

    resize_.listeners = listeners  # type: ignore[attr-defined]  # found again through the patch
    torch.UntypedStorage.resize_ = resize_  # type: ignore  # a method of C, replaced by ours
    return listeners


def under_fake_tensors() -> bool:
    """Whether tensors have shapes and no data here, as in a rehearsal."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    return fake is not None and any(
        isinstance(mode, fake.FakeTensorMode) for mode in _get_current_dispatch_mode_stack()
    )


class CpuAllocations:
    """Every allocation of the CPU's allocator while it is entered, in order.

    The older of torch's two profilers, since the newer one writes on the standard error stream.
    Where it is missing, or another one is running, nothing is recorded.
    """

    def __init__(self) -> None:
        self.changes: list[int] = []
        self._is_on = False

    def __enter__(self) -> CpuAllocations:
        try:
            _profiler()._enable_profiler_legacy(_memory_only())
        except (AttributeError, RuntimeError, TypeError):
            return self
        self._is_on = True
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_on:
            return
        self._is_on = False
        threads = _profiler()._disable_profiler_legacy()
        events: list[Any] = [event for thread in threads for event in thread]
        start = next((event for event in events if event.name() == "__start_profile"), None)
        timed = [
            (start.cpu_elapsed_us(event) if start is not None else 0.0, event.cpu_memory_usage())
            for event in events
            if event.kind() == "memory_alloc"
        ]
        self.changes = [count for _, count in sorted(timed, key=lambda pair: pair[0])]


def _profiler() -> Any:
    """Where torch keeps it; not part of its typed interface."""
    return torch.autograd


def _memory_only() -> Any:
    shapes, stack, flops, modules = False, False, False, False
    return _profiler().ProfilerConfig(
        _profiler().ProfilerState.CPU,
        shapes,
        True,  # memory
        stack,
        flops,
        modules,
        torch._C._profiler._ExperimentalConfig(),
    )
