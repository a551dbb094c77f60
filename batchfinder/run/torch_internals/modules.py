"""The tables that modules keep their parts in, and the classes that kinds of them share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = [
    "BATCH_NORMS",
    "DROPOUTS",
    "OWN_ATTRIBUTES",
    "SUBMODULES",
    "TENSOR_TABLES",
    "buffers_of",
    "hooks_of",
    "parameters_of",
]

BATCH_NORMS = (torch.nn.modules.batchnorm._BatchNorm,)
"""The base of batch norms over any number of dimensions, ``SyncBatchNorm`` and lazy ones too."""
DROPOUTS = (torch.nn.modules.dropout._DropoutNd,)
"""The base of all dropouts."""

OWN_ATTRIBUTES = frozenset(vars(torch.nn.Module()))
"""What every module has, as against what its author gave it."""
TENSOR_TABLES = ("_parameters", "_buffers")
SUBMODULES = "_modules"

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
)


def parameters_of(module: torch.nn.Module) -> dict[str, torch.nn.Parameter | None]:
    """A module's own, by name, in the table itself; ``None`` where one was registered as that."""
    return module._parameters


def buffers_of(module: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    """A module's own, as :func:`parameters_of`; what is put into the table is the module's."""
    return module._buffers


def hooks_of(thing: Any) -> Iterator[Any]:
    """The hooks on a module, a parameter or an optimizer.

    Of a torch that keeps them elsewhere none is found: what only a hook refers to is not restored.
    """
    for name in _HOOKS:
        yield from (getattr(thing, name, None) or {}).values()
