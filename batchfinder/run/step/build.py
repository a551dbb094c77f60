"""A training step put together, after looking for what cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from batchfinder.errors import DeviceMismatch
from batchfinder.protocols import Batch
from batchfinder.run.reachable import reached_from
from batchfinder.run.step.compute import compute_of
from batchfinder.run.step.optimizers import (
    ASSUMED_RATE,
    assumed_optimizers,
    check_optimizers,
    trainable,
    trained_by,
)
from batchfinder.run.step.precision import context_for
from batchfinder.run.step.training import Step
from batchfinder.run.step.update import Clip
from batchfinder.training import Backward, Training, as_list
from batchfinder.wording import Caveat

__all__ = ["check_loss_device", "device_of", "step_from", "step_of"]


def device_of(modules: Sequence[torch.nn.Module]) -> torch.device:
    """Where the model's first parameter is: batches are moved there."""
    return next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))


def check_loss_device(loss_fn: Any, modules: Sequence[torch.nn.Module]) -> None:
    """The loss may stand on any device that the model stands on.

    Raises:
        DeviceMismatch: where it stands elsewhere.
    """
    if not isinstance(loss_fn, torch.nn.Module):
        return
    there = {p.device for module in modules for p in module.parameters()}
    for name, tensor in [*loss_fn.named_parameters(), *loss_fn.named_buffers()]:
        if there and tensor.device not in there:
            devices = " and ".join(sorted(map(str, there)))
            raise DeviceMismatch(
                f"expected the loss on {devices}, where the model is; its {name!r} is on "
                f"{tensor.device}: call loss_fn.to({str(next(iter(there)))!r}) first"
            )


def step_of(
    training: Training, *, sample_batch: Batch = None, base_learning_rate: float | None = None
) -> Step:
    """``step_from`` of what ``training`` holds."""
    return step_from(
        training.model,
        loss_fn=training.loss_fn,
        train_step=training.train_step,
        optimizer=training.optimizer,
        autocast=training.autocast,
        grad_scaler=training.grad_scaler,
        clip=training.clip,
        backward=training.backward,
        scheduler=training.scheduler,
        sample_batch=sample_batch,
        base_learning_rate=base_learning_rate,
    )


def step_from(
    model: Any,
    *,
    loss_fn: Any = None,
    train_step: Any = None,
    optimizer: Any = None,
    autocast: Any = None,
    grad_scaler: Any = None,
    clip: Clip = None,
    backward: Backward | None = None,
    scheduler: Any = None,
    sample_batch: Batch = None,
    base_learning_rate: float | None = None,
) -> Step:
    """One training step from what the user passed.

    Args:
        model: a module; a list or dict of modules needs ``train_step``.
        loss_fn: ``(output, target) -> scalar``.
        train_step: ``(model, batch) -> scalar``, or ``(scalar, weight)``; ``None`` or a float
            where it did its own backward and update.
        optimizer: one optimizer, a list or a dict of them; left out, AdamW is assumed.
        autocast: see ``precision.context_for``.
        grad_scaler: used as in the real training.
        clip: the largest norm of the gradients, or ``(parameters) -> None``; before every update.
        backward: ``(loss) -> None`` in place of ``loss.backward()``.
        scheduler: one learning-rate scheduler or several, whose peak is the base rate.
        sample_batch: a batch to look at for what cannot work, before anything runs.
        base_learning_rate: the assumed optimizer's rate.

    Raises:
        InvalidArgument: for several models without ``train_step``, or an optimizer that needs a
            closure. The model and ``clip`` are checked before: ``Training.check``.
        NothingToTrain: where no parameter would be trained.
        DeviceMismatch: where the loss is on another device than the model.
        UnknownLoss: where ``sample_batch`` shows that no loss can be inferred.
    """
    models = as_list(model)
    check_loss_device(loss_fn, models)
    modules = [*models, *([loss_fn] if isinstance(loss_fn, torch.nn.Module) else [])]
    free = trainable(modules)
    optimizers = as_list(optimizer)
    check_optimizers(optimizers)
    device = device_of(modules)
    compute = compute_of(model, loss_fn, train_step)
    compute.look_at(sample_batch)
    held = reached_from([models, loss_fn, train_step, optimizers, backward, clip])
    used = optimizers or assumed_optimizers(free, modules, base_learning_rate)
    step = Step(
        compute,
        modules,
        trained_by(optimizers, modules) if optimizers else free,
        used,
        device=device,
        context=context_for(autocast, device, grad_scaler),
        backward=backward,
        scaler=grad_scaler,
        clip=clip,
        schedulers=as_list(scheduler),
        rate_is_known=bool(optimizers) or base_learning_rate is not None,
        compiled=held.compiled,
        is_assumed=not optimizers,
        assumptions=lambda: _assumptions(
            compute, models, base_learning_rate, used if step.assumes_optimizer else ()
        ),
    )
    return step


def _assumptions(
    compute: Any, models: list[Any], rate: float | None, assumed: Sequence[Any]
) -> Iterator[Caveat]:
    if compute.assumption:
        yield compute.assumption
    if assumed:
        yield Caveat(
            "step.assumed_optimizer",
            names=tuple(type(each).__name__ for each in assumed),
            rate=ASSUMED_RATE if rate is None else None,
        )
    if any(not module.training for module in models):
        yield Caveat("step.evaluation_mode")
