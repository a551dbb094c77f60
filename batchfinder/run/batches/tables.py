"""Rows of tensors, taken all at once: what reading and collating one by one gives, faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from batchfinder.protocols import Batch
from batchfinder.run.batches.host import check_host
from batchfinder.run.batches.lengths import Extent
from batchfinder.run.batches.order import EAGER, Order, shuffled
from batchfinder.run.batches.stores import Patience
from batchfinder.run.tree import bytes_in
from batchfinder.wording import Caveat

__all__ = ["Rows", "Table", "table_behind"]


@dataclass(frozen=True)
class Table:
    """The tensors of a ``TensorDataset``, and which of their rows a subset keeps."""

    tensors: tuple[torch.Tensor, ...]
    rows: torch.Tensor | None = None

    def batch(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """The rows at the dataset's indices, as ``default_collate`` gives them."""
        chosen = torch.as_tensor(indices)
        if self.rows is not None:
            chosen = self.rows[chosen]
        return [tensor[chosen] for tensor in self.tensors]


def table_behind(loader: DataLoader[Any]) -> Table | None:
    """The table that a loader reads; ``None`` where anything stands between rows and batch."""
    if loader.collate_fn is not default_collate:
        return None
    return _table(loader.dataset)


def _table(dataset: Any) -> Table | None:
    if type(dataset) is TensorDataset:
        return Table(dataset.tensors)
    if type(dataset) is not Subset:
        return None
    inner = _table(dataset.dataset)
    if inner is None:
        return None
    rows = torch.as_tensor(dataset.indices)
    return Table(inner.tensors, rows if inner.rows is None else inner.rows[rows])


class Rows:
    """A ``Store`` over a table: batches are cut from it whole, and every row is as long."""

    is_apart = False
    notes: tuple[Caveat, ...] = ()
    block = EAGER

    def __init__(
        self,
        table: Table,
        indices: Sequence[int],
        seed: int = 0,
        *,
        weights: torch.Tensor | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self._table, self._indices = table, indices
        self._fixed = shuffled(len(indices), seed)
        self._order = Order(len(indices), seed, weights)
        self._row_bytes = bytes_in(table.batch([indices[0]]))

    @property
    def length(self) -> int:
        return len(self._indices)

    def available(self, wanted: int) -> int:
        return min(wanted, self.length)

    def read_ahead(self, wanted: int, in_time: Callable[[], bool]) -> None:
        """The length is known."""

    def fetch(self, positions: Sequence[int]) -> list[Any]:
        return [tuple(part[0] for part in self.batch([position])) for position in positions]

    def extents(self, positions: Sequence[int]) -> list[Extent]:
        return [Extent(1, {}) for _ in positions]

    def batch(self, positions: Sequence[int]) -> Batch:
        check_host(len(positions) * self._row_bytes, len(positions))
        return self._table.batch([self._indices[self._fixed[p]] for p in positions])

    def draw(self, size: int) -> Batch:
        self.patience.note(size)
        return self._table.batch([self._indices[p] for p in self._order.draw(size)])

    def draw_samples(self, count: int) -> list[Any]:
        drawn = self.draw(count)
        return [tuple(part[row] for part in drawn) for row in range(count)]

    def follow(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        return loader

    def rewind(self, seed: int) -> None:
        self._order.rewind(seed)

    def expect(self, sizes: Sequence[int]) -> None:
        """Nothing is read ahead."""

    def close(self) -> None:
        pass
