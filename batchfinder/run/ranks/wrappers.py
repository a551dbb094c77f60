"""What a model is wrapped in: how many replicas train, and how a step that was cut is mended.

Nothing here communicates. Modules of ``torch.distributed`` are looked up, never imported: a model
cannot be wrapped in what was not loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.run.distributed_internals import (
    forget_sharded_gradients,
    reset_reducer,
    resets_sharded_iteration,
    sharded_mesh_size,
)

__all__ = ["Wrapping", "mend", "wrapping_of"]

_ONLY_WHOLE = (
    "expected a model whose ranks all run the same steps; found {found}: {why}. Search on one "
    "stage or one process with ranks=batchfinder.ALONE, or use {instead}"
)


@dataclass(frozen=True)
class Wrapping:
    """How a model is distributed over ``size`` ranks.

    ``replicas`` of it train on samples of their own; ``splits`` says that ranks of one replica
    share samples, as under tensor parallelism. ``exchanges``: the wrapper averages
    gradients.
    """

    name: str
    replicas: int
    exchanges: bool
    sharded: bool = False
    splits: bool = False


def wrapping_of(modules: Iterable[torch.nn.Module], size: int) -> Wrapping:
    """What ``modules`` are wrapped in.

    Raises:
        InvalidArgument: for what cannot be searched on several ranks: FullyShardedDataParallel,
            stages of a pipeline, and ``fully_shard`` in a torch without ``reset_iter_state``.
    """
    parts = [part for module in modules for part in module.modules()]
    _refuse(parts)
    sharded = list(_of(parts, "torch.distributed.fsdp", "FSDPModule"))
    if sharded:
        if not resets_sharded_iteration(sharded[0]):
            raise InvalidArgument(
                "expected a torch whose fully_shard can be reset after a step that was cut "
                f"(FSDPModule.reset_iter_state); found {torch.__version__}: install a newer torch"
            )
        replicas = sharded_mesh_size(sharded[0]) or size
        return Wrapping("fully_shard", replicas, True, sharded=True, splits=replicas < size)
    split = _mesh_of(parts)
    data = list(_data_parallel(parts))
    if data:
        group = data[0].process_group
        replicas = min(size, group.size()) if group is not None else size
        return Wrapping(
            "DistributedDataParallel", replicas, True, splits=split > 1 or replicas < size
        )
    if split > 1:
        return Wrapping("tensor parallelism", max(1, size // split), False, splits=True)
    return Wrapping("", size, False)


def mend(modules: Iterable[torch.nn.Module]) -> None:
    """Let wrapped modules start a new step after one that was cut anywhere."""
    parts = [part for module in modules for part in module.modules()]
    for wrapped in _data_parallel(parts):
        reset_reducer(wrapped)
    for sharded in _of(parts, "torch.distributed.fsdp", "FSDPModule"):
        forget_sharded_gradients(sharded)


def _data_parallel(parts: Sequence[torch.nn.Module]) -> Iterator[Any]:
    yield from _of(parts, "torch.nn.parallel.distributed", "DistributedDataParallel")


def _of(parts: Sequence[torch.nn.Module], module: str, name: str) -> Iterator[Any]:
    kind = getattr(sys.modules.get(module), name, None)
    if kind is not None:
        yield from (part for part in parts if isinstance(part, kind))


def _mesh_of(parts: Sequence[torch.nn.Module]) -> int:
    """How many ranks one parameter is split over, outside ``fully_shard``; 1 where none is."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    if kind is None:
        return 1
    every = (p for part in parts for p in part.parameters(recurse=False))
    return max((int(p.device_mesh.size()) for p in every if isinstance(p, kind)), default=1)


def _refuse(parts: Sequence[torch.nn.Module]) -> None:
    if any(_of(parts, "torch.distributed.fsdp", "FullyShardedDataParallel")):
        raise InvalidArgument(
            "expected a bare module, DistributedDataParallel or fully_shard; found "
            "FullyShardedDataParallel, which cannot be put right after a step that ran out of "
            "memory: wrap the model with torch.distributed.fsdp.fully_shard instead"
        )
