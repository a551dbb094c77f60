"""How a call begins: the ranks that make it together, and what the model is wrapped in.

Nothing here communicates. Modules of ``torch.distributed`` are looked up, never imported: a model
cannot be wrapped in what was not loaded.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from batchfinder import __version__
from batchfinder.errors import InvalidArgument
from batchfinder.protocols import RankGroup, Ranks
from batchfinder.run.ranks.group import ranks_here
from batchfinder.run.reachable import reached_from
from batchfinder.run.torch_internals.distributed import (
    forget_sharded_gradients,
    reset_reducer,
    resets_sharded_iteration,
    sharded_mesh_size,
)

__all__ = ["Wrapping", "described_model", "meet", "mend", "refuse_alone", "wrapping_of"]


@dataclass(frozen=True)
class Wrapping:
    """How a model is distributed.

    ``replicas`` ranks train on samples of their own; ``None`` where all do. ``exchanges``: a
    wrapper averages gradients, among ``group_size`` ranks.
    """

    name: str = ""
    replicas: int | None = None
    exchanges: bool = False
    group_size: int = 1


def wrapping_of(models: Iterable[Any]) -> Wrapping:
    """What those of ``models`` that are modules are wrapped in.

    Raises:
        InvalidArgument: for what cannot be put right after a step that was cut:
            FullyShardedDataParallel, and ``fully_shard`` in a torch without ``reset_iter_state``.
    """
    modules = [each for each in models if isinstance(each, torch.nn.Module)]
    parts = [part for module in modules for part in module.modules()]
    if any(_of(parts, "torch.distributed.fsdp", "FullyShardedDataParallel")):
        raise InvalidArgument(
            "expected a bare module, DistributedDataParallel or fully_shard; found "
            "FullyShardedDataParallel, which cannot be reset after a step that ran out of "
            "memory: wrap the model with torch.distributed.fsdp.fully_shard instead"
        )
    sharded = list(_of(parts, "torch.distributed.fsdp", "FSDPModule"))
    if sharded:
        if not resets_sharded_iteration(sharded[0]):
            raise InvalidArgument(
                "expected a torch version whose fully_shard can be reset after an interrupted "
                f"step (FSDPModule.reset_iter_state); found {torch.__version__}: install a newer "
                "torch"
            )
        # a root whose children hold all parameters has no group of its own
        size = max(sharded_mesh_size(each) for each in sharded)
        return Wrapping("fully_shard", size or None, True, group_size=size)
    split = _ranks_of_one_parameter(parts)
    for wrapped in _data_parallel(parts):
        size = int(wrapped.process_group.size())
        return Wrapping("DistributedDataParallel", size, True, group_size=size)
    if split > 1:
        replicas = torch.distributed.get_world_size() // split
        return Wrapping("tensor parallelism", max(1, replicas), group_size=split)
    return Wrapping()


def refuse_alone(wrapping: Wrapping) -> None:
    """One rank by itself cannot step a model that waits for others.

    Raises:
        InvalidArgument: naming the way out.
    """
    if wrapping.group_size > 1:
        raise InvalidArgument(
            f"expected the bare module if a rank searches alone; found {wrapping.name} over "
            f"{wrapping.group_size} ranks, which would wait for the others: pass model.module, or "
            "leave ranks=ALONE out and make the call on every rank"
        )


def described_model(modules: Iterable[torch.nn.Module]) -> str:
    """What the model is made of, for ranks to compare: names and whole shapes."""
    lines = [
        f"{name} {tuple(tensor.shape)} {tensor.dtype}"
        for module in modules
        for name, tensor in module.named_parameters()
    ]
    digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
    return f"{len(lines)} parameters ({digest})"


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


def _ranks_of_one_parameter(parts: Sequence[torch.nn.Module]) -> int:
    """How many ranks one parameter is split over, outside ``fully_shard``; 1 where none is."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    if kind is None:
        return 1
    every = (p for part in parts for p in part.parameters(recurse=False))
    return max((int(p.device_mesh.size()) for p in every if isinstance(p, kind)), default=1)


_PIPELINING = "torch.distributed.pipelining"


def meet(
    group: RankGroup | None,
    models: Iterable[Any],
    function: str,
    *,
    reaching: Iterable[Any] = (),
    **described: object,
) -> tuple[Ranks, Wrapping]:
    """Who makes this call together, once all have come; nothing of the user's is touched before.

    Args:
        group: as the caller gave it; left out, all ranks of the process group.
        models: what is trained or evaluated.
        function: the one that was called.
        reaching: the user's functions, which may hold a schedule of pipeline parallelism.
        described: what else must be the same on all ranks, by name.

    Raises:
        RanksNotTogether: where a rank does not come, or makes another call.
        InvalidArgument: for a wrapper that cannot be searched, or not by one rank alone, and for
            pipeline parallelism.
    """
    _refuse_pipeline([*models, *reaching])
    modules = [each for each in models if isinstance(each, torch.nn.Module)]
    wrapping = wrapping_of(modules)
    told = {
        "the function": function,
        "batchfinder": __version__,
        "the model": described_model(modules),
        **{name: str(value) for name, value in described.items()},
    }
    ranks = (ranks_here() if group is None else group).meet(told, replicas=wrapping.replicas)
    if ranks.alone:
        refuse_alone(wrapping)
    return ranks, wrapping


def _refuse_pipeline(things: Iterable[Any]) -> None:
    """Its ranks take different steps, so that none can stand for the others."""
    if _PIPELINING not in sys.modules:  # nobody can hold what was not loaded
        return
    for each in reached_from(things).distributed:
        if type(each).__module__.startswith(_PIPELINING):
            raise InvalidArgument(
                "expected ranks that all take the same step; found pipeline parallelism "
                f"({type(each).__name__}), whose ranks begin different collectives: search with "
                "the model under DistributedDataParallel or fully_shard, or the whole model on one "
                "rank (Training(..., ranks=batchfinder.ALONE))"
            )
