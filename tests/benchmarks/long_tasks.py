"""Tasks for long runs, written after the rules were made.

Models of 1,000 to 30,000 parameters on data that is generated or comes with scikit-learn, so that
thousands of steps take seconds. ``Long.size`` is where rates are compared; runs are ``steps`` long
there at the best rate.
"""

from __future__ import annotations

import argparse as prose
import ast
import functools
import inspect
import itertools
import math
import textwrap
from dataclasses import dataclass
from typing import Any

import torch
from held_out import _split
from tasks import ADAM, SGD, WIDE, Data, Task, classify, digits, forecast
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset


@dataclass(frozen=True)
class Long:
    """A task, the size at which its rates are compared, and how long its run is there.

    ``seen``: looked at when it was settled how far a race moves the rule's rate.
    """

    task: Task
    size: int
    steps: int
    seen: bool


# --- data ----------------------------------------------------------------------------------------


def autoencoding_data() -> Data:
    images, _, held_out, _ = digits()
    return TensorDataset(images.flatten(1)), TensorDataset(held_out.flatten(1))


@functools.cache
def lorenz_data() -> Data:
    """The Lorenz system, a step of 0.01: twelve places in, the place half a unit later out."""
    state = torch.tensor([1.0, 1.0, 20.0], dtype=torch.float64)
    places = []
    for _ in range(18000):
        x, y, z = state
        slope = torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
        state = state + 0.01 * slope
        places.append(state)
    path = torch.stack(places[500:]).float()
    path = (path - path.mean(0)) / path.std(0)
    windows = path.unfold(0, 62, 1)
    inputs, outputs = windows[:, :, :12].flatten(1), windows[:, :, -1]
    inputs = inputs + 0.05 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(21))
    return (
        TensorDataset(inputs[2000:].contiguous(), outputs[2000:].contiguous()),
        TensorDataset(inputs[:1024].contiguous(), outputs[:1024].contiguous()),
    )


@functools.cache
def clusters_data() -> Data:
    """Scikit-learn's classification problem: 8 classes of 3 clusters, a label in 20 wrong."""
    from sklearn.datasets import make_classification

    inputs, labels = make_classification(
        21024,
        n_features=40,
        n_informative=12,
        n_redundant=8,
        n_classes=8,
        n_clusters_per_class=3,
        flip_y=0.05,
        random_state=22,
    )
    return _split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels))


def patches_data() -> Data:
    """Digits as sixteen patches of four pixels."""
    images, labels, held_out, held_out_labels = digits()

    def patched(each: Tensor) -> Tensor:
        return functional.unfold(each, 2, stride=2).transpose(1, 2).contiguous()

    return TensorDataset(patched(images), labels), TensorDataset(patched(held_out), held_out_labels)


@functools.cache
def sets_data() -> Data:
    """Sixteen numbers from a mixture of two normals: its weight, distance and spread are asked."""
    generator = torch.Generator().manual_seed(23)
    asked = torch.rand(21024, 3, generator=generator)
    near = torch.rand(21024, 16, generator=generator) < asked[:, :1]
    noise = torch.randn(21024, 16, generator=generator)
    values = (0.2 + asked[:, 2:]) * noise + torch.where(near, 0.0, 3 * asked[:, 1:2])
    return _split(values, asked)


@functools.cache
def source_data() -> Data:
    """Python's own source text: seven characters in, the next one out."""
    text = inspect.getsource(prose) + inspect.getsource(textwrap) + inspect.getsource(ast)
    known = sorted(set(text))
    codes = torch.tensor([known.index(character) for character in text])
    windows = codes.unfold(0, 8, 3)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(24))
    windows = windows[order]
    return _split(windows[:, :7], windows[:, 7])


# --- models --------------------------------------------------------------------------------------


def autoencoder() -> nn.Module:
    widths = (64, 96, 12, 96, 64)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Residuals(nn.Module):
    """A perceptron with skips."""

    def __init__(self, inputs: int = 36, width: int = 64, outputs: int = 3) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.body = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.body:
            x = x + functional.silu(layer(x))
        return self.leave(x)


def normed_by_batch() -> nn.Module:
    return nn.Sequential(
        nn.Linear(40, 96),
        nn.BatchNorm1d(96),
        nn.ReLU(),
        nn.Linear(96, 96),
        nn.BatchNorm1d(96),
        nn.ReLU(),
        nn.Linear(96, 8),
    )


class Transformer(nn.Module):
    """One block of attention over sixteen patches, with dropout."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.enter = nn.Linear(4, width)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, patches: Tensor) -> Tensor:
        x = self.enter(patches) + self.places
        query, key, value = self.mix(self.first(x)).chunk(3, dim=-1)
        x = x + self.out(functional.scaled_dot_product_attention(query, key, value))
        x = x + self.feed(self.second(x))
        return self.head(x.mean(dim=1))


class Sets(nn.Module):
    """The same network on every number, and another on the mean."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width))
        self.all = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.all(self.each(values.unsqueeze(-1)).mean(dim=1)))


class Window(nn.Module):
    """Embeddings of seven characters side by side, as Bengio's first language model has them."""

    def __init__(self, characters: int = 128, width: int = 12) -> None:
        super().__init__()
        self.embedded = nn.Embedding(characters, width)
        self.body = nn.Sequential(nn.Linear(7 * width, 96), nn.Tanh(), nn.Linear(96, characters))

    def forward(self, codes: Tensor) -> Tensor:
        return self.body(self.embedded(codes).flatten(1))


# --- losses --------------------------------------------------------------------------------------


def reconstruct(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[0])


# -------------------------------------------------------------------------------------------------

PLAIN = "sgd"


def _long(
    size: int, steps: int, name: str, family: str, *of: Any, rate: float, seen: bool = True
) -> Long:
    """``of``: model, data and loss. The target is what the best rate reaches in ``steps``."""
    return Long(Task(name, family, *of, -math.inf, WIDE, rate), size, steps, seen)


LONG: tuple[Long, ...] = (
    _long(
        *(128, 1500, "clusters, BatchNorm, SGD", SGD),
        *(normed_by_batch, clusters_data, classify),
        rate=0.05,
    ),
    _long(
        *(128, 1500, "Lorenz forecast, residual", ADAM),
        *(Residuals, lorenz_data, forecast),
        rate=2e-3,
    ),
    _long(*(64, 1500, "sets, plain SGD", PLAIN), *(Sets, sets_data, forecast), rate=0.1),
    _long(
        *(128, 2000, "source characters, SGD", SGD),
        *(Window, source_data, classify),
        rate=0.1,
        seen=False,
    ),
    _long(
        *(64, 1500, "digits autoencoder, AdamW", ADAM),
        *(autoencoder, autoencoding_data, reconstruct),
        rate=2e-3,
    ),
    _long(
        *(64, 1500, "digits transformer, dropout", ADAM),
        *(Transformer, patches_data, classify),
        rate=2e-3,
        seen=False,
    ),
)
