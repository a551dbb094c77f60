"""What one batch leaves for the next does not travel from size to size."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf

DATA = TensorDataset(torch.randn(256, 4), torch.randint(3, (256,)))
LOSS = nn.CrossEntropyLoss()


class Queue(nn.Module):
    """A memory queue in whose end a batch must fit."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("queue", torch.zeros(64))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        start = int(self.place)
        self.queue[start : start + len(x)] = x.detach().sum(1)
        self.place.fill_((start + len(x)) % 64)
        return LOSS(self.layer(x), labels)


def test_a_queue_starts_anew_at_every_size() -> None:
    model = Queue()
    found = bf.find_batch_size(
        model,
        DataLoader(DATA, batch_size=16, drop_last=True),
        base_learning_rate=1e-3,
        memory_limit="16MiB",
        powers_of_two=True,
        at_most=32,
        budget_seconds=60,
        noise=None,
    )
    assert found.max_batch_size == 32
    assert int(model.place) == 0
