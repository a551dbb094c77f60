"""How long the user's loader takes, at sizes that it was not made for too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import FakeClock
from torch.utils.data import DataLoader, Dataset, default_collate

from batchfinder.run.batches import source_from
from batchfinder.run.batches.workers import loading_seconds, time_loader


class Files(Dataset[Any]):
    """Every second sample is broken."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return None if index % 2 else torch.zeros(3)


def without_broken(rows: list[Any]) -> Any:
    return default_collate([row for row in rows if row is not None])


def test_sizes_too_small_for_the_collate_function_take_their_share_of_a_larger_one() -> None:
    loader = DataLoader(Files(), batch_size=4, collate_fn=without_broken)
    found = loading_seconds(source_from(loader), [1, 4, 8])
    assert set(found) == {1, 4, 8}
    assert found[1] == pytest.approx(found[4] / 4)


def test_one_batch_is_enough_where_it_takes_the_whole_time_in_this_process() -> None:
    clock = FakeClock()

    class Slow(Files):
        def __getitem__(self, index: int) -> Any:
            clock.pass_by(1.0)
            return torch.zeros(3)

    loader = DataLoader(Slow(), batch_size=4)
    assert time_loader(loader, clock=clock, budget_seconds=2.0) == 4.0
    assert clock.now == 4.0


def test_an_error_at_the_users_own_size_is_raised() -> None:
    def broken(rows: list[Any]) -> Any:
        raise IndexError("list index out of range")

    loader = DataLoader(Files(), batch_size=4, collate_fn=without_broken)
    source = source_from(loader)
    loader.collate_fn = broken
    with pytest.raises(IndexError):
        loading_seconds(source, [4, 8])
