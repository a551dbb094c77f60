"""On a GPU: the largest batch under 8, 24 and 80 GB, then 100 real steps, then 3 % more.

Two trainings: a convolutional network of ResNet-50's size on 224 × 224 images, and a Transformer
of GPT-2 small's size on 1024 tokens in bfloat16, both with AdamW. Printed for each limit: the
largest micro-batch, its peak, the one recommended with 5 % headroom, whether 100 steps there ran
without running out of memory, and whether a micro-batch 3 % above the largest fails.

    python tests/benchmarks/gpu_maxima.py            on a GPU, minutes
    python tests/benchmarks/gpu_maxima.py --tiny     the same in small, on a CPU, to try the script
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import batchfinder
from batchfinder.run.memory import backend_for, memory_limit
from batchfinder.run.oom import Verdict, classify

STEPS = 100
HEADROOM = 0.05


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


class Language(nn.Module):
    """GPT-2 small with width 768, 12 layers and 12 heads; Radford et al. 2019."""

    def __init__(self, words: int, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        values = self.words(tokens) + self.places.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        for block in self.blocks:
            values = block(values, src_mask=mask, is_causal=True)
        return functional.linear(self.norm(values), self.words.weight)


def next_word_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


class Made(Dataset[Any]):
    """As many samples as are asked for, made on the spot."""

    def __init__(self, make: Callable[[], Any], length: int) -> None:
        self.make, self.length = make, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.make()


@dataclass(frozen=True)
class Case:
    name: str
    model: Callable[[], nn.Module]
    sample: Callable[[], Any]
    limits: tuple[str, ...]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    autocast: Any = None


def image(side: int) -> Any:
    return torch.zeros(3, side, side), torch.tensor(0)


def text(length: int) -> Any:
    return torch.zeros(length, dtype=torch.long), torch.zeros(length, dtype=torch.long)


def cases(tiny: bool) -> tuple[Case, ...]:
    limits = ("64MiB", "128MiB") if tiny else ("8GB", "24GB", "80GB")
    network = (
        functools.partial(residual_network, (1, 1), 8)
        if tiny
        else functools.partial(residual_network, (3, 4, 6, 3), 64)
    )
    language = functools.partial(
        Language, *((500, 32, 2, 2, 64) if tiny else (50257, 768, 12, 12, 1024))
    )
    return (
        Case(
            "CNN, ResNet-50's size",
            network,
            functools.partial(image, 32 if tiny else 224),
            limits,
            functional.cross_entropy,
        ),
        Case(
            "Transformer, GPT-2 small's size, bf16",
            language,
            functools.partial(text, 64 if tiny else 1024),
            limits,
            next_word_loss,
            torch.bfloat16,
        ),
    )


def steps_hold(case: Case, device: torch.device, limit: str, size: int, steps: int) -> bool:
    """Whether real steps at ``size`` run under ``limit``."""
    model = case.model().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    loader = DataLoader(Made(case.sample, size * steps), batch_size=size)
    kind = None
    try:
        with memory_limit(limit, device):
            for inputs, target in itertools.islice(loader, steps):
                optimizer.zero_grad()
                with torch.autocast(device.type, case.autocast, enabled=case.autocast is not None):
                    loss = case.loss(model(inputs.to(device)), target.to(device))
                loss.backward()
                optimizer.step()
    except RuntimeError as error:
        kind = classify(error)
        if kind is Verdict.OTHER:
            raise
    return kind is None


def row(case: Case, device: torch.device, limit: str, steps: int) -> str:
    torch.manual_seed(0)
    model = case.model().to(device).train()
    loader = DataLoader(Made(case.sample, 1 << 20), batch_size=8)
    result = batchfinder.max_batch_size(
        model,
        loader,
        loss_fn=case.loss,
        optimizer=torch.optim.AdamW(model.parameters()),
        autocast=case.autocast,
        memory_limit=limit,
    )
    del model
    largest = result.max_batch_size
    peaks = {trial.batch_size: trial.peak_bytes or 0 for trial in result.trials if trial.fits}
    room = (1 - HEADROOM) * result.memory.limit_bytes - result.memory.fixed_bytes
    recommended = max(min(int(room / result.memory.per_sample_bytes), largest), 1)
    backend_for(device, limit).release()
    held = steps_hold(case, device, limit, recommended, steps)
    above = steps_hold(case, device, limit, math.ceil(largest * 1.03), 3)
    return (
        f"| {case.name} | {limit} | {largest} | {peaks[largest] / 2**30:.3f} "
        f"| {len(result.trials)} | {recommended} | {'yes' if held else 'no'} "
        f"| {'runs' if above else 'fails'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}{', in small' if options.tiny else ''}\n")
    print("| training | limit | largest | peak GiB | trials | recommended | steps held | + 3 % |")
    print("|---|---|---|---|---|---|---|---|")
    for case in cases(options.tiny):
        for limit in case.limits:
            print(row(case, device, limit, options.steps), flush=True)


if __name__ == "__main__":
    main()
