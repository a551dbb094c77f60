"""What is used of ``torch.distributed`` that is no part of its public interface, all in one place.

Each function's docstring says what is lost where a torch has it not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from batchfinder.errors import NoiseNotMeasured

__all__ = [
    "ShardedGroup",
    "default_store",
    "forget_sharded_gradients",
    "is_under_way",
    "reset_reducer",
    "resets_sharded_iteration",
    "sharded_groups",
    "sharded_mesh_size",
    "work_begun",
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
    """Ranks that train on samples of their own; 0 where ``sharded`` holds no parameters itself."""
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


def work_begun(result: Any) -> list[Any]:
    """The handles among what an operator of ``c10d`` gives back; functional ones give none."""
    parts = result if isinstance(result, tuple) else (result,)
    return [each for each in parts if isinstance(each, torch.ScriptObject)]


def is_under_way(work: Any) -> bool:
    """Whether a collective has not ended. Where torch cannot say, none counts as under way."""
    kind = getattr(sys.modules.get("torch._C._distributed_c10d"), "Work", None)
    return kind is not None and not kind.unbox(work).is_completed()


def default_store() -> Any:
    """The store of the default process group, under which ranks leave messages."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


class ShardedGroup:
    """Parameters that ``fully_shard`` gathers and reduces together.

    What is reduced is laid out as one row for each shard, and in it every parameter's part in turn,
    filled up with zeros.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self._reduce: Any = None
        self.parameters: list[torch.Tensor] = [each.sharded_param for each in group.fsdp_params]
        info = group.mesh_info
        self.shards: int = getattr(info, "shard_mesh_size", 1)
        self.shard_rank: int = getattr(info, "shard_mesh_rank", 0)
        self.copies: int = getattr(info, "replicate_mesh_size", 1)
        self.process_group: Any = getattr(info, "shard_process_group", None)
        padded = (each.padded_sharded_param_size for each in group.fsdp_params)
        self.shard_numels: list[int] = [int(size.numel()) for size in padded]
        self.numels: list[int] = [each.numel() for each in self.parameters]
        self.whole_numel = self.shards * sum(self.shard_numels)

    def refuse_scaled(self) -> None:
        """Nothing can be read where gradients are scaled before they are reduced.

        Raises:
            NoiseNotMeasured: for a reduce dtype or a divide factor whose scale is unknown.
        """
        kinds = {self._group.mp_policy.reduce_dtype or each.dtype for each in self.parameters}
        if kinds <= {torch.float32, torch.bfloat16} and not self._group.gradient_divide_factor:
            return
        names = ", ".join(sorted(map(str, kinds)))
        raise NoiseNotMeasured(
            "expected gradients that fully_shard reduces in float32 or bfloat16 and divides by the "
            f"number of ranks; found {names}, or a custom gradient divide factor, whose scale is "
            "unknown"
        )

    def listen(self, see: Callable[[torch.Tensor], None]) -> None:
        """Show every input of this group's reduce-scatter to ``see``."""
        self._reduce = self._group._reduce_scatter_comm
        self._group._reduce_scatter_comm = _Seen(self._reduce, see)

    def unlisten(self) -> None:
        """As it was before."""
        if self._reduce is not None:
            self._group._reduce_scatter_comm, self._reduce = self._reduce, None

    def as_shard(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """This rank's parts of the parameters' ``tensors`` as one row, in single precision."""
        parts = []
        for tensor, numel in zip(tensors, self.shard_numels, strict=True):
            flat = getattr(tensor, "_local_tensor", tensor).detach().reshape(-1).float()
            parts.append(torch.nn.functional.pad(flat, (0, numel - flat.numel())))
        return torch.cat(parts)

    def gather(self, rows: torch.Tensor, own: torch.Tensor) -> None:
        """Every shard's row into ``rows``; all ranks of the group must come here."""
        from torch import distributed

        gather = getattr(distributed, "all_gather_single", distributed.all_gather_into_tensor)
        gather(rows, own, group=self.process_group)

    def gradient_shard(self) -> torch.Tensor:
        """This rank's part of the mean gradient as one row; zeros where there is none."""
        return self.as_shard(
            [p.new_zeros(0) if p.grad is None else p.grad for p in self.parameters]
        )


class _Seen:
    """A reduce-scatter whose inputs are shown before it begins."""

    def __init__(self, reduce: Any, see: Callable[[torch.Tensor], None]) -> None:
        self._reduce, self._see = reduce, see

    def allocate(self, *given: Any, **named: Any) -> Any:
        return self._reduce.allocate(*given, **named)

    def __call__(self, *given: Any, **named: Any) -> Any:
        self._see(named["input_tensor"] if "input_tensor" in named else given[1])
        return self._reduce(*given, **named)


def sharded_groups(modules: Iterable[torch.nn.Module]) -> list[ShardedGroup]:
    """All groups of ``modules`` that have parameters to train; none where nothing is sharded."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if kind is None:
        return []
    parts = {id(part): part for module in modules for part in module.modules()}.values()
    states = {id(s): s for p in parts if isinstance(p, kind) for s in [p._get_fsdp_state()]}
    groups = {id(g): g for state in states.values() for g in _sharded_groups(state)}
    found = [ShardedGroup(group) for group in groups.values()]
    return [each for each in found if any(p.requires_grad for p in each.parameters)]
