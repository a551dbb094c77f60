"""What must hold before a first step is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from batchfinder.errors import DeviceMismatch, InvalidArgument

__all__ = ["check_loss_device", "check_modules", "device_of"]


def check_modules(modules: Sequence[Any]) -> None:
    """Refuse lazy modules that have seen no batch, and weights that hold no data.

    Raises:
        InvalidArgument: saying what to do first.
    """
    for module in modules:
        if not isinstance(module, torch.nn.Module):
            raise InvalidArgument(
                "expected a torch.nn.Module (or a list or dict of them) as the model; "
                f"found {type(module).__name__}"
            )
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
                raise InvalidArgument(
                    f"expected parameters with shapes; {name!r} belongs to a lazy module that has "
                    "seen no batch: run one batch through the model, then build the optimizer"
                )
            if tensor.is_meta:
                raise InvalidArgument(
                    f"expected parameters that hold data; {name!r} is on the meta device: "
                    "materialise the model with .to_empty(device=...) and load its weights"
                )


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
