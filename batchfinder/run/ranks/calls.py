"""How a call begins: the ranks that make it together, and what the model is wrapped in."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

from batchfinder import __version__
from batchfinder.errors import InvalidArgument
from batchfinder.protocols import RankGroup, Ranks
from batchfinder.run.ranks.group import ranks_here
from batchfinder.run.ranks.wrappers import Wrapping, described_model, refuse_alone, wrapping_of
from batchfinder.run.reachable import reached_from

__all__ = ["meet"]

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
