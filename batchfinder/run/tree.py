"""Batches of any structure.

Containers are mappings, tuples, named tuples, lists and dataclasses, nested; everything else is
a leaf. A list of plain values (strings, numbers) is one leaf with a row per entry.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections import Counter, UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch

__all__ = ["moved"]


Path: TypeAlias = tuple[Any, ...]
"""Keys, positions and field names from the batch down to a leaf."""

MAKE_LOADER = (
    "pass Training(model, loader, make_loader=lambda batch_size: ...), which builds your loader at "
    "any size"
)
_PLAIN = (str, bytes, int, float, bool, type(None))
IGNORED_LABEL = -100  # what torch's cross-entropy leaves out of the loss by default


def children(value: Any) -> list[tuple[Any, Any]] | None:
    """The (key, part) pairs of a container; ``None`` for a leaf."""
    if isinstance(value, Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, torch.nn.utils.rnn.PackedSequence) or _is_column(value):
        return None
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    return None


def _is_column(value: Any) -> bool:
    """Whether a list or tuple holds plain values: a column of a batch, not a container."""
    if not isinstance(value, (list, tuple)) or hasattr(value, "_fields"):
        return False
    return bool(value) and all(isinstance(entry, _PLAIN) for entry in value)


def rebuilt(container: Any, parts: Sequence[Any]) -> Any:
    """A container of the same kind and keys, holding ``parts`` instead."""
    if isinstance(container, Mapping):
        return _rebuilt_mapping(container, parts)
    if dataclasses.is_dataclass(container):
        twin = copy.copy(container)
        for field, part in zip(dataclasses.fields(container), parts, strict=True):
            object.__setattr__(twin, field.name, part)
        return twin
    if hasattr(container, "_fields"):
        return type(container)(*parts)
    return type(container)(parts)


def _rebuilt_mapping(container: Mapping[Any, Any], parts: Sequence[Any]) -> Any:
    items = dict(zip(container, parts, strict=True))
    if type(container) is dict:
        return items
    if isinstance(container, (dict, UserDict)):
        twin = copy.copy(container)
        twin.update(items)
        return twin
    # A shallow copy of any other mapping may share its store with the original: never write there.
    kind: Any = type(container)
    try:
        made = kind(items)
    except TypeError:
        return items
    return made if set(made) == set(items) else items


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """The same structure with ``function`` applied to every leaf."""
    parts = children(value)
    if parts is None:
        return function(value)
    return rebuilt(value, [map_leaves(function, part) for _, part in parts])


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf with its path, in the order of the structure."""
    parts = children(value)
    if parts is None:
        yield path, value
        return
    for key, part in parts:
        yield from leaves(part, (*path, key))


def fresh(value: Any) -> Any:
    """The same leaves in new containers, so that a collate function may pop keys."""
    if type(value) is tuple and all(isinstance(part, (torch.Tensor, *_PLAIN)) for part in value):
        return value  # the commonest sample has nothing that could be changed in place
    return map_leaves(lambda leaf: list(leaf) if type(leaf) is list else leaf, value)


def size_along(leaf: Any, axis: int = 0) -> int | None:
    """How many rows a leaf has along ``axis``; ``None`` where it has no such axis."""
    if isinstance(leaf, torch.Tensor) and leaf.is_nested:
        return int(leaf.size(0)) if axis == 0 else None  # no other size is a number
    if isinstance(leaf, (torch.Tensor, np.ndarray)):
        return int(leaf.shape[axis]) if leaf.ndim > axis else None
    if _is_column(leaf) and axis == 0:
        return len(leaf)
    return None


