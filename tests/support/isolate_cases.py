"""Factories that a child process can import."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset


def plain() -> dict[str, Any]:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 8), torch.randint(0, 4, (64,)))
    return {"model": torch.nn.Linear(8, 4), "loader": DataLoader(data, batch_size=4)}


class Fatal(torch.nn.Linear):
    """What happens above 8 rows is in the environment: a child inherits it."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 8:
            {"kill": _kill, "sticky": _sticky, "bug": _bug}[os.environ["BATCHFINDER_TEST_END"]]()
        return super().forward(inputs)


def fatal() -> dict[str, Any]:
    return {**plain(), "model": Fatal(8, 4)}


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _sticky() -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


class Unsendable(ValueError):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def _bug() -> None:
    raise Unsendable("a bug ", "of the user's")


def broken() -> dict[str, Any]:
    raise KeyError("nothing to build")
