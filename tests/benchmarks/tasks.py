"""Small real training tasks without downloads, for the benchmarks of the recommendation.

Each task is a model, a train and a validation set, a loss, an optimizer and a target loss on the
validation set. Half of them have a critical batch size in the tens, as language and denoising
models of this size do; one has BatchNorm.
"""

from __future__ import annotations

import functools
import pydoc_data.topics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

Data = tuple[TensorDataset, TensorDataset]
CONTEXT = 24
ALPHABET = "?\n abcdefghijklmnopqrstuvwxyz0123456789.,:;()[]'\"`_-=*"
"""Characters outside it count as the first."""


@dataclass(frozen=True)
class Task:
    """One training task. ``loss(model, batch)`` is the mean loss of a batch of tensors."""

    name: str
    family: str
    make_model: Callable[[], nn.Module]
    data: Callable[[], Data]
    loss: Callable[[nn.Module, list[Tensor]], Tensor]
    target: float
    sizes: tuple[int, ...]
    first_rate: float
    longest_steps: int = 3000
    """The most steps after which the target is given up, at a batch of 32."""
    longest_seconds: float = 20.0
    """The most processor time of one training."""

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if self.family == "adam":
            return torch.optim.AdamW(parameters, lr=self.first_rate)
        momentum = 0.0 if self.family == "sgd" else 0.9
        return torch.optim.SGD(parameters, lr=self.first_rate, momentum=momentum)


# ---------------------------------------------------------------------------------------------
# Data


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hand-written digits, 20 shifted and noisy copies of each for training."""
    from sklearn.datasets import load_digits

    random = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    order = random.permutation(len(images))
    images, labels = images[order].reshape(-1, 1, 8, 8) / 16.0, labels[order]
    train, held_out = images[:1297], images[1297:]
    copies = []
    for _ in range(20):
        shift = random.integers(-1, 2, size=2)
        copies.append(np.roll(train, shift, axis=(2, 3)) + random.normal(0, 0.2, train.shape))
    clean = np.tile(labels[:1297], 20)
    noisy = held_out + random.normal(0, 0.2, held_out.shape)
    return (
        torch.tensor(np.concatenate(copies), dtype=torch.float32),
        torch.tensor(clean),
        torch.tensor(noisy, dtype=torch.float32),
        torch.tensor(labels[1297:]),
    )


def digits_data() -> Data:
    images, labels, held_out, held_out_labels = digits()
    return TensorDataset(images, labels), TensorDataset(held_out, held_out_labels)


@functools.cache
def denoising_data() -> Data:
    """Digits in [-1, 1]; validation carries its own fixed noise levels and noise."""
    images, _, held_out, _ = digits()
    generator = torch.Generator().manual_seed(1)
    level = torch.rand(len(held_out), 1, generator=generator)
    noise = torch.randn(held_out.shape, generator=generator)
    return TensorDataset(images * 2 - 1), TensorDataset(held_out * 2 - 1, level, noise)


@functools.cache
def text_data() -> Data:
    """Windows of Python's own help topics, by character."""
    text = "".join(pydoc_data.topics.topics.values()).lower()
    index = {character: number for number, character in enumerate(ALPHABET)}
    codes = torch.tensor([index.get(character, 0) for character in text])
    windows = codes[: len(codes) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(2))
    return TensorDataset(windows[order[256:]]), TensorDataset(windows[order[:256]])


