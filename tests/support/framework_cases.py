"""Small trainings under Lightning, Transformers and Accelerate, on data without downloads."""

from __future__ import annotations

import functools
import hashlib
import pydoc_data.topics
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits  # here: loaded between two trainings they differ
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from batchfinder import ALONE

LIMIT = "24MiB"

SHORT: dict[str, Any] = {
    "memory_limit": LIMIT,
    "at_most": 24,
    "budget_seconds": 0.5,
    "observe": lambda event: None,
}
"""Every stage begins and few get far: enough for what a search leaves behind."""

WHOLE: dict[str, Any] = {"memory_limit": LIMIT, "budget_seconds": 8, "observe": lambda event: None}
"""Every stage, the confirmation included."""

PROBE: dict[str, Any] = {"memory_limit": LIMIT, "observe": lambda event: None}


class Noted:
    """What only the caller of an adapter knows: who searches together, and what is put back."""

    def __init__(self) -> None:
        self.kept = SimpleNamespace(events=0)
        self.met = self.events = 0
        self.members = {"ranks": self, "preserve": [self.kept], "observe": self._observe}

    def meet(self, described: Any, *, replicas: int | None = None) -> Any:
        self.met += 1
        return ALONE.meet(described, replicas=replicas)

    def _observe(self, event: object) -> None:
        self.kept.events += 1
        self.events += 1

    def assert_used(self) -> None:
        assert self.met == 1
        assert self.events > 0
        assert self.kept.events == 0


@functools.cache
def digits() -> TensorDataset:
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(images, torch.tensor(found.target))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


class Lines(Dataset[dict[str, torch.Tensor]]):
    """Lines of Python's own documentation, as bytes, padded to one length."""

    def __init__(self, count: int = 400, length: int = 32) -> None:
        text = "\n".join(pydoc_data.topics.topics.values()).encode()
        starts = range(0, count * length, length)
        self.rows = [torch.tensor(list(text[start : start + length])) % 128 for start in starts]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def digest(*things: Any) -> str:
    """Of everything in state dicts, random number generators included."""
    found = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        elif isinstance(value, dict):
            for key in value:
                found.update(str(key).encode())
                feed(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                feed(item)
        else:
            found.update(repr(value).encode())

    for thing in things:
        feed(thing.state_dict())
    feed([random.random(), float(np.random.rand()), torch.rand(1)])
    return found.hexdigest()
