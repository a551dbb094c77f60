"""Ready-made batches cut into rows of one sample, and rows joined to batches of another size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Batch
from batchfinder.run.batches.counting import COUNT, count_of
from batchfinder.run.tree import (
    MAKE_LOADER,
    Path,
    children,
    describe,
    join_leaves,
    leaves,
    padding_for,
    rebuilt,
    size_along,
)

__all__ = ["Cutting", "Rebatched", "cut_rows"]

Count = Callable[[Batch], int]


@dataclass(frozen=True)
class Cutting:
    """Which parts of ready-made batches hold one row for each sample; the others are shared.

    ``paths`` lead to tensors, arrays and columns, ``lists`` to lists with one entry a sample.
    """

    paths: frozenset[Path]
    lists: frozenset[Path]
    axis: int = 0

    @classmethod
    def of(cls, batches: Sequence[Batch], axis: int = 0, count: Count | None = None) -> Cutting:
        """By the first batch, and a second one where there is one.

        A part is shared where its size is another than the number of samples, or where it is
        square and the same in both batches.

        Raises:
            CannotBuildBatch: where a part of another size differs from batch to batch: whether it
                grows with the batch cannot be told.
        """
        sizes = [_count(batch, axis, count) for batch in batches]
        first, *others = [dict(leaves(batch)) for batch in batches]
        lists = {
            path: len(value)
            for path, value in _lists(batches[0])
            if path and len(value) == sizes[0] and not _has_rows(value, axis, sizes[0])
        }
        inside = {p for p in first if any(p[: len(each)] == each for each in lists)}
        with_rows = {p for p in first if size_along(first[p], axis) == sizes[0]} - inside
        for other, size in zip(others, sizes[1:], strict=True):
            with_rows = {p for p in with_rows if not _is_table(first[p], other.get(p))}
            with_rows = {p for p in with_rows if size_along(other.get(p), axis) == size}
            unclear = [
                path
                for path in set(first) - with_rows - inside
                if (size_along(first[path], axis) or 0) > 1
                and not _same(first[path], other.get(path))
            ]
            if unclear:
                raise CannotBuildBatch(
                    f"expected batches whose parts have one row for each of {sizes[0]} samples, or "
                    f"are the same in every batch; part {_named(unclear[0])} is neither "
                    f"({describe(first[unclear[0]])}): {MAKE_LOADER}; or {COUNT}"
                )
        return cls(frozenset(with_rows), frozenset(lists), axis)

    def count(self, batch: Batch) -> int:
        """The samples in a batch of this kind."""
        for path, value in itertools.chain(leaves(batch), _lists(batch)):
            if path in self.paths:
                return size_along(value, self.axis) or 0
            if path in self.lists:
                return len(value)
        return 1

    def rows(self, batch: Batch) -> list[Batch]:
        """Batches of one sample each, sharing what has no row for each."""
        return [self._row(batch, place, ()) for place in range(self.count(batch))]

    def _row(self, value: Any, place: int, path: Path) -> Any:
        if path in self.lists:
            return type(value)([value[place]])
        parts = children(value)
        if parts is not None:
            return rebuilt(value, [self._row(part, place, (*path, key)) for key, part in parts])
        if path not in self.paths:
            return value
        if isinstance(value, torch.Tensor):
            return _row_of(value, self.axis, place)
        if isinstance(value, np.ndarray):
            return np.take(value, [place], axis=self.axis)
        return value[place : place + 1]

    def join(self, rows: Sequence[Batch]) -> Batch:
        """Rows as one batch; shorter tensors are padded at their ends."""
        return self._joined(rows, ())

    def _joined(self, values: Sequence[Any], path: Path) -> Any:
        first = values[0]
        if path in self.lists:
            return type(first)(entry for value in values for entry in value)
        parts = children(first)
        if parts is None:
            if path not in self.paths:
                return first
            return join_leaves(values, self.axis, padding_for(path[-1] if path else None))
        columns = [[part for _, part in _same_children(first, value)] for value in values]
        joined = [
            self._joined([column[place] for column in columns], (*path, key))
            for place, (key, _) in enumerate(parts)
        ]
        return rebuilt(first, joined)


def _row_of(tensor: torch.Tensor, axis: int, place: int) -> torch.Tensor:
    if tensor.is_nested:
        row: torch.Tensor = torch.nested.nested_tensor(
            [tensor.unbind()[place]], layout=tensor.layout
        )
        return row
    return tensor.narrow(axis, place, 1)


def _count(batch: Batch, axis: int, count: Count | None) -> int:
    return int(count(batch)) if count is not None else count_of(batch, None, axis)


def _lists(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every list or tuple that is no column of plain values, from the outside in."""
    parts = children(value)
    if parts is None:
        return
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        yield path, value
    for key, part in parts:
        yield from _lists(part, (*path, key))


def _has_rows(value: Any, axis: int, size: int) -> bool:
    """Whether what is inside has a row for each sample: a tuple of two parts in a batch of 2."""
    return all(size_along(leaf, axis) == size for _, leaf in leaves(value))


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.is_nested or other.is_nested:
            return False
        return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    return type(one) is type(other) and not hasattr(one, "shape") and bool(one == other)


def _is_table(one: Any, other: Any) -> bool:
    """Whether a part that is as long as the batch is a constant of the model's, as a mask."""
    if (
        not isinstance(one, torch.Tensor)
        or one.is_nested
        or one.ndim < 2
        or one.shape[-1] != one.shape[-2]
    ):
        return False
    return _same(one, other) and bool((one != one.flatten()[0]).any())


def _named(path: Path) -> str:
    return ".".join(str(key) for key in path) or "0"


def _same_children(first: Any, row: Any) -> list[tuple[Any, Any]]:
    expected, found = children(first), children(row)
    if found is None or expected is None or [k for k, _ in found] != [k for k, _ in expected]:
        raise CannotBuildBatch(
            f"expected batches of the same structure; found {describe(first)} and {describe(row)}: "
            f"{MAKE_LOADER}"
        )
    return found


def cut_rows(
    batches: Iterable[Batch], axis: int = 0, count: Count | None = None
) -> Iterator[tuple[Cutting, Batch]]:
    """Row after row, each with how its batch was cut."""
    stream = iter(batches)
    ahead = list(itertools.islice(stream, 2))
    if not ahead:
        return
    cutting = Cutting.of(ahead, axis, count)
    for batch in itertools.chain(ahead, stream):
        for row in cutting.rows(batch):
            yield cutting, row


class Rebatched:
    """Batches of ``size`` cut and joined from an iterable of other batches, in its order.

    The last one may be smaller. Can be iterated as often as the iterable can.
    """

    def __init__(
        self, batches: Iterable[Batch], size: int, axis: int = 0, count: Count | None = None
    ) -> None:
        self.batches, self.batch_size = batches, size
        self._axis, self._count = axis, count

    def __iter__(self) -> Iterator[Batch]:
        rows = cut_rows(self.batches, self._axis, self._count)
        while few := list(itertools.islice(rows, self.batch_size)):
            yield few[0][0].join([row for _, row in few])
