"""The user's model, loss and optimizer as one training step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from batchfinder.errors import InvalidArgument, UnknownLoss
from batchfinder.protocols import Batch
from batchfinder.run.reachable import reached_from
from batchfinder.run.step.call import Call, call_for, check_loss_takes
from batchfinder.run.step.checks import check_loss_device, check_modules, device_of
from batchfinder.run.step.loss import LossInference, own_loss, require_scalar
from batchfinder.run.step.optimizers import (
    ASSUMED_RATE,
    assumed_optimizers,
    check_optimizers,
    trainable,
    trained_by,
)
from batchfinder.run.step.precision import context_for
from batchfinder.run.step.training import Compute, Step
from batchfinder.run.step.update import Clip, check_clip
from batchfinder.run.step.weights import split_weight
from batchfinder.training import Backward, as_list
from batchfinder.wording import Caveat

__all__ = ["step_from"]


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
        InvalidArgument: for a model that is no module or has no data yet, several models
            without ``train_step``, or an optimizer that needs a closure.
        NothingToTrain: where no parameter would be trained.
        DeviceMismatch: where the loss is on another device than the model.
        UnknownLoss: where ``sample_batch`` shows that no loss can be inferred.
    """
    models = as_list(model)
    check_modules(models)
    check_loss_device(loss_fn, models)
    check_clip(clip)
    modules = [*models, *([loss_fn] if isinstance(loss_fn, torch.nn.Module) else [])]
    free = trainable(modules)
    optimizers = as_list(optimizer)
    check_optimizers(optimizers)
    device = device_of(modules)
    compute = _compute(model, loss_fn, train_step)
    if isinstance(compute, _ModelLoss):
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


def _compute(model: Any, loss_fn: Any, train_step: Any) -> Compute:
    if train_step is not None:
        if loss_fn is not None:
            raise InvalidArgument(
                "expected loss_fn or train_step; found both: let train_step compute the loss"
            )
        return _UserStep(model, train_step)
    if not isinstance(model, torch.nn.Module):
        raise InvalidArgument(
            "expected train_step=(models, batch -> loss) beside several models; found none"
        )
    return _ModelLoss(model, loss_fn)


class _UserStep:
    """The user's ``train_step``, its loss checked."""

    assumption = None

    def __init__(self, model: Any, train_step: Any) -> None:
        self._model = model
        self._train_step = train_step

    def __call__(self, batch: Batch) -> tuple[Any, float | None]:
        loss, weight = split_weight(self._train_step(self._model, batch))
        if loss is None or isinstance(loss, float):
            return loss, weight
        found = own_loss(loss)
        return found[0].reshape(()) if found else require_scalar(loss, "train_step"), weight


class _ModelLoss:
    """A model called with a batch; its own loss, the user's, or an inferred one."""

    def __init__(self, model: torch.nn.Module, loss_fn: Any) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._inference = LossInference()
        self._said: Caveat | None = None
        self._has_run = False

    @property
    def assumption(self) -> Caveat | None:
        return self._inference.assumption or self._said

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, None]:
        call = call_for(self._model, batch, keep_target=self._loss_fn is not None)
        is_first, self._has_run = not self._has_run, True
        if is_first:
            call.check(self._model, batch)
        try:
            output = self._model(*call.positional, **call.named)
        except Exception as error:
            self._has_run = not is_first  # the next one meets it and tells
            call.note(error, batch)
            raise
        if self._loss_fn is not None:
            if call.target is None:
                raise _no_target(batch)
            if is_first:
                check_loss_takes(self._loss_fn, output, call.target)
            return require_scalar(self._loss_fn(output, call.target), "loss_fn"), None
        found = own_loss(output)
        if found is not None:
            if isinstance(output, tuple | list):
                self._said = _said_of_scalar(batch, call)
            self._said = found[1] or self._said
            return require_scalar(found[0], "the model"), None
        if call.target is None:
            raise _no_target(batch)
        return self._inference(output, call.target), None

    def look_at(self, batch: Batch) -> None:
        """Refuse at once a loss function for a batch in which no target can be seen."""
        if batch is None or self._loss_fn is None:
            return
        if call_for(self._model, batch, keep_target=True).target is None:
            raise _no_target(batch)


def _said_of_scalar(batch: Batch, call: Call) -> Caveat | None:
    """What to say of a scalar that a model returned beside its output.

    A model that was given the target has computed its loss; another one may have returned a
    penalty, such as a commitment loss or a balance term.

    Raises:
        UnknownLoss: where the batch holds a target that the model was not given.
    """
    given = (*call.positional, *call.named.values())
    if call.target is None:
        return Caveat("step.only_scalar")
    if any(part is call.target for part in given):
        return None
    from batchfinder.run.batches.structure import describe

    raise UnknownLoss(
        "expected a model that returns its loss, or an output to compare with the target; found an "
        f"output and a scalar that was made without the target ({describe(batch)}): pass loss_fn= "
        "(output, target -> scalar), or train_step=(model, batch -> scalar) that adds them up"
    )


def _no_target(batch: Batch) -> UnknownLoss:
    from batchfinder.run.batches.structure import describe

    return UnknownLoss(
        "expected a model that returns its loss, or a batch with a target (the last of a tuple, "
        f"or a key such as 'labels'); found {describe(batch)}: pass train_step=(model, batch -> "
        "scalar), or loss_fn= beside a batch with a target"
    )


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
