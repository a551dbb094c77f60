"""What a model must be before anything is done with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from batchfinder.errors import InvalidArgument

__all__ = ["check_model", "refuse_inference"]


def check_model(modules: Sequence[Any]) -> None:
    """Refuse lazy modules that have seen no batch, and weights that hold no data.

    Raises:
        InvalidArgument: saying what to do first.
    """
    for module in modules:
        if not isinstance(module, torch.nn.Module):
            raise InvalidArgument(
                "expected a torch.nn.Module (or a list or dict of them) as the model; "
                f"found {type(module).__name__}: pass the module itself"
            )
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if torch.nn.parameter.is_lazy(tensor):
                raise InvalidArgument(
                    f"expected parameters with shapes; {name!r} belongs to a lazy module that has "
                    "seen no batch: run one batch through the model, then build the optimizer"
                )
            if tensor.is_meta:
                raise InvalidArgument(
                    f"expected parameters that hold data; {name!r} is on the meta device: "
                    "materialize the model with .to_empty(device=...) and load its weights"
                )


def refuse_inference(modules: Iterable[torch.nn.Module]) -> None:
    """Refuse tensors that can have no gradient.

    Raises:
        InvalidArgument: naming the first of them.
    """
    for module in modules:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_inference():
                raise InvalidArgument(
                    f"expected a model that can be trained; {name!r} was made under "
                    "torch.inference_mode(): build or load the model outside of it"
                )
