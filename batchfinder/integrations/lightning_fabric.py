"""What ``Fabric`` set up, as a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.integrations.shared import refuse_strategy
from batchfinder.training import Training

__all__ = ["fabric_training", "is_fabric"]

_GIVEN = ("loss_fn", "train_step", "clip", "scheduler")


def is_fabric(trainer: Any) -> bool:
    """Whether this is a ``Fabric`` rather than a ``Trainer``."""
    return not hasattr(trainer, "fit") and hasattr(trainer, "setup_dataloaders")


@contextmanager
def fabric_training(
    fabric: Any, model: Any, *objects: Any, options: dict[str, Any]
) -> Iterator[Training]:
    """The objects inside what Fabric wrapped; what only the caller knows leaves ``options``.

    Fabric's own module refuses ``loss.backward()``. The one inside it, DistributedDataParallel
    included, meanwhile converts its input and output as Fabric's does.

    Raises:
        InvalidArgument: for other objects than an optimizer and a loader, and for strategies other
            than one device and DistributedDataParallel.
    """
    if len(objects) != 2:
        raise InvalidArgument(
            "expected find_batch_size(fabric, model, optimizer, loader); found "
            f"{len(objects)} objects after the model"
        )
    refuse_strategy(fabric.strategy, "Fabric")
    optimizer, loader = objects
    precision = fabric._precision
    inside = getattr(model, "_forward_module", None)
    with nullcontext() if inside is None else _called_as_by_fabric(inside, precision):
        yield Training(
            model if inside is None else inside,
            getattr(loader, "_dataloader", loader),
            optimizer=getattr(optimizer, "optimizer", optimizer),
            autocast=fabric.autocast if inside is None else None,
            grad_scaler=getattr(precision, "scaler", None),
            **{name: options.pop(name, None) for name in _GIVEN},
        )


@contextmanager
def _called_as_by_fabric(module: torch.nn.Module, precision: Any) -> Iterator[None]:
    """Around every forward pass its precision, before and after it the conversion of tensors."""
    entered: list[AbstractContextManager[Any]] = []

    def before(_: Any, given: Any, named: Any) -> Any:
        converted = precision.convert_input((given, named))
        context = precision.forward_context()
        context.__enter__()
        entered.append(context)
        return converted

    def after(_: Any, __: Any, output: Any) -> Any:
        entered.pop().__exit__(None, None, None)
        return precision.convert_output(output)

    hooks = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
