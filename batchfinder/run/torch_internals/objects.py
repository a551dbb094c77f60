"""What modules, schedulers, gradient scalers and loaders keep to themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data._utils import worker as worker_module

__all__ = [
    "BATCH_NORMS",
    "DROPOUTS",
    "LAST_RATES",
    "OWN_ATTRIBUTES",
    "SUBMODULES",
    "TENSOR_TABLES",
    "buffers_of",
    "draws_all",
    "forget_iterator",
    "hooks_of",
    "milestones_of",
    "parameters_of",
    "replace_worker_info",
    "scaler_attributes",
    "schedulers_inside",
    "stops_of",
    "switch_off",
    "worker_processes",
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


LAST_RATES = "_last_lr"
"""Where a scheduler keeps the rates that it set last; without it ``get_last_lr`` tells old ones."""
_SCALER = ("_scale", "_growth_tracker", "_per_optimizer_states")


def schedulers_inside(scheduler: Any) -> list[Any]:
    """Those that SequentialLR and ChainedScheduler are made of; none where they cannot be seen."""
    return list(getattr(scheduler, "_schedulers", ()))


def milestones_of(scheduler: Any) -> list[int]:
    """After how many steps SequentialLR goes on to its next scheduler; none where not seen."""
    return list(getattr(scheduler, "_milestones", ()))


def scaler_attributes(thing: Any) -> dict[str, Any]:
    """Copies of what a gradient scaler keeps outside its ``state_dict``; empty for anything else.

    A failed step leaves them half-way. Not restored, the scaler refuses its next step.
    """
    return {name: copy.deepcopy(getattr(thing, name)) for name in _SCALER if hasattr(thing, name)}


def switch_off(scaler: Any) -> None:
    """Let a gradient scaler scale nothing and decide nothing; without its switch it goes on."""
    scaler._enabled = False


def replace_worker_info(made: Callable[[Any], Any]) -> None:
    """In a worker process: ``get_worker_info`` gives what ``made`` makes of what it gave."""
    module: Any = worker_module
    module._worker_info = made(module._worker_info)


def worker_processes(batches: Any) -> list[Any]:
    """Those behind a loader's iterator.

    None where they cannot be seen: that one was killed is then told by torch's message alone.
    """
    return list(getattr(batches, "_workers", ()))


def kept_iterator(loader: Any) -> Any:
    """What a loader with persistent workers goes on with; ``None`` for any other."""
    return getattr(loader, "_iterator", None)


def stops_of(loader: Any, batches: Any) -> list[Callable[[], None]]:
    """What stops the worker processes behind ``batches``, and those that ``loader`` keeps.

    None where torch has no such method: processes then end with the loader.
    """
    found = (getattr(each, "_shutdown_workers", None) for each in (batches, kept_iterator(loader)))
    return [stop for stop in found if callable(stop)]


def forget_iterator(loader: Any) -> None:
    """Let a loader with persistent workers start new ones at its next pass."""
    if kept_iterator(loader) is not None:
        loader._iterator = None


def draws_all(sampler: Any) -> bool:
    """Whether a ``RandomSampler`` draws as many samples as there are, as none was told a number."""
    return getattr(sampler, "_num_samples", None) is None
