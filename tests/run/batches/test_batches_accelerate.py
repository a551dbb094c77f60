"""Loaders that accelerate prepared, and batches of transformers: where those are installed."""

from __future__ import annotations

from typing import Any

import loader_cases as cases
import pytest
import torch
from torch.utils.data import DataLoader

from batchfinder.run.batches import rebuild_loader, source_from
from batchfinder.run.batches.cutting import Cutting
from batchfinder.run.step import moved


def make(size: int) -> DataLoader[Any]:
    return DataLoader(cases.Rows(70), batch_size=size, shuffle=True)


def epoch(loader: Any) -> list[Any]:
    torch.manual_seed(21)
    return [x[:, 0].tolist() for x, _ in loader]


@pytest.mark.parametrize("size", [1, 3, 64])
def test_a_prepared_loader_is_rebuilt_as_one_prepared_at_that_size(size: int) -> None:
    accelerate = pytest.importorskip("accelerate")
    prepare = accelerate.Accelerator(cpu=True).prepare
    loader = prepare(make(4))
    wanted = epoch(prepare(make(size)))
    rebuilt = rebuild_loader(loader, size)
    assert type(rebuilt) is type(loader)
    assert epoch(rebuilt) == epoch(source_from(loader).rebuild(size)) == wanted
    assert epoch(loader) == epoch(prepare(make(4)))


def test_a_batch_encoding_is_split_joined_and_moved() -> None:
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"x": torch.rand(3, 2), "labels": torch.arange(3)})
    cutting = Cutting.of([batch])
    joined = cutting.join(cutting.rows(batch))
    assert type(joined) is transformers.BatchEncoding
    assert torch.equal(joined["x"], batch["x"])
    assert moved(batch, torch.device("meta"))["x"].is_meta
    assert not batch["x"].is_meta
