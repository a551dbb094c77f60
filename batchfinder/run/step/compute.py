"""What computes the loss of a batch: the user's ``train_step``, or model and loss."""

from __future__ import annotations

from typing import Any

import torch

from batchfinder.errors import InvalidArgument, UnknownLoss
from batchfinder.protocols import Batch
from batchfinder.run.step.call import Call, call_for, check_loss_takes
from batchfinder.run.step.loss import LossInference, own_loss, refuse_mismatch, require_scalar
from batchfinder.run.step.update import split_weight
from batchfinder.run.tree import describe
from batchfinder.wording import Caveat

__all__ = ["ModelLoss", "UserStep", "compute_of"]


def compute_of(model: Any, loss_fn: Any, train_step: Any) -> UserStep | ModelLoss:
    """The loss of a batch on the device, and its weight, where ``train_step`` gives one.

    Raises:
        InvalidArgument: for both of ``loss_fn`` and ``train_step``, and for several models
            without ``train_step``.
    """
    if train_step is not None:
        if loss_fn is not None:
            raise InvalidArgument(
                "expected loss_fn or train_step; found both: let train_step compute the loss"
            )
        return UserStep(model, train_step)
    if not isinstance(model, torch.nn.Module):
        raise InvalidArgument(
            "expected train_step=(models, batch -> loss) with several models; found none"
        )
    return ModelLoss(model, loss_fn)


class UserStep:
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

    def look_at(self, batch: Batch) -> None:
        """Nothing can be seen in a batch before ``train_step`` has run."""


class ModelLoss:
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
            call.note(error, self._model, batch)
            raise
        if self._loss_fn is not None:
            if call.target is None:
                raise _no_target(batch)
            if is_first:
                check_loss_takes(self._loss_fn, output, call.target)
            try:
                loss = self._loss_fn(output, call.target)
            except Exception as error:
                self._has_run = not is_first
                refuse_mismatch(self._loss_fn, output, call.target, error)
                raise
            return require_scalar(loss, "loss_fn"), None
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
    raise UnknownLoss(
        "expected a model that returns its loss, or an output to compare with the target; found "
        f"an output and a scalar that does not depend on the target ({describe(batch)}): pass "
        "loss_fn= "
        "(output, target -> scalar), or train_step=(model, batch -> scalar) that adds them up"
    )


def _no_target(batch: Batch) -> UnknownLoss:
    return UnknownLoss(
        "expected a model that returns its loss, or a batch with a target (the last of a tuple, "
        f"or a key such as 'labels'); found {describe(batch)}: pass train_step=(model, batch -> "
        "scalar), or loss_fn= with a batch that has a target"
    )
