"""What must hold before a first step is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from batchfinder.errors import DeviceMismatch

__all__ = ["check_loss_device", "device_of"]


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