@functools.cache
def teacher_data() -> Data:
    """Anisotropic Gaussian inputs; labels drawn from a teacher's softmax: noise that stays."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.logspace(0, -1, 32)
    inputs = torch.randn(17408, 32, generator=generator) * spread
    first = torch.randn(32, 64, generator=generator) / 32**0.5 * 3
    second = torch.randn(64, 10, generator=generator) / 8 * 3
    chances = torch.softmax(torch.tanh(inputs @ first) @ second, dim=1)
    labels = torch.multinomial(chances, 1, generator=generator)[:, 0]
    whole = TensorDataset(inputs[:16384], labels[:16384])
    return whole, TensorDataset(inputs[16384:], labels[16384:])


@functools.cache
def series_data() -> Data:
    """Mackey–Glass with observation noise: 48 values in, the next 8 out."""
    random = np.random.default_rng(4)
    values = np.full(157000, 1.2)
    for t in range(17, len(values) - 1):
        delayed = values[t - 17]
        values[t + 1] = values[t] + 0.2 * delayed / (1 + delayed**10) - 0.1 * values[t]
    values = values[1000::6]
    series = (values - values.mean()) / values.std()
    series = torch.tensor(series + random.normal(0, 0.1, series.shape), dtype=torch.float32)
    windows = series.unfold(0, 56, 1)
    inputs, outputs = windows[:, :48].unsqueeze(1), windows[:, 48:]
    train, held_out = slice(0, 20000), slice(21000, 22024)
    return (
        TensorDataset(inputs[train].contiguous(), outputs[train].contiguous()),
        TensorDataset(inputs[held_out].contiguous(), outputs[held_out].contiguous()),
    )


# ---------------------------------------------------------------------------------------------
# Models


def mlp(inputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        Residual(12),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.mix(self.first(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed(self.second(x))


class CharGPT(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(ALPHABET), width)
        self.positions = nn.Parameter(torch.randn(CONTEXT, width) * 0.02)
        self.body = Attention(width, 4)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(ALPHABET))
        nn.init.normal_(self.characters.weight, std=0.05)

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(self.norm(self.body(self.characters(codes) + self.positions)))


class UNet(nn.Module):
    """Predicts the noise in an 8 × 8 image; one step down, one step up, the level as a channel."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.leave = nn.Conv2d(2 * channels, 1, 3, padding=1)

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        plane = level.view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
        high = functional.silu(self.enter(torch.cat([noisy, plane], dim=1)))
        low = functional.silu(self.down(high))
        low = functional.silu(self.middle(low)) + low
        return self.leave(torch.cat([functional.silu(self.up(low)), high], dim=1))


class Forecaster(nn.Module):
    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, channels, 5, stride=2),
            nn.GELU(),
            nn.Conv1d(channels, channels, 5, stride=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(channels * 9, 64),
            nn.GELU(),
            nn.Linear(64, 8),
        )

    def forward(self, series: Tensor) -> Tensor:
        return self.body(series)


# ---------------------------------------------------------------------------------------------
# Losses


def classify(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def next_character(model: nn.Module, batch: list[Tensor]) -> Tensor:
    codes = batch[0]
    return functional.cross_entropy(model(codes[:, :-1]).flatten(0, 1), codes[:, 1:].flatten())


def denoise(model: nn.Module, batch: list[Tensor]) -> Tensor:
    if len(batch) == 3:
        images, level, noise = batch
    else:
        images = batch[0]
        level, noise = torch.rand(len(images), 1), torch.randn_like(images)
    angle = level.view(-1, 1, 1, 1) * (torch.pi / 2)
    return functional.mse_loss(model(images * angle.cos() + noise * angle.sin(), level), noise)


def forecast(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


# ---------------------------------------------------------------------------------------------

WIDE = (8, 16, 32, 64, 128, 256, 512, 1024)
NARROW = (4, 8, 16, 32, 64, 128, 256)
digits_mlp, tabular_mlp = functools.partial(mlp, 64), functools.partial(mlp, 32)
SGD, ADAM = "sgd-momentum", "adam"

TASKS: tuple[Task, ...] = (
    Task("character GPT, AdamW", ADAM, CharGPT, text_data, next_character, 2.15, NARROW, 0.004),
    Task("digits ResNet, BatchNorm", SGD, resnet, digits_data, classify, 0.45, WIDE, 0.1),
    Task("denoising UNet", ADAM, UNet, denoising_data, denoise, 0.38, NARROW, 0.004),
    Task("digits MLP", SGD, digits_mlp, digits_data, classify, 0.6, WIDE, 0.02),
    Task("character GPT, SGD", SGD, CharGPT, text_data, next_character, 2.3, NARROW, 0.125),
    Task("Mackey–Glass forecast", ADAM, Forecaster, series_data, forecast, 0.045, WIDE, 0.004),
    Task("teacher, tabular", ADAM, tabular_mlp, teacher_data, classify, 1.43, WIDE[1:], 0.002),
)
