"""Nested tensors of both layouts: counted, cut, joined and charged for."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import batchfinder as bf
from batchfinder.run.batches import source_from
from batchfinder.run.torch_internals.tensors import dense_parts

LAYOUTS = [torch.strided, torch.jagged]


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        return torch.full((2 + index % 5, 4), float(index)), index % 3


def nested(rows: list[Any], layout: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its interface may change
        parts = torch.nested.nested_tensor([row[0] for row in rows], layout=layout)
    return parts, torch.tensor([row[1] for row in rows])


@pytest.fixture(params=["a loader", "ready batches"])
def loader(request: Any, layout: Any) -> Any:
    loader = DataLoader(Rows(), 8, collate_fn=lambda rows: nested(rows, layout))
    return loader if request.param == "a loader" else list(loader)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 5, 8, 20])
def test_a_batch_of_any_size_is_built_and_counted(loader: Any, layout: Any, size: int) -> None:
    source = source_from(loader)
    batch = source.ordinary(size)
    assert source.count(batch) == size
    assert batch[0].is_nested and batch[0].layout is layout
    lengths = [len(part) for part in batch[0].unbind()]
    assert lengths == [2 + int(part[0, 0]) % 5 for part in batch[0].unbind()]
    assert [int(part[0, 0]) % 3 for part in batch[0].unbind()] == batch[1].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_it_holds_is_charged(layout: Any) -> None:
    tensor, _ = nested([Rows()[index] for index in range(5)], layout)
    held = sum(part.numel() * part.element_size() for part in dense_parts(tensor))
    assert held >= (2 + 3 + 4 + 5 + 6) * 4 * 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_largest_size_is_found(loader: Any, layout: Any) -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nested.to_padded_tensor(self.linear(x), 0.0).mean(1)

    found = bf.max_batch_size(
        Mean(),
        loader,
        loss_fn=nn.CrossEntropyLoss(),
        memory_limit="1MiB",
        at_most=16,
        observe=lambda event: None,
    )
    assert found.max_batch_size == 16
