"""What data sets count for themselves: named where reading changed it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

import batchfinder as bf
from batchfinder.run.state import preserved


class Counted(Dataset[Any]):
    def __init__(self) -> None:
        self.reads, self.log, self.seen = 0, [], torch.zeros(2)
        self.rows = torch.zeros(8, 3)
        self.file: Any = None
        self.mean: Any = 0.0
        self.spread: Any = 0.0
        self.last = 0.0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads += 1
        self.seen += 1
        self.log.append(index)
        self.file = self.file or object()  # as a file that is opened at the first read
        return self.rows[index]


WRAPPED = [
    lambda data: data,
    lambda data: DataLoader(data, 2),
    lambda data: DataLoader(Subset(data, range(4)), 2),
    lambda data: DataLoader(ConcatDataset([data, data]), 2),
]


@pytest.mark.parametrize("wrap", WRAPPED)
def test_counters_that_reading_changed_are_named(wrap: Any) -> None:
    data = Counted()
    with preserved(nn.Linear(3, 1), loader=wrap(data)) as snapshot:
        assert snapshot.left_in_data() == ()
        _ = data[0]
        names = snapshot.left_in_data()
        assert names == ("Counted.reads", "Counted.log", "Counted.seen")
        assert snapshot.differences() == ()


def test_a_data_set_without_counters_is_not_named() -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(8, 3))
    with preserved(nn.Linear(3, 1), loader=DataLoader(data, 2)) as snapshot:
        _ = data[0]
        assert snapshot.left_in_data() == ()


def test_what_is_still_not_a_number_has_not_changed() -> None:
    data = Counted()
    data.mean, data.spread, data.last = float("nan"), np.array(np.nan), 1.0
    with preserved(nn.Linear(3, 1), loader=data) as snapshot:
        data.mean, data.spread = float("nan"), np.array(np.nan)
        assert snapshot.left_in_data() == ()
        data.last = float("nan")
        assert snapshot.left_in_data() == ("Counted.last",)


def test_the_report_names_them_and_preserve_puts_them_back() -> None:
    for preserve in (False, True):
        data = Counted()
        training = bf.Training(
            nn.Linear(3, 1),
            DataLoader(data, 2),
            train_step=lambda model, batch: model(batch).square().mean(),
            preserve=[data] if preserve else [],
        )
        found = bf.max_batch_size(training, memory_limit="1MiB", observe=lambda event: None)
        named = any("reading samples changed Counted.reads" in each for each in found.caveats)
        assert named is not preserve
        assert (data.reads == 0) is preserve
