"""A whole call on real data in about 20 s of processor time: scikit-learn's handwritten digits.

``python -m batchfinder demo`` runs this. The limit is simulated, so that a machine with any
amount of memory shows an out-of-memory error and what is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.errors import MissingDependency
from batchfinder.find import find_batch_size
from batchfinder.protocols import Observer
from batchfinder.report import Report

__all__ = ["MEMORY_LIMIT", "demo", "digits", "network", "require"]

MEMORY_LIMIT = "48MiB"
BASE_BATCH_SIZE, BASE_LEARNING_RATE = 32, 1e-3


def digits() -> TensorDataset:
    """1 797 real handwritten digits: images ``(1, 8, 8)`` from 0 to 1, labels 0 to 9.

    Raises:
        MissingDependency: where scikit-learn, which ships them, is not installed.
    """
    require("sklearn")
    table = torch.from_numpy(_table())
    pixels = table[:, :-1].to(torch.float32).reshape(-1, 1, 8, 8) / 16
    return TensorDataset(pixels, table[:, -1].to(torch.int64))


def _table() -> np.ndarray[Any, Any]:
    """Shape (1797, 65): pixels from 0 to 16, and the label.

    The file itself where it is found, since importing scikit-learn takes seconds.
    """
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.column_stack([images, labels])


def require(*modules: str) -> None:
    """Make sure that these packages can be imported, before anything is run.

    Raises:
        MissingDependency: where one is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            package = "scikit-learn" if module == "sklearn" else module
            raise MissingDependency(f"the demo needs {package}: pip install {package}")


def network() -> nn.Module:
    """A small convolutional network with BatchNorm, as somebody would write it."""
    return nn.Sequential(
        *_block(1, 16),
        *_block(16, 32),
        nn.MaxPool2d(2),
        *_block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def demo(
    *, memory_limit: int | str = MEMORY_LIMIT, observe: Observer | None = None, **options: Any
) -> Report:
    """``find_batch_size`` on the digits under a simulated limit; ``options`` go to it as given.

    Raises:
        MissingDependency: where scikit-learn is not installed.
    """
    dataset = digits()
    torch.manual_seed(0)
    model = network()
    with _one_thread():
        return find_batch_size(
            model,
            DataLoader(dataset, batch_size=BASE_BATCH_SIZE, shuffle=True),
            loss_fn=nn.CrossEntropyLoss(),
            optimizer=torch.optim.AdamW(model.parameters(), lr=BASE_LEARNING_RATE),
            memory_limit=memory_limit,
            observe=observe,
            **options,
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """So small a network gains nothing from threads, and beside other work they wait a lot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
