"""Tasks for the regret table that no rule was made on: they were added once the rules were done."""

from __future__ import annotations

import functools

import torch
from tasks import ADAM, SGD, WIDE, Data, Task, classify, forecast
from torch import Tensor, nn
from torch.utils.data import TensorDataset

LENGTH = 12


def _split(inputs: Tensor, outputs: Tensor, held_out: int = 1024) -> Data:
    return (
        TensorDataset(inputs[held_out:].contiguous(), outputs[held_out:].contiguous()),
        TensorDataset(inputs[:held_out].contiguous(), outputs[:held_out].contiguous()),
    )


@functools.cache
def counting_data() -> Data:
    """Twelve digits; the class is how many of them are larger than the one before."""
    generator = torch.Generator().manual_seed(11)
    digits = torch.randint(0, 10, (21024, LENGTH), generator=generator)
    return _split(digits, (digits[:, 1:] > digits[:, :-1]).sum(dim=1))


@functools.cache
def photograph_data() -> Data:
    """Pixels of a photograph: the place in, the colour out."""
    from sklearn.datasets import load_sample_image

    image = torch.tensor(load_sample_image("china.jpg")[::3, ::3].copy(), dtype=torch.float32)
    height, width, _ = image.shape
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    places = torch.stack([rows, columns], dim=-1).reshape(-1, 2)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(12))
    return _split(places[order], (image.reshape(-1, 3) / 127.5 - 1)[order])


@functools.cache
def friedman_data() -> Data:
    """Friedman's first regression problem, standardised, with its noise."""
    from sklearn.datasets import make_friedman1

    inputs, values = make_friedman1(17408, n_features=10, noise=1.0, random_state=13)
    standard = (values - values.mean()) / values.std()
    return _split(
        torch.tensor(inputs, dtype=torch.float32) * 2 - 1,
        torch.tensor(standard, dtype=torch.float32).unsqueeze(1),
    )


class Counter(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.digits = nn.Embedding(10, 16)
        self.memory = nn.GRU(16, width, batch_first=True)
        self.head = nn.Linear(width, LENGTH)

    def forward(self, digits: Tensor) -> Tensor:
        return self.head(self.memory(self.digits(digits))[0][:, -1])


class Painter(nn.Module):
    """A perceptron on sines and cosines of the place."""

    frequencies: Tensor

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(14)
        self.register_buffer("frequencies", 4 * torch.randn(2, 32, generator=generator))
        self.body = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        )

    def forward(self, places: Tensor) -> Tensor:
        angles = places @ self.frequencies
        return self.body(torch.cat([angles.sin(), angles.cos()], dim=1))


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(10, 64),
        nn.LayerNorm(64),
        nn.GELU(),
        nn.Linear(64, 64),
        nn.LayerNorm(64),
        nn.GELU(),
        nn.Linear(64, 1),
    )


HELD_OUT: tuple[Task, ...] = (
    Task("counting rises, GRU", ADAM, Counter, counting_data, classify, 0.8, WIDE, 0.004),
    Task("photograph by place", ADAM, Painter, photograph_data, forecast, 0.08, WIDE, 0.004),
    Task("Friedman, LayerNorm", SGD, normed, friedman_data, forecast, 0.057, WIDE, 0.05),
)
