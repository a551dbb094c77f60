"""What a monitor and a scheduler are given, refused where it cannot be meant."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch

from batchfinder.errors import InvalidArgument

__all__ = ["check_callable", "check_count", "optimizers_of", "trainable_in"]


def check_count(name: str, found: Any, least: int) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        InvalidArgument: naming the argument.
    """
    is_count = isinstance(found, SupportsIndex) and not isinstance(found, (bool, torch.Tensor))
    if not is_count or operator.index(found) < least:
        raise InvalidArgument(f"expected {name} as a count of at least {least}; found {found!r}")


def check_callable(name: str, found: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        InvalidArgument: naming the argument.
    """
    if not callable(found):
        raise InvalidArgument(f"expected {name} as a function; found {type(found).__name__}")


def optimizers_of(optimizer: Any) -> list[torch.optim.Optimizer]:
    """One optimizer, or several, as a list.

    Raises:
        InvalidArgument: where something else was given.
    """
    found = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    is_row = isinstance(found, Sequence) and bool(found)
    if not is_row or not all(isinstance(each, torch.optim.Optimizer) for each in found):
        raise InvalidArgument(
            "expected a torch optimizer, or a list of them; found "
            f"{type(optimizer).__name__}: pass the model first and its optimizer second"
        )
    return list(found)


def trainable_in(optimizers: Sequence[torch.optim.Optimizer]) -> list[torch.Tensor]:
    """The parameters that these optimizers hold and that are not frozen, each once."""
    held = {
        id(parameter): parameter
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    }
    return list(held.values())
