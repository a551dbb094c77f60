"""The ranks of ``torch.distributed``: how they meet for one call."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchfinder.errors import InvalidArgument, RanksNotTogether
from batchfinder.protocols import RankGroup
from batchfinder.run.ranks.alone import ALONE
from batchfinder.run.ranks.messages import Board, Message, State
from batchfinder.run.ranks.met import MetRanks
from batchfinder.run.torch_internals.distributed import default_store

__all__ = ["TorchRanks", "launched_without_group", "ranks_here"]

MEETING_SECONDS = 120.0
"""How long a call waits for the same call on the other ranks, unless the environment says."""
FEWEST_SECONDS = 600.0
"""How long a later answer is waited for at the least; else as long as the process group would."""
_TIMEOUT = "BATCHFINDER_RANKS_TIMEOUT"
_WAY_OUT = (
    "call it on every rank, or pass Training(model, loader, ranks=batchfinder.ALONE) to search "
    "on this rank alone, with the bare module"
)


@dataclass(frozen=True)
class TorchRanks:
    """All ranks of the default process group, which communicate over its store.

    Args:
        replicas: number of groups of ranks that train on different samples, if the model does not
            show it: 2 for context parallelism over four of eight ranks. The ranks of a replica are
            consecutive.
        meeting_seconds: how long to wait for the other ranks at the start. Default: the environment
            variable ``BATCHFINDER_RANKS_TIMEOUT``, otherwise 120.
        answer_seconds: how long to wait for later answers. Default: the timeout of the process
            group, but at least 600.
    """

    replicas: int | None = None
    meeting_seconds: float | None = None
    answer_seconds: float | None = None

    def meet(self, described: Mapping[str, str], *, replicas: int | None = None) -> MetRanks:
        """Wait for the same call on all ranks; nothing of the user's has been touched by then.

        Raises:
            RanksNotTogether: where a rank does not come in time, or makes another call.
            InvalidArgument: where ``replicas`` does not divide the number of ranks.
        """
        from torch import distributed

        store, rank, size = default_store(), distributed.get_rank(), distributed.get_world_size()
        count = self.replicas or replicas or size
        if count < 1 or size % count:
            raise InvalidArgument(
                f"expected replicas to divide the {size} ranks; found {count}: pass the number "
                "of groups of ranks that train on different samples"
            )
        answer = self.answer_seconds or max(FEWEST_SECONDS, store.timeout.total_seconds())
        return met(
            store,
            rank,
            size,
            replicas=count,
            described=described,
            meeting_seconds=self.meeting_seconds
            or float(os.environ.get(_TIMEOUT) or MEETING_SECONDS),
            answer_seconds=answer,
        )


def met(
    store: Any,
    rank: int,
    size: int,
    *,
    replicas: int,
    described: Mapping[str, str],
    meeting_seconds: float,
    answer_seconds: float,
) -> MetRanks:
    """The ranks once all have made the same call.

    Calls are numbered in the store itself, each rank's own, and only those that met: a call that
    nobody joined leaves no trace, and the next one meets as if it had not been.
    """
    counter = f"batchfinder/calls/{rank}"
    number = store.add(counter, 0)
    board = Board(store, f"batchfinder/{number}", rank, size, answer_seconds)
    board.forget_leaving()
    message = Message(State.WELL, "the meeting", value=dict(described))
    try:
        answers = board.exchange(message, meeting_seconds)
    except RanksNotTogether:
        absent = board.missing(0)
        if board.withdraw():
            names = ", ".join(str(each) for each in absent if each != rank)
            raise RanksNotTogether(
                f"expected this call on every rank; found that rank {names} did not make it within "
                f"{meeting_seconds:g} s (set {_TIMEOUT} to wait longer): {_WAY_OUT}"
            ) from None
        answers = board.exchange(message, meeting_seconds)
    store.add(counter, 1)
    _refuse_different([each.value for each in answers], rank)
    return MetRanks(board, rank, size, replicas)


def ranks_here() -> RankGroup:
    """The ranks of this process: ``ALONE`` unless a process group of several is initialised."""
    distributed = sys.modules.get("torch.distributed")  # looked up, so that it is never imported
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return ALONE
    return TorchRanks() if distributed.get_world_size() > 1 else ALONE


def launched_without_group() -> int | None:
    """How many processes a launcher has started, where they have formed no process group."""
    given = os.environ.get("WORLD_SIZE", "")
    if not given.isdigit() or int(given) < 2 or ranks_here() is not ALONE:
        return None
    distributed = sys.modules.get("torch.distributed")
    formed = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return None if formed else int(given)


def _refuse_different(calls: Sequence[Mapping[str, str]], rank: int) -> None:
    mine = calls[rank]
    for other, call in enumerate(calls):
        different = [name for name in {**mine, **call} if mine.get(name) != call.get(name)]
        if different:
            name = different[0]
            raise RanksNotTogether(
                f"expected the same call on every rank; found {name} {mine.get(name)!r} on rank "
                f"{rank} and {call.get(name)!r} on rank {other}: {_WAY_OUT}"
            )
