"""What goes wrong inside a user's step, named with its way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from batchfinder.errors import DeviceMismatch, InvalidArgument, LossIsNotFinite, UnknownLoss

__all__ = ["forward_named", "refuse_not_finite", "second_backward_named"]

_SCHEDULE_END = re.compile(r"Tried to step \d+ times\. The specified number of total steps")
"""``OneCycleLR`` ends so; other schedules of torch go on."""


def refuse_not_finite(loss: torch.Tensor) -> None:
    """Raises ``LossIsNotFinite`` for NaN and infinity."""
    if not bool(torch.isfinite(loss)):
        raise LossIsNotFinite(
            f"expected a finite loss; found {float(loss)}: check the data and the learning "
            "rate, and train a few steps by hand first"
        )


@contextmanager
def forward_named() -> Iterator[None]:
    """Errors of a forward pass whose own text has no way out for us, as ours."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "Expected all tensors to be on the same device" in text:
            raise DeviceMismatch(
                "expected model, loss and batch on one device; torch says: "
                f"{text.splitlines()[0]} — move the model and the loss to one device before "
                "the call, or move the batch inside train_step"
            ) from error
        if "is not attached to a `Trainer`" in text:
            raise InvalidArgument(
                "expected a step that runs without a Trainer; found one that needs it: use "
                "batchfinder.integrations.lightning, find_batch_size(trainer, model, ...)"
            ) from error
        raise
    except ValueError as error:
        if not _SCHEDULE_END.match(str(error)):
            raise
        raise InvalidArgument(
            "expected a train_step that can be called more often than the training has steps; "
            f"found one whose learning-rate schedule ends ({error}): leave scheduler.step() out of "
            "train_step and pass scheduler=, or build the schedule with more steps for this call"
        ) from error


@contextmanager
def second_backward_named() -> Iterator[None]:
    """Torch's advice to retain the graph misleads where the user's step ran backward itself."""
    try:
        yield
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise UnknownLoss(
            "expected a loss on which backward has not run; found one on which it has. Let "
            "train_step return the loss before backward and leave backward and update to "
            "batchfinder, or let it do all of it and return None or loss.detach(). Under "
            "Accelerate and Fabric return the loss instead of calling accelerator.backward(loss) "
            "or fabric.backward(loss)"
        ) from error
