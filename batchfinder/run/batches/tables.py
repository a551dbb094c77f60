"""Rows of tensors, taken all at once: what reading and collating one by one gives, faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from batchfinder.protocols import Batch
from batchfinder.run.batches.host import check_host
from batchfinder.run.batches.lengths import Lengths
from batchfinder.run.batches.source import SampleSource
from batchfinder.run.batches.stores import Indexed
from batchfinder.run.batches.structure import bytes_in

__all__ = ["Table", "TableSource", "table_behind"]


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


class TableSource(SampleSource):
    """A ``BatchSource`` over a table: every sample is as long as every other."""

    def __init__(
        self,
        store: Indexed,
        table: Table,
        rebuild: Callable[[int], Iterable[Batch]],
        **options: Any,
    ) -> None:
        super().__init__(store, default_collate, rebuild, **options)
        self._indexed, self._table = store, table
        self._lengths = Lengths()
        self._row_bytes = bytes_in(table.batch([0]))

    def draw(self, size: int) -> Batch:
        self._check(size)
        return self._table.batch(self._indexed.indices_drawn(size))

    def _fixed(self, size: int, preferred: Sequence[int]) -> Batch:
        self._check(size)
        check_host(size * self._row_bytes, size)
        there = self._store.available(size)
        indices = self._indexed.indices_at(range(there))
        return self._table.batch([indices[turn % there] for turn in range(size)])
