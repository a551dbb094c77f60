"""How many samples a batch holds: what grows by one when it holds one more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.tree import (
    MAKE_LOADER,
    children,
    describe,
    rows_in,
    size_along,
)

__all__ = ["COUNT", "Key", "count_of", "grown", "measures"]

Key = tuple[Any, ...]
"""A path to a part of the batch and what of it counts: an axis, ``"len"`` or an attribute."""

COUNT = (
    "pass Training(..., count=lambda batch: ...), which returns the number of samples in a "
    "batch, or batch_dim=, the dimension that grows with it"
)
_STATED = ("num_graphs", "batch_size")
_DEEPEST = 6


def measures(value: Any, path: Key = (), depth: int = 0) -> dict[Key, int]:
    """Every number in a batch that may count its samples, the likeliest first."""
    found: dict[Key, int] = {}
    for name in _STATED:
        stated = getattr(value, name, None)
        if isinstance(stated, torch.Size):  # a TensorDict's
            stated = next(iter(stated), None)
        if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0:
            found[*path, name] = stated
    if isinstance(value, torch.Tensor) and value.is_nested:
        return {**found, (*path, 0): int(value.size(0))}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return {**found, **{(*path, axis): int(size) for axis, size in enumerate(value.shape)}}
    parts = _parts(value)
    if parts is None:
        size = size_along(value)
        if size is not None:
            found[*path, 0] = size
        return found
    if depth < _DEEPEST:
        for key, part in parts[:64]:
            found.update(measures(part, (*path, key), depth + 1))
    if isinstance(value, (list, tuple)):
        found[*path, "len"] = len(value)
    return found


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """Of a container, and the attributes of a batch class of the user's."""
    inner = children(value)
    if inner is not None or isinstance(value, (str, bytes, type)):
        return inner
    if isinstance(value, torch.nn.utils.rnn.PackedSequence) or dataclasses.is_dataclass(value):
        return None
    attributes = getattr(value, "__dict__", None)
    return list(attributes.items()) if isinstance(attributes, Mapping) and attributes else None


def grown(build: Callable[[int], Batch | None]) -> Key | None:
    """What holds 2 in a batch of two samples and 3 in one of three; ``None`` for nothing."""
    two, three = measures(build(2)), measures(build(3))
    return next((key for key, size in three.items() if (two.get(key), size) == (2, 3)), None)


def count_of(batch: Batch, key: Key | None, batch_dim: int | None = None) -> int:
    """The samples in ``batch`` by what was found to grow, or by its commonest size.

    Raises:
        CannotBuildBatch: where nothing counts them.
    """
    if key is not None:
        size = measures(batch).get(key)
        if size is not None:
            return size
    try:
        return rows_in(batch, batch_dim or 0)
    except CannotBuildBatch:
        raise CannotBuildBatch(
            f"expected a batch whose samples can be counted; found {describe(batch)}: "
            f"{COUNT}; or {MAKE_LOADER}"
        ) from None
