"""What a worker sends of a sample: the sample, and not the storage that it is a view of."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.run.batches import source_from
from batchfinder.run.batches.requests import packed

POOL = torch.arange(200_000.0).reshape(1000, 200)


@dataclass
class Scan:
    picture: torch.Tensor
    name: str


@pytest.mark.parametrize(
    "sample",
    [
        POOL[3],
        (POOL[3], torch.tensor(1)),
        {"inputs": [POOL[3], "text"], "labels": POOL[4, :2]},
        Scan(POOL[3], "one"),
        (POOL[3].unsqueeze(0).transpose(0, 1), POOL[:, 3]),
        (POOL[3], POOL[3]),
        POOL[3].clone().requires_grad_(),
    ],
    ids=["a row", "a pair", "nested", "an object", "strides", "twice", "with a gradient"],
)
def test_a_view_is_sent_without_the_rest_of_its_storage(sample: Any) -> None:
    sent = packed(sample)
    assert sent is not None and len(sent) < 10_000
    received = pickle.loads(sent)  # made just above
    for before, after in zip(_tensors(sample), _tensors(received), strict=True):
        assert torch.equal(before, after) and before.requires_grad == after.requires_grad


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Scan):
        return [value.picture]
    parts = value.values() if isinstance(value, dict) else value
    return [each for part in parts if not isinstance(part, str) for each in _tensors(part)]


def test_rows_of_a_tensor_dataset_are_small_however_they_are_read() -> None:
    source = source_from(DataLoader(TensorDataset(POOL), batch_size=4, num_workers=1))
    read = source.samples(range(3))  # type: ignore[attr-defined]
    source.close()
    for (row,) in read:
        assert row.untyped_storage().nbytes() == 200 * 4
