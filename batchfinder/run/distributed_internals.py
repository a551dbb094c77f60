"""What is used of ``torch.distributed`` that is no part of its public interface, all in one place.

Each function's docstring says what is lost where a torch has it not.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = [
    "default_store",
    "forget_sharded_gradients",
    "reset_reducer",
    "resets_sharded_iteration",
    "sharded_mesh_size",
]

_MESH_KINDS = ("shard", "replicate")


def reset_reducer(wrapped: Any) -> None:
    """Let a ``DistributedDataParallel`` start anew after a step that was cut.

    Without ``Reducer._reset_state`` (before torch 2.2) its next forward pass fails.
    """
    wrapped._has_rebuilt_buckets = False
    reset = getattr(wrapped.reducer, "_reset_state", None)
    if reset is not None:
        reset()


def resets_sharded_iteration(sharded: Any) -> bool:
    """Whether ``fully_shard`` of this torch can start anew after a step that was cut."""
    return hasattr(sharded, "reset_iter_state")


def forget_sharded_gradients(sharded: Any) -> None:
    """Let a module under ``fully_shard`` start anew: its state, and what its groups had gathered.

    ``reset_iter_state`` leaves gradients of a backward that was cut on the unsharded parameters,
    where the next one adds to them.
    """
    state = sharded._get_fsdp_state()
    if state._is_root:
        sharded.reset_iter_state()
    for group in _sharded_groups(state):
        for parameter in group.fsdp_params:
            parameter.unsharded_accumulated_grad = None
            unsharded = getattr(parameter, "_unsharded_param", None)
            if unsharded is not None:
                unsharded.grad = None


def sharded_mesh_size(sharded: Any) -> int:
    """Ranks that train on samples of their own under ``fully_shard``; 0 where it is not known."""
    for group in _sharded_groups(sharded._get_fsdp_state()):
        sizes = (getattr(group.mesh_info, f"{kind}_mesh_size", 1) for kind in _MESH_KINDS)
        return math.prod(sizes)
    return 0


def _sharded_groups(state: Any) -> list[Any]:
    """Parameter groups of one module: several since torch 2.13, one before."""
    several = getattr(state, "_fsdp_param_groups", None)
    if several is not None:
        return list(several)
    one = getattr(state, "_fsdp_param_group", None)
    return [] if one is None else [one]


def default_store() -> Any:
    """The store of the default process group, under which ranks leave messages."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
