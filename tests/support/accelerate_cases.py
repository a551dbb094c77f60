"""A small training that Accelerate has prepared, and its steps as its documentation has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accelerate
import torch
from framework_cases import digits, network, seed
from torch.nn import functional
from torch.utils.data import DataLoader

__all__ = ["fresh_accelerator", "prepared", "train"]


def fresh_accelerator() -> None:
    """As in a process that has made no ``Accelerator`` yet."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def warmed_up(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)


def prepared(
    data: Any = None,
    *,
    size: int = 16,
    steps: int = 2,
    rate: float = 1e-3,
    precision: str = "no",
    schedule: Callable[[torch.optim.Optimizer], Any] = warmed_up,
    **loading: bool,
) -> tuple[Any, ...]:
    """Accelerator, model, optimizer, loader and scheduler; a loader of ``data`` is not shuffled."""
    seed(0)
    accelerator = accelerate.Accelerator(
        cpu=True,
        mixed_precision=precision,
        gradient_accumulation_steps=steps,
        dataloader_config=accelerate.DataLoaderConfiguration(**loading),
    )
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    scheduler = schedule(optimizer)
    loader = DataLoader(digits() if data is None else data, size, shuffle=data is None)
    return accelerator, *accelerator.prepare(model, optimizer, loader, scheduler)


def train(
    accelerator: Any, model: Any, optimizer: Any, loader: Any, scheduler: Any, *, steps: int = 6
) -> None:
    for index, (images, labels) in enumerate(loader):
        if index == steps:
            break
        with accelerator.accumulate(model):
            accelerator.backward(functional.cross_entropy(model(images), labels))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
