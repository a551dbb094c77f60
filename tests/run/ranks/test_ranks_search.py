"""The same answer on every rank, and everything put back: two processes over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import Failed, all_well, on_processes
from ranks_cases import fingerprint, loader
from ranks_search import CAPS, check, training
from torch import nn

import batchfinder as bf


def test_ranks_of_unequal_memory_agree_under_ddp() -> None:
    check("ddp", "backward", CAPS)


@pytest.mark.slow
@pytest.mark.parametrize("caps", [{0: 400, 1: 100}, {0: 90, 1: 100}])
@pytest.mark.parametrize("place", ["forward", "backward", "update"])
@pytest.mark.parametrize("how", ["bare", "ddp", "fsdp"])
def test_the_least_memory_decides_wherever_it_ends(
    how: str, place: str, caps: dict[int, int]
) -> None:
    check(how, place, caps)


def alone(rank: int) -> Any:
    if rank == 1:
        value = torch.ones(1)
        torch.distributed.all_reduce(value)
        return float(value)
    model, optimizer = training("bare", "forward", CAPS)
    before = fingerprint(model, optimizer)
    try:
        bf.max_batch_size(
            bf.Training(model, loader(), ranks=bf.TorchRanks(meeting_seconds=0.3)),
            loss_fn=nn.functional.cross_entropy,
            optimizer=optimizer,
        )
    except bf.RanksNotTogether as error:
        said = str(error)
    torch.distributed.all_reduce(torch.ones(1))
    return said, before == fingerprint(model, optimizer)


@pytest.mark.slow
def test_the_state_of_a_divided_optimizer_is_put_back() -> None:
    check("zero", "backward", CAPS)


def test_a_call_on_rank_0_alone_ends_in_time_and_the_group_still_works() -> None:
    (said, same), other = all_well(on_processes(alone))
    assert "rank 1 did not make it within 0.3 s" in said
    assert "ranks=batchfinder.ALONE" in said
    assert same
    assert other == 2.0


def mistaken(rank: int, who: int | None, kind: str) -> None:
    """A mistake at the fourth batch, on one rank or on all."""
    model, optimizer = training("ddp", "forward", CAPS)
    calls = [0]

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 4 and who in (rank, None):
            raise KeyboardInterrupt if kind == "ctrl-c" else ValueError("a mistake")
        return nn.functional.cross_entropy(output, target)

    before = fingerprint(model, optimizer)
    try:
        bf.max_batch_size(model, loader(), loss_fn=loss, optimizer=optimizer)
    finally:
        assert fingerprint(model, optimizer) == before


def test_a_mistake_on_one_rank_is_its_own_and_a_failed_peer_on_the_other() -> None:
    own, other = reversed(on_processes(mistaken, 1, "mistake"))
    assert isinstance(own, Failed)
    assert (own.kind, own.text) == ("ValueError", "a mistake")
    assert other.kind == "PeerFailed"
    assert "rank 1 stopped: ValueError" in other.text


@pytest.mark.slow
def test_ctrl_c_and_a_mistake_on_all_ranks() -> None:
    assert [each.kind for each in on_processes(mistaken, 0, "ctrl-c")] == [
        "KeyboardInterrupt",
        "PeerFailed",
    ]
    assert [each.kind for each in on_processes(mistaken, None, "mistake")] == ["ValueError"] * 2
