"""Operators as they are dispatched, and what tensors, fake ones too, are made of.

Without them nothing can be predicted; everything else works.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode_stack,
    _pop_mode,
    _push_mode,
)
from torch.utils._pytree import tree_leaves, tree_map

__all__ = [
    "INDEX_PUTS",
    "READ_A_NUMBER",
    "UNIQUE",
    "FakeTensor",
    "FakeTensorMode",
    "TorchDispatchMode",
    "dense_parts",
    "enter_below_later_modes",
    "inner_tensors",
    "leave_below_later_modes",
    "like_subclass",
    "makes_a_tensor",
    "modes_here",
    "operator_name",
    "sparse_parts",
    "tree_leaves",
    "tree_map",
    "under_fake_tensors",
    "unlogged",
    "version_of",
]


_aten = torch.ops.aten
_MODE: Any = TorchDispatchMode  # whose methods torch leaves untyped

READ_A_NUMBER = _aten._local_scalar_dense.default
"""What ``.item()`` calls."""
UNIQUE = _aten._unique2.default
"""What ``torch.unique`` calls."""
INDEX_PUTS = frozenset({_aten._index_put_impl_.default, _aten.index_put_.default})
"""What writing through indices calls."""

version_of: Callable[[torch.Tensor], int] = attrgetter("_version")
"""How often a tensor was written to in place: the counter that autograd itself checks."""


def operator_name(func: Any) -> str:
    """Of an operator as it is dispatched, without its namespace and its overload."""
    name = getattr(func, "_opname", None)
    return name if name is not None else str(func.name()).partition("::")[2].partition(".")[0]


def makes_a_tensor(func: Any) -> bool:
    """Whether an operator returns one; taken for granted where its schema cannot be read."""
    schema = getattr(func, "_schema", None)
    return schema is None or any("Tensor" in str(each.type) for each in schema.returns)


def sparse_parts(layout: torch.layout) -> tuple[str, ...]:
    """The methods that give the strided parts of a sparse tensor; none for another layout.

    Those of a COO tensor without a check that it is coalesced.
    """
    if layout is torch.sparse_coo:
        return ("_indices", "_values")
    if layout in (torch.sparse_csr, torch.sparse_bsr):
        return ("crow_indices", "col_indices", "values")
    if layout in (torch.sparse_csc, torch.sparse_bsc):
        return ("ccol_indices", "row_indices", "values")
    return ()


def dense_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors with a storage of their own that ``tensor`` is made of: usually itself."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for part in (getattr(tensor, name) for name in names):
            if isinstance(part, torch.Tensor):  # a DTensor may name its mesh too
                yield from dense_parts(part)
    elif tensor.is_nested:
        yield tensor.values()
    elif tensor.layout in (torch.strided, torch.jagged) and not tensor.is_mkldnn:
        yield tensor
    elif not tensor.is_mkldnn:
        for name in sparse_parts(tensor.layout):
            yield getattr(tensor, name)()


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


def modes_here() -> list[TorchDispatchMode]:
    """The dispatch modes that an operator passes in this thread, the innermost last."""
    return list(_get_current_dispatch_mode_stack())


def enter_below_later_modes(mode: TorchDispatchMode, before: Sequence[TorchDispatchMode]) -> None:
    """Enter ``mode`` below those that are open and were not among the modes ``before``.

    A mode that a generator of the user's holds open across a ``yield`` is closed later, and takes
    whatever is innermost then off the stack.
    """
    later = [each for each in modes_here() if each not in before]
    # torch keeps its own modes, which have a key, at the bottom
    with _aside(sum(getattr(each, "_mode_key", None) is None for each in later)):
        _MODE.__enter__(mode)


def leave_below_later_modes(mode: TorchDispatchMode) -> None:
    """Leave ``mode``, and no other one that was entered after it and is open yet."""
    here = modes_here()
    with _aside(len(here) - 1 - here.index(mode)):
        _MODE.__exit__(mode, None, None, None)


@contextmanager
def _aside(count: int) -> Iterator[None]:
    """Without the ``count`` innermost modes."""
    aside = [_pop_mode() for _ in range(count)]
    try:
        yield
    finally:
        for mode in reversed(aside):
            _push_mode(mode)


def under_fake_tensors() -> bool:
    """Whether tensors have shapes and no data here, as in a rehearsal."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    return fake is not None and any(
        isinstance(mode, fake.FakeTensorMode) for mode in _get_current_dispatch_mode_stack()
    )


@contextmanager
def unlogged() -> Iterator[None]:
    """Torch logs what fails under fake tensors, traceback and all; the caller gets it raised."""
    logger = logging.getLogger(FakeTensorMode.__module__)

    def nothing(_: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)
