"""A batch cut into parts along its first dimension, where that can be done safely."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.batches import leaves, map_leaves, rows_in, size_along
from batchfinder.units import counted

__all__ = ["WHOLE", "count_of", "cut", "has_list_of", "why_whole"]

_PLAIN = (str, bytes, int, float, bool, type(None))


class _Whole(float):
    """The share of a whole batch, 1.0: a loss times it is the loss itself.

    Only in the order ``share * loss``, which asks the number first. The multiplication would run
    forward and backward.
    """

    __slots__ = ()

    def __mul__(self, loss: Any) -> Any:
        if isinstance(loss, torch.Tensor) and loss.requires_grad:
            return loss
        return float.__mul__(self, loss)


WHOLE = _Whole(1.0)
"""The share of a batch that is not cut."""


def count_of(batch: Batch) -> int | None:
    """Samples in a batch; ``None`` where that cannot be told."""
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], torch.Tensor):
        shape = batch[0].shape
        return shape[0] if shape else None
    if type(batch) is dict and all(isinstance(leaf, torch.Tensor) for leaf in batch.values()):
        lengths = {leaf.shape[:1] for leaf in batch.values()}
        if len(lengths) == 1 and (length := lengths.pop()):
            return int(length[0])
    try:
        return rows_in(batch)
    except CannotBuildBatch:
        return None


def has_list_of(batch: Batch, samples: int) -> bool:
    """Whether a list with so many entries stands in ``batch``, as of its samples one by one."""
    inside = list(batch.values()) if isinstance(batch, dict) else batch
    lists = [batch, *(inside if isinstance(inside, (tuple, list)) else ())]
    return any(isinstance(each, (tuple, list)) and len(each) == samples for each in lists)


def why_whole(batch: Batch, parts: int) -> str:
    """Why ``batch`` cannot be cut into ``parts``, in a few words; empty where it can.

    Every tensor must have the samples along its first dimension: of one that has not, nobody
    knows which rows belong to which sample.
    """
    count = count_of(batch)
    if count is None:
        return "no samples that can be counted"
    if count < parts:
        return f"{counted(count, 'sample')} alone"
    sized = 0
    for _, leaf in leaves(batch):
        size = size_along(leaf)
        if size is not None and size != count:
            return f"a part of it has {counted(size, 'row')} for {counted(count, 'sample')}"
        if size is None and not isinstance(leaf, (torch.Tensor, np.ndarray, *_PLAIN)):
            return f"it holds a {type(leaf).__name__}"
        sized += size is not None
    return "" if sized else "no part of it has rows"


def cut(batch: Batch, parts: int) -> list[tuple[Batch, int]]:
    """``parts`` nearly equal parts with their counts; views, not copies, of tensors and arrays.

    Raises:
        CannotBuildBatch: where ``why_whole`` has a reason against it.
    """
    if why := why_whole(batch, parts):
        raise CannotBuildBatch(
            f"expected a batch that can be split into {parts} micro-batches; {why}: split it "
            "yourself"
        )
    count = rows_in(batch)
    edges = [count * index // parts for index in range(parts + 1)]

    def rows(start: int, stop: int) -> Batch:
        def piece(leaf: Any) -> Any:
            return leaf if size_along(leaf) is None else leaf[start:stop]

        return map_leaves(piece, batch)

    return [(rows(start, stop), stop - start) for start, stop in itertools.pairwise(edges)]
