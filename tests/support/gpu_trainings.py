"""The trainings that ``gpu.py`` runs, as somebody would write them, in full size and in small.

A ResNet-50 (SGD with momentum, 224 × 224), a GPT-2 small (Transformers, fused AdamW, 1024 tokens),
a denoising UNet (AdamW, 64 × 64) and a GPT of 10.8 M parameters on 256 characters. Every step runs
under bfloat16 autocast, inside of the step. The data are made once and lie in memory; they have a
pattern that can be learnt, so that losses fall.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

HALF = torch.bfloat16
WORKERS = 8


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            *_unit(inputs, width, 1, 1),
            nn.ReLU(inplace=True),
            *_unit(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_unit(width, outputs, 1, 1),
        )
        same = inputs == outputs and stride == 1
        self.short = nn.Identity() if same else nn.Sequential(*_unit(inputs, outputs, 1, stride))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(values) + self.short(values), inplace=True)


def _unit(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


def residual_network(depths: tuple[int, ...], base: int) -> nn.Module:
    """ResNet-50 with depths (3, 4, 6, 3) and base 64; He et al. 2016, arXiv:1512.03385."""
    layers: list[nn.Module] = [*_unit(3, base, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = base
    for stage, depth in enumerate(depths):
        width = base * 2**stage
        for index in range(depth):
            layers.append(Bottleneck(inputs, width, 2 if stage and not index else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


class Denoiser(nn.Module):
    """A UNet of three levels that takes noise off pictures; about 20 M parameters at width 208."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(
            self._block(a, b) for a, b in itertools.pairwise((width, *widths))
        )
        self.up = nn.ModuleList(
            self._block(a + b, b)
            for a, b in zip((widths[2], widths[1]), (widths[1], widths[0]), strict=True)
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
        )

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        values, kept = self.first(noisy), []
        for block in self.down:
            values = block(values)
            kept.append(values)
            values = functional.avg_pool2d(values, 2)
        values = functional.interpolate(values, scale_factor=2.0)
        for block, beside in zip(self.up, (kept[1], kept[0]), strict=True):
            values = functional.interpolate(values, size=beside.shape[-2:])
            values = block(torch.cat((values, beside), 1))
        return self.last(values)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        parts = self.mixed(self.before(values)).chunk(3, -1)
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        values = values + self.joined(attended.transpose(1, 2).flatten(2))
        return values + self.narrow(functional.gelu(self.wide(self.between(values))))


class Characters(nn.Module):
    """A GPT over characters, without dropout; Radford et al. 2019."""

    def __init__(self, words: int, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, words)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        values = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        return self.out(self.norm(self.blocks(values)))


def gpt2(words: int, width: int, layers: int, heads: int, length: int) -> nn.Module:
    """GPT-2 of the Transformers library, with its dropout of 0.1 and its default attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        vocab_size=words, n_embd=width, n_layer=layers, n_head=heads, n_positions=length,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(shape)


# Data ----------------------------------------------------------------------------------------


class Pool(Dataset[Any]):
    """``length`` samples out of a pool of fewer, which lie in memory."""

    def __init__(self, *parts: torch.Tensor, length: int = 1 << 16) -> None:
        self.parts, self.length = parts, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return tuple(part[index % len(part)] for part in self.parts)


@functools.cache
def pictures(side: int, count: int) -> Pool:
    labels = torch.arange(count) % 10
    patterns = torch.randn(10, 3, side, side)
    return Pool(torch.randn(count, 3, side, side) + 0.3 * patterns[labels], labels)


@functools.cache
def noisy_pictures(side: int, count: int) -> Pool:
    clean = functional.interpolate(torch.randn(count, 3, side // 8, side // 8), scale_factor=8.0)
    return Pool(clean + torch.randn_like(clean), clean)


@functools.cache
def texts(words: int, length: int, count: int) -> Pool:
    start, pace = torch.randint(words, (count, 1)), torch.randint(1, 4, (count, 1))
    return Pool((start + pace * torch.arange(length)) % words)


# Trainings -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], Pool]
    loss: Callable[[nn.Module, Any], torch.Tensor]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch_size: int


def classified(model: nn.Module, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def denoised(model: nn.Module, batch: Any) -> torch.Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def continued(model: nn.Module, batch: Any) -> torch.Tensor:
    return model(input_ids=batch[0], labels=batch[0]).loss


def predicted(model: nn.Module, batch: Any) -> torch.Tensor:
    logits = model(batch[0][:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), batch[0][:, 1:].flatten())


def cases(tiny: bool) -> dict[str, Case]:
    """By name; ``tiny`` ones train on a CPU in milliseconds."""
    side, small_side, count = (32, 16, 64) if tiny else (224, 64, 1024)
    network = ((1, 1), 8) if tiny else ((3, 4, 6, 3), 64)
    language = (500, 32, 2, 2, 64) if tiny else (50257, 768, 12, 12, 1024)
    characters = (65, 32, 2, 2, 33) if tiny else (65, 384, 6, 6, 257)
    momentum = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    adam = functools.partial(torch.optim.AdamW, lr=3e-4)
    fused = adam if tiny else functools.partial(adam, fused=True)
    made = (
        Case(
            "ResNet-50",
            functools.partial(residual_network, *network),
            functools.partial(pictures, side, count),
            classified,
            momentum,
            64,
        ),
        Case(
            "GPT-2 small",
            functools.partial(gpt2, *language),
            functools.partial(texts, language[0], language[-1], count),
            continued,
            fused,
            8,
        ),
        Case(
            "UNet",
            functools.partial(Denoiser, 8 if tiny else 208),
            functools.partial(noisy_pictures, small_side, count),
            denoised,
            adam,
            64,
        ),
        Case(
            "character GPT",
            functools.partial(Characters, *characters),
            functools.partial(texts, characters[0], characters[-1], count),
            predicted,
            functools.partial(torch.optim.AdamW, lr=1e-3),
            64,
        ),
    )
    return {case.name: case for case in made}


class Training:
    """One case on a device: model, optimizer, loader and step."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        self.case, self.device = case, device
        self.model = case.model().to(device).train()
        self.optimizer = case.optimizer(self.model.parameters())
        self.data = case.data()
        workers = WORKERS if device.type == "cuda" else 0
        self.loader = DataLoader(
            self.data, case.batch_size, shuffle=True, num_workers=workers, pin_memory=workers > 0
        )

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The step that the library is handed: bfloat16, which it has to see by itself."""
        with torch.autocast(self.device.type, HALF):
            return self.case.loss(model, batch)

    def batch(self, size: int) -> tuple[torch.Tensor, ...]:
        """``size`` samples on the device."""
        return tuple(
            part[torch.arange(size) % len(part)].to(self.device) for part in self.data.parts
        )

    def step(self, batch: Any) -> None:
        """One plain training step."""
        self.optimizer.zero_grad()
        self.loss(self.model, batch).backward()
        self.optimizer.step()