def rows_in(batch: Any, axis: int = 0) -> int:
    """How many samples a batch holds: the commonest size of its leaves along ``axis``.

    Raises:
        CannotBuildBatch: where no leaf has a batch dimension.
    """
    for name in ("num_graphs", "batch_size"):
        counted = getattr(batch, name, None)
        if isinstance(counted, int) and counted > 0:
            return counted
    sizes = [size for _, leaf in leaves(batch) if (size := size_along(leaf, axis)) is not None]
    tensors = [
        size
        for _, leaf in leaves(batch)
        if not _is_column(leaf) and (size := size_along(leaf, axis)) is not None
    ]
    counts = Counter(tensors or sizes)
    if not counts:
        raise CannotBuildBatch(
            f"expected a batch with a tensor whose dimension {axis} counts samples; "
            f"found {describe(batch)}: {MAKE_LOADER}"
        )
    return counts.most_common(1)[0][0]


def padding_for(key: Any) -> int:
    """What a part is padded with: -100, which cross-entropy ignores, for labels; else zero."""
    return IGNORED_LABEL if isinstance(key, str) and "label" in key.lower() else 0


def join_leaves(column: Sequence[Any], axis: int, padding: int) -> Any:
    """Leaves as one along ``axis``; shorter tensors are padded at their ends."""
    first = column[0]
    if isinstance(first, torch.Tensor) and first.is_nested:
        parts = [part for each in column for part in each.unbind()]
        return torch.nested.nested_tensor(parts, layout=first.layout)
    if isinstance(first, torch.Tensor) and first.ndim > axis:
        fill = padding if not first.is_floating_point() else 0
        return torch.cat(_padded(list(column), axis, fill), dim=axis)
    if isinstance(first, np.ndarray) and first.ndim > axis:
        return np.concatenate(list(column), axis=axis)
    if _is_column(first) and axis == 0:
        return type(first)(entry for part in column for entry in part)
    return first


def _padded(tensors: list[torch.Tensor], axis: int, fill: int) -> list[torch.Tensor]:
    shapes = {tuple(t.shape[:axis] + t.shape[axis + 1 :]) for t in tensors}
    if len(shapes) == 1:
        return tensors
    target = [max(t.shape[d] for t in tensors) for d in range(tensors[0].ndim)]
    padded = []
    for tensor in tensors:
        widths = [target[d] - tensor.shape[d] if d != axis else 0 for d in range(tensor.ndim)]
        sides = [side for width in reversed(widths) for side in (0, width)]
        padded.append(torch.nn.functional.pad(tensor, sides, value=fill))
    return padded


def bytes_in(value: Any) -> int:
    """Bytes of a sample's or batch's data on the host: tensors, arrays, strings, numbers."""
    return sum(_leaf_bytes(leaf) for _, leaf in leaves(value))


def _leaf_bytes(leaf: Any) -> int:
    if isinstance(leaf, torch.Tensor):
        return leaf.numel() * leaf.element_size()
    if isinstance(leaf, np.ndarray):
        return int(leaf.nbytes)
    if isinstance(leaf, (list, tuple)):
        return sum(sys.getsizeof(entry) for entry in leaf)
    return sys.getsizeof(leaf, 64)


def describe(value: Any) -> str:
    """A batch in a few words for a message: types, keys and shapes."""
    parts = children(value)
    if parts is None:
        if isinstance(value, torch.Tensor) and value.is_nested:
            return f"nested {str(value.dtype).removeprefix('torch.')} tensor of {value.size(0)}"
        if isinstance(value, torch.Tensor):
            return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
        return type(value).__name__
    inner = ", ".join(
        f"{key}: {describe(part)}" if isinstance(key, str) else describe(part)
        for key, part in parts[:6]
    )
    more = ", …" if len(parts) > 6 else ""
    return f"{type(value).__name__}({inner}{more})"


def moved(batch: Batch, device: torch.device) -> Batch:
    """``batch`` with every tensor on ``device``; what has a ``.to`` of its own moves itself.

    Containers are new ones, so that a step may pop keys from its batch and be run on it again.
    """
    parts = children(batch)
    to = getattr(batch, "to", None)
    if parts is None:
        return to(device) if callable(to) else batch
    if callable(to):
        return rebuilt(batch, [part for _, part in parts]).to(device)
    return rebuilt(batch, [moved(part, device) for _, part in parts])
