"""Eight small models, one per thing that memory depends on, each with data and an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

ROWS = 20_000
"""Rows that a loader claims; they are made when asked for."""


@dataclass(frozen=True)
class Case:
    """A model, its loader and optimizer, as a user would pass them."""

    name: str
    make: Callable[[], tuple[nn.Module, DataLoader, Any]]
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> tuple[nn.Module, DataLoader, Any]:
        torch.manual_seed(0)
        return self.make()


class Rows(Dataset):
    """As many rows as wanted of the same few, so that no row costs memory."""

    def __init__(self, *tensors: torch.Tensor, rows: int = ROWS) -> None:
        self.tensors = tensors
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(tensor[index % len(tensor)] for tensor in self.tensors)


def loader_of(*tensors: torch.Tensor, collate: Any = None) -> DataLoader:
    return DataLoader(Rows(*tensors), batch_size=8, shuffle=True, collate_fn=collate)


def images(size: int, classes: int = 10) -> DataLoader:
    return loader_of(torch.randn(64, 3, size, size), torch.randint(classes, (64,)))


def conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


def cnn(width: int = 16) -> nn.Module:
    return nn.Sequential(
        conv(3, width),
        conv(width, 2 * width, 2),
        conv(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(4 * width, 10),
    )


class Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(before, after, stride), conv(after, after))
        self.skip = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.skip(x))


def resnet(width: int = 16) -> nn.Module:
    return nn.Sequential(
        conv(3, width),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


class UNet(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.down = conv(3, width), conv(width, 2 * width, 2)
        self.middle = conv(2 * width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.last = nn.Sequential(conv(2 * width, width), nn.Conv2d(width, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        deep = self.middle(self.down(first))
        return self.last(torch.cat([first, self.up(deep)], 1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.mix(self.norms[0](x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.norms[1](x))


class GPT(nn.Module):
    """A decoder that returns its own loss; with ``recompute``, by checkpoints."""

    def __init__(self, width: int = 64, layers: int = 3, *, recompute: bool = False) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(500, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList([Block(width, 4) for _ in range(layers)])
        self.head = nn.Linear(width, 500, bias=False)
        self.head.weight = self.tokens.weight
        self.recompute = recompute

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        x = self.tokens(input_ids) + self.places.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return functional.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


def tokens() -> DataLoader:
    ids = torch.randint(500, (64, 64))

    def collate(rows: list[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
        inputs = torch.stack([row[0] for row in rows])
        return {"input_ids": inputs, "labels": inputs}

    return loader_of(ids, collate=collate)


class Encoder(nn.Module):
    """Sequences of unlike lengths, padded, with a padding mask."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(500, width, padding_idx=0)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        padding = ids == 0
        x = self.layers(self.embed(ids), src_key_padding_mask=padding)
        weights = (~padding).unsqueeze(-1).to(x.dtype)
        return self.head((x * weights).sum(1) / weights.sum(1))


class Texts(Dataset):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((5 + index % 44,), 1 + index % 400), index % 4


def padded() -> DataLoader:
    def collate(rows: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
        return ids, torch.tensor([row[1] for row in rows])

    return DataLoader(Texts(), batch_size=8, shuffle=True, collate_fn=collate)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(16, 64, 2, batch_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x)[0][:, -1])


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters())


def _cnn() -> tuple[nn.Module, DataLoader, Any]:
    model = cnn()
    return model, images(32), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def _resnet() -> tuple[nn.Module, DataLoader, Any]:
    model = resnet()
    return model, images(32), adamw(model)


def _unet() -> tuple[nn.Module, DataLoader, Any]:
    model, pictures = UNet(), torch.randn(64, 3, 32, 32)
    return model, loader_of(pictures, pictures), adamw(model)


def _gpt() -> tuple[nn.Module, DataLoader, Any]:
    model = GPT()
    return model, tokens(), adamw(model)


def _recomputed() -> tuple[nn.Module, DataLoader, Any]:
    model = GPT(layers=4, recompute=True)
    return model, tokens(), adamw(model)


def _encoder() -> tuple[nn.Module, DataLoader, Any]:
    model = Encoder()
    return model, padded(), adamw(model)


def _lstm() -> tuple[nn.Module, DataLoader, Any]:
    model = Recurrent()
    return model, loader_of(torch.randn(64, 50, 16), torch.randint(4, (64,))), adamw(model)


def _perceptron() -> tuple[nn.Module, DataLoader, Any]:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    data = TensorDataset(torch.randn(500, 64), torch.randint(10, (500,)))
    return model, DataLoader(data, batch_size=8), adamw(model)


PERCEPTRON = Case("MLP", _perceptron)
LSTM = Case("LSTM", _lstm)
EXACT = (
    Case("CNN with BatchNorm", _cnn),
    Case("ResNet", _resnet),
    Case("UNet", _unet),
    Case("GPT", _gpt),
    Case("encoder with padding", _encoder),
    Case("GPT, checkpointed", _recomputed),
    Case("GPT, bf16 autocast", _gpt, {"autocast": torch.bfloat16}),
    Case("CNN, bf16 autocast", _cnn, {"autocast": torch.bfloat16}),
)
"""Those whose peak fake tensors can know."""


class Bottleneck(nn.Module):
    """As in torchvision's ResNet-50."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2, self.bn3 = nn.BatchNorm2d(width), nn.BatchNorm2d(after)
        self.conv3, self.relu = nn.Conv2d(width, after, 1, bias=False), nn.ReLU(inplace=True)
        self.skip = None
        if stride != 1 or before != after:
            narrow = nn.Conv2d(before, after, 1, stride, bias=False)
            self.skip = nn.Sequential(narrow, nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.skip is None else self.skip(x)
        return self.relu(y)


def resnet50() -> nn.Module:
    """25,557,032 parameters, as torchvision's."""
    stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
    layers: list[nn.Module] = [*stem, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            layers.append(Bottleneck(before, width, stride if index == 0 else 1))
            before = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))
