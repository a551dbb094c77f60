"""Trainings that are not the tutorial's, each as the arguments of ``find_batch_size``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, parametrize
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

ROWS = 256


def images() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(ROWS, 16, generator=generator)
    return DataLoader(TensorDataset(pixels, (pixels[:, 0] > 0).long()), 16, shuffle=True)


def texts() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(2)
    words = torch.randint(0, 11, (ROWS, 9), generator=generator)
    return DataLoader(TensorDataset(words[:, :-1], words[:, 1:]), 16, shuffle=True)


def perceptron(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def gan() -> dict[str, Any]:
    """Two models, two optimizers, and a step that does its own updates."""
    models = {"generator": perceptron(4, 32, 16), "critic": perceptron(16, 32, 1)}
    optimizers = {name: torch.optim.Adam(m.parameters(), lr=1e-3) for name, m in models.items()}

    def step(nets: dict[str, nn.Module], batch: Any) -> None:
        real = batch[0]
        fake = nets["generator"](torch.randn(len(real), 4))
        optimizers["critic"].zero_grad()
        (nets["critic"](fake.detach()).mean() - nets["critic"](real).mean()).backward()
        optimizers["critic"].step()
        optimizers["generator"].zero_grad()
        (-nets["critic"](fake).mean()).backward()
        optimizers["generator"].step()

    return {"model": models, "train_step": step, "optimizer": optimizers, "loader": images()}


def diffusion() -> dict[str, Any]:
    """The model predicts the noise that was added at a random time."""

    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        clean = batch[0]
        time = torch.rand(len(clean), 1)
        noise = torch.randn_like(clean)
        mixed = (1 - time).sqrt() * clean + time.sqrt() * noise
        return nn.functional.mse_loss(model(torch.cat([mixed, time], 1)), noise)

    model = perceptron(17, 64, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {"model": model, "train_step": step, "optimizer": optimizer, "loader": images()}


def contrastive() -> dict[str, Any]:
    """Every other sample of the batch is a negative: the loss depends on the batch."""

    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        one, two = (
            nn.functional.normalize(model(batch[0] + 0.1 * torch.randn_like(batch[0])), dim=1)
            for _ in range(2)
        )
        return nn.functional.cross_entropy(one @ two.T / 0.1, torch.arange(len(one)))

    model = perceptron(16, 32, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return {"model": model, "train_step": step, "optimizer": optimizer, "loader": images()}


class Transformer(nn.Module):
    """Causal, with its head tied to its words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        return self.head(self.layer(self.words(words), src_mask=mask, is_causal=True))


def compiled_transformer() -> dict[str, Any]:
    model = torch.compile(Transformer(), backend="aot_eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {"model": model, "optimizer": optimizer, "loader": texts()}


def tied_transformer() -> dict[str, Any]:
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {"model": model, "optimizer": optimizer, "loader": texts()}


def scaled_half_precision() -> dict[str, Any]:
    """float16 with a gradient scaler, as on a GPU; torch has both for the CPU too."""
    model = perceptron(16, 32, 2)
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "autocast": torch.float16,
        "grad_scaler": torch.amp.GradScaler("cpu", init_scale=1024.0),
        "loader": images(),
    }


def clipped() -> dict[str, Any]:
    """Clips inside a step that does its own update and says its loss as a number."""
    model = perceptron(16, 32, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(net: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return {"model": model, "train_step": step, "optimizer": optimizer, "loader": images()}


class Deep(nn.Module):
    """Eight layers, each run again in the backward pass where ``again`` says so."""

    def __init__(self, again: bool = True) -> None:
        super().__init__()
        self.again = again
        self.first, self.head = nn.Linear(16, 64), nn.Linear(64, 2)
        self.blocks = nn.ModuleList(perceptron(64, 256, 64) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.again else block(x)
        return self.head(x)


def checkpointed(again: bool = True) -> dict[str, Any]:
    model = Deep(again)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    return {"model": model, "optimizer": optimizer, "loader": images()}


def adapters() -> dict[str, Any]:
    """A frozen body in bfloat16 and low-rank adapters in float32."""

    class LowRank(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.down = nn.Parameter(torch.randn(2, inputs) * 0.1)
            self.up = nn.Parameter(torch.zeros(outputs, 2))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight.float() + self.up @ self.down

    model = perceptron(16, 32, 2)
    for layer in (model[0], model[2]):
        layer.weight = nn.Parameter(layer.weight.detach().bfloat16())
        parametrize.register_parametrization(
            layer, "weight", LowRank(layer.in_features, layer.out_features), unsafe=True
        )
    model.requires_grad_(False)
    trained = [p for name, p in model.named_parameters() if "down" in name or "up" in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    return {"model": model, "optimizer": optimizer, "loader": images()}


class Average:
    """A moving average of the weights that the step keeps: named in ``preserve``."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = [p.detach().clone() for p in model.parameters()]

    def update(self, model: nn.Module) -> None:
        for mean, weight in zip(self.weights, model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 0.1)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mean, weight in zip(self.weights, state["weights"], strict=True):
            mean.copy_(weight)


def averaged() -> dict[str, Any]:
    model = perceptron(16, 32, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    average = Average(model)

    def step(net: nn.Module, batch: Any) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(batch[0]), batch[1]).backward()
        optimizer.step()
        schedule.step()
        average.update(net)

    return {
        "model": model,
        "train_step": step,
        "optimizer": optimizer,
        "preserve": [average, schedule],
        "loader": images(),
    }


def normalised() -> dict[str, Any]:
    """A batch norm, which cannot train on one sample, and dropout."""
    model = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {"model": model, "optimizer": optimizer, "loader": images()}


TRAININGS: list[Callable[[], dict[str, Any]]] = [
    gan,
    diffusion,
    contrastive,
    tied_transformer,
    scaled_half_precision,
    clipped,
    checkpointed,
    adapters,
    averaged,
    normalised,
]
