"""What would save memory, and how much: each change rehearsed again, none estimated by a share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Never

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from batchfinder.errors import BatchFinderError, InvalidArgument
from batchfinder.html import Shown
from batchfinder.keywords import keywords_named, refuse_unknown
from batchfinder.predict.estimate import estimate_memory
from batchfinder.training import (
    Autocast,
    Clip,
    GradScaler,
    Loader,
    LossFunction,
    Model,
    Optimizer,
    Scheduler,
    StepFunction,
    Training,
    training_of,
)
from batchfinder.units import format_bytes

__all__ = ["MemorySavings", "Saving", "memory_savings"]


@dataclass(frozen=True)
class Saving:
    """One change and the predicted peak with it, in bytes; ``how`` is what to write."""

    name: str
    peak_bytes: int
    saved_bytes: int
    how: str


@dataclass(frozen=True)
class MemorySavings(Shown):
    """Changes that reduce the predicted peak of one step at ``batch_size``, largest first."""

    batch_size: int
    peak_bytes: int
    savings: tuple[Saving, ...]

    def __str__(self) -> str:
        first = f"predicted peak at batch size {self.batch_size:,}: {format_bytes(self.peak_bytes)}"
        if not self.savings:
            return f"{first}; none of the changes tried reduces it"
        width = max(len(each.name) for each in self.savings)
        rows = [
            f"{each.name:<{width}}  {format_bytes(each.peak_bytes):>10}  "
            f"-{each.saved_bytes / self.peak_bytes:.0%}  {each.how}"
            for each in self.savings
        ]
        return "\n".join([first, *rows])


@keywords_named
def memory_savings(
    model: Model | Training,
    loader: Loader | None = None,
    batch_size: int | None = None,
    *,
    device: str | torch.device | None = None,
    loss_fn: LossFunction | None = None,
    train_step: StepFunction | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    clip: Clip | None = None,
    autocast: Autocast | None = None,
    grad_scaler: GradScaler | None = None,
    **unknown: Never,
) -> MemorySavings:
    """Predict how much memory autocast, checkpointing and other optimizers would save.

    What you train:
        As for ``estimate_memory``: ``model`` and ``loader``, or a ``Training``; ``loss_fn``,
        ``train_step``, ``optimizer``, ``scheduler``, ``clip``, ``autocast``, ``grad_scaler``. All
        is afterwards as it was.

    What is asked:
        batch_size: samples per micro-batch, at least 1.
        device: the device to predict for: "cuda", or a name such as "H200". Default: that of the
            model.

    Raises:
        InvalidArgument, CannotPredict: as for ``estimate_memory``. A change that cannot be traced
            is omitted.
    """
    refuse_unknown(memory_savings, unknown)
    training = training_of(
        model,
        loader,
        loss_fn=loss_fn,
        train_step=train_step,
        optimizer=optimizer,
        scheduler=scheduler,
        clip=clip,
        autocast=autocast,
        grad_scaler=grad_scaler,
    )

    def peak(**changed: Any) -> int:
        changed_training = replace(training, **changed)
        found = estimate_memory(changed_training, batch_size=batch_size, device=device)
        return found.total_bytes

    if batch_size is None:
        raise InvalidArgument("memory_savings: expected batch_size=; found none")
    now = peak()
    savings = []
    for change in _changes(training):
        try:
            with change.around():
                then = peak(**change.options)
        except BatchFinderError:
            continue
        if then < now:
            savings.append(Saving(change.name, then, now - then, change.how))
    ranked = sorted(savings, key=lambda saving: saving.peak_bytes)
    return MemorySavings(batch_size, now, tuple(ranked))


@dataclass(frozen=True)
class _Change:
    name: str
    how: str
    options: dict[str, Any]
    around: Callable[[], Any] = nullcontext


def _changes(training: Training) -> Iterator[_Change]:
    modules, optimizer = training.modules(), training.optimizer
    if training.autocast is None and training.train_step is None:
        yield _Change("bfloat16 autocast", "torch.autocast(...)", {"autocast": torch.bfloat16})
    blocks = _repeated_blocks(modules)
    if blocks:
        kind = type(blocks[0]).__name__
        yield _Change(
            "activation checkpointing",
            f"torch.utils.checkpoint.checkpoint(block, ...) around each of {len(blocks)} {kind}",
            {},
            lambda: _checkpointed(blocks),
        )
    parameters = [
        parameter
        for module in modules
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    if optimizer is None or isinstance(optimizer, torch.optim.Optimizer):
        for name, momentum in (("SGD with momentum", 0.9), ("SGD without momentum", 0.0)):
            leaner = torch.optim.SGD(parameters, lr=1e-3, momentum=momentum)
            how = f"torch.optim.SGD(..., momentum={momentum})"
            yield _Change(name, f"{how}; it trains differently", {"optimizer": leaner})


def _repeated_blocks(modules: list[nn.Module]) -> list[nn.Module]:
    """The blocks worth checkpointing: the list of like modules that holds the most parameters."""

    def like(module: nn.Module) -> list[nn.Module]:
        children = list(module.children())
        same = len({type(child) for child in children}) == 1
        return children if same and len(children) > 1 else []

    lists = [
        like(module)
        for top in modules
        for module in top.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    return max(lists, key=lambda blocks: sum(map(_size_of, blocks)), default=[])


def _size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _checkpointed(blocks: list[nn.Module]) -> Iterator[None]:
    """Every block recomputes its activations in backward."""

    def recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    own = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = recomputing(block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
