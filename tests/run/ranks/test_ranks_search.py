"""The same answer on every rank, and everything put back: two processes over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import Failed, all_well, on_processes
from ranks_cases import WIDTH, fingerprint, loader, perceptron, wrapped
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer

import batchfinder as bf

CAPS = {0: 400, 1: 100}


class Capped(nn.Module):
    """A part that runs out of memory above a size, each rank at its own and in its own place."""

    def __init__(self, place: str, caps: dict[int, int]) -> None:
        super().__init__()
        self.place, self.cap = place, caps[torch.distributed.get_rank()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.cap:
            if self.place == "forward":
                run_out()
            if self.place == "backward":
                x.register_hook(lambda gradient: run_out())
        return x


class CappedOptimizer(torch.optim.AdamW):
    """One that runs out of memory after a batch above a size."""

    cap, seen = 10**9, 0

    def step(self, closure: Any = None) -> None:
        if self.seen > self.cap:
            run_out()
        super().step(closure)


def run_out() -> None:
    raise torch.OutOfMemoryError("planted")


def training(how: str, place: str, caps: dict[int, int]) -> tuple[nn.Module, Any]:
    model = perceptron(4)
    model.insert(2, Capped(place, caps))
    model = wrapped(model, "ddp" if how == "zero" else how)
    if how == "zero":
        zero = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)
        steps(model, zero, 3)
        return model, zero
    optimizer = CappedOptimizer(model.parameters(), lr=1e-2)
    if place == "update":
        optimizer.cap = caps[torch.distributed.get_rank()]
        model.register_forward_pre_hook(lambda _, given: setattr(optimizer, "seen", len(given[0])))
    steps(model, optimizer, 3)  # in the middle of a training
    return model, optimizer


def steps(model: nn.Module, optimizer: Any, count: int) -> None:
    rank = torch.distributed.get_rank()
    for number in range(count):
        generator = torch.Generator().manual_seed(100 * number + rank)
        x = torch.randn(8, WIDTH, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(8) % 4).backward()
        optimizer.step()


def searched(rank: int, how: str, place: str, caps: dict[int, int]) -> dict[str, Any]:
    model, optimizer = training(how, place, caps)
    before = fingerprint(model, optimizer)
    found = bf.max_batch_size(
        model,
        loader(1024),
        loss_fn=nn.functional.cross_entropy,
        optimizer=optimizer,
        search=bf.Search(resolution=0.0),
        memory_limit="1GiB",
    )
    after = fingerprint(model, optimizer)
    steps(model, optimizer, 3)
    return {
        "largest": found.max_batch_size,
        "trials": [(each.batch_size, each.outcome.name, each.note) for each in found.trials],
        "result": found,
        "put back": before == after,
        "weights": fingerprint(model, optimizer) if how != "bare" else "",
    }


def untouched(rank: int, how: str) -> str:
    model, optimizer = training(how, "nowhere", CAPS)
    steps(model, optimizer, 3)
    return fingerprint(model, optimizer)


def check(how: str, place: str, caps: dict[int, int]) -> None:
    found = all_well(on_processes(searched, how, place, caps))
    assert [each["largest"] for each in found] == [min(caps.values())] * 2
    assert found[0]["result"] == found[1]["result"]
    assert all(each["put back"] for each in found)
    tight = min(caps, key=caps.__getitem__)
    assert any(f"(on rank {tight} of 2)" in note for _, _, note in found[0]["trials"])
    if how != "bare":
        expected = all_well(on_processes(untouched, how))
        assert [each["weights"] for each in found] == expected


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
            model,
            loader(),
            loss_fn=nn.functional.cross_entropy,
            optimizer=optimizer,
            ranks=bf.TorchRanks(meeting_seconds=0.3),
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
