"""A stream that ends after the search has begun: no batch is returned that it cannot fill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import batchfinder as bf
from batchfinder.results import Limit
from batchfinder.run.batches import source


class Rows(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(4), 0)] * 40)


class Ready:
    """Ready-made batches of 8."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))] * 5)


@pytest.mark.parametrize("loader", [DataLoader(Rows(), 8), Ready()])
@pytest.mark.parametrize("ahead", [4, 4096])
def test_the_largest_batch_is_one_that_the_stream_fills(
    loader: Any, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "READ_AHEAD", ahead)  # 4: as where there was no time for more
    found = bf.max_batch_size(
        nn.Linear(4, 3),
        loader,
        loss_fn=nn.CrossEntropyLoss(),
        memory_limit="64MiB",
        observe=lambda event: None,
    )
    assert found.limited_by is Limit.DATASET
    assert found.max_batch_size == 40
    assert all(trial.batch_size <= 40 for trial in found.trials)


def test_a_limit_of_memory_below_the_end_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "READ_AHEAD", 4)
    found = bf.max_batch_size(
        nn.Linear(4, 3),
        DataLoader(Rows(), 8),
        loss_fn=nn.CrossEntropyLoss(),
        memory_limit=2500,
        observe=lambda event: None,
    )
    assert found.limited_by is Limit.MEMORY
    assert found.max_batch_size < 40
