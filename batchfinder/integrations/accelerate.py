"""Accelerate: prepared objects go in, a prepared loader comes out.

from batchfinder.integrations.accelerate import apply, find_batch_size

report = find_batch_size(accelerator, model, optimizer, loader, loss_fn=loss_fn)
loader, applied = apply(report, accelerator, loader, optimizer, scheduler)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from batchfinder.errors import MissingDependency
from batchfinder.find import find_batch_size as search
from batchfinder.integrations.shared import (
    Applied,
    check_options,
    with_framework,
    with_members,
)
from batchfinder.max_batch import max_batch_size as probe
from batchfinder.report import Report
from batchfinder.results import ProbeResult
from batchfinder.training import Training

try:
    from accelerate import Accelerator
    from accelerate.state import GradientState

    from batchfinder.integrations.accelerate_loaders import (
        own_loader,
        refuse_accelerator,
        size_per_rank,
        with_size,
    )
except ImportError as error:
    raise MissingDependency(
        'batchfinder.integrations.accelerate needs accelerate: pip install "accelerate>=1"'
    ) from error

__all__ = ["apply", "find_batch_size", "max_batch_size", "training"]


def training(
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    loader: Any,
    *,
    scheduler: Any = None,
    max_grad_norm: float | None = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    train_step: Callable[[Any, Any], Any] | None = None,
) -> Training:
    """Return prepared objects as a ``Training``.

    Args:
        accelerator: the one that prepared the others.
        model: the prepared model; its forward brings its own autocast.
        optimizer: the prepared optimizer.
        loader: the prepared loader.
        scheduler: the prepared scheduler.
        max_grad_norm: what the training passes to ``accelerator.clip_grad_norm_``.
        loss_fn: ``(output, target) -> loss``.
        train_step: ``(model, batch) -> loss`` in its place; it returns the loss and does not call
            ``accelerator.backward``.

    Raises:
        InvalidArgument: under DeepSpeed, FSDP, Megatron or tensor parallelism.
    """
    refuse_accelerator(accelerator)
    return Training(
        model,
        own_loader(loader),
        loss_fn=loss_fn,
        train_step=train_step,
        optimizer=getattr(optimizer, "optimizer", optimizer),
        scheduler=getattr(scheduler, "scheduler", scheduler),
        clip=max_grad_norm,
        grad_scaler=accelerator.scaler,
    )


def find_batch_size(
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    loader: Any,
    *,
    scheduler: Any = None,
    max_grad_norm: float | None = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    train_step: Callable[[Any, Any], Any] | None = None,
    **options: Any,
) -> Report:
    """``batchfinder.find_batch_size`` on prepared objects; changes nothing.

    Every process must make this call; all get the same report.

    Args:
        accelerator: as for ``training``, as are all that follow.
        model: see there.
        optimizer: see there.
        loader: see there.
        scheduler: see there.
        max_grad_norm: see there.
        loss_fn: see there.
        train_step: see there.
        **options: other keyword arguments of ``batchfinder.find_batch_size``; ``count``,
            ``batch_dim``, ``preserve`` and ``ranks`` of ``Training`` too.

    Raises:
        InvalidArgument: as ``training``, and for options that the objects answer.
    """
    check_options(options, "Accelerate")
    made = training(
        accelerator,
        model,
        optimizer,
        loader,
        scheduler=scheduler,
        max_grad_norm=max_grad_norm,
        loss_fn=loss_fn,
        train_step=train_step,
    )
    size = size_per_rank(loader)
    own = None if size is None else size * accelerator.gradient_accumulation_steps
    options.setdefault("base_batch_size", own)
    with _at_a_boundary(accelerator):
        report = search(with_members(made, options), **options)
    return with_framework(
        report,
        "accelerate",
        precision=accelerator.mixed_precision,
        strategy=accelerator.distributed_type.value,
    )


def max_batch_size(
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    loader: Any,
    *,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    train_step: Callable[[Any, Any], Any] | None = None,
    **options: Any,
) -> ProbeResult:
    """``batchfinder.max_batch_size`` on prepared objects: the largest micro-batch that fits.

    Args:
        accelerator: as for ``training``, as are all that follow.
        model: see there.
        optimizer: see there.
        loader: see there.
        loss_fn: see there.
        train_step: see there.
        **options: other keyword arguments of ``batchfinder.max_batch_size``, and as there.

    Raises:
        InvalidArgument: as ``find_batch_size``.
    """
    check_options(options, "Accelerate")
    made = training(accelerator, model, optimizer, loader, loss_fn=loss_fn, train_step=train_step)
    with _at_a_boundary(accelerator):
        return probe(with_members(made, options), **options)


def apply(
    report: Report, accelerator: Accelerator, loader: Any, optimizer: Any, scheduler: Any = None
) -> tuple[Any, tuple[Applied, ...]]:
    """Set the recommended batch size, accumulation steps and learning rate, on every process.

    Returns:
        The prepared loader at the recommended size, which takes the old one's place in the
        accelerator; and what was set.
    """
    old_size = size_per_rank(loader)
    rebuilt = report.make_loader(loader, make_loader=partial(with_size, loader))
    kept = accelerator._dataloaders
    kept[:] = [rebuilt if other is loader else other for other in kept]
    steps = accelerator.gradient_accumulation_steps
    accelerator.gradient_accumulation_steps = report.accumulation_steps
    applied = [
        Applied("loader batch size", old_size, report.batch_size),
        Applied("accelerator.gradient_accumulation_steps", steps, report.accumulation_steps),
    ]
    factor = report.rate_factor
    if factor is not None:
        inner = getattr(optimizer, "optimizer", optimizer)
        before = [group["lr"] for group in inner.param_groups]
        report.apply_rate(inner, getattr(scheduler, "scheduler", scheduler))
        after = [group["lr"] for group in inner.param_groups]
        applied.append(Applied("optimizer learning rates", before, after))
    return rebuilt, tuple(applied)


@contextmanager
def _at_a_boundary(accelerator: Accelerator) -> Iterator[None]:
    """Gradients are synchronized at every step of the search, also in the middle of a group."""
    state = GradientState()
    synchronizing, references = state.sync_gradients, list(state.dataloader_references)
    step, loaders = accelerator.step, list(accelerator._dataloaders)
    state._set_sync_gradients(True)
    try:
        yield
    finally:
        state._set_sync_gradients(synchronizing)
        state.dataloader_references = references
        accelerator.step = step
        accelerator._dataloaders[:] = loaders
