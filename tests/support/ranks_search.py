"""A search on several ranks, each of which runs out of memory at a size and place of its own."""

from __future__ import annotations

from typing import Any

import torch
from processes import all_well, on_processes
from ranks_cases import WIDTH, fingerprint, loader, perceptron, wrapped
from torch import nn

import batchfinder as bf

CAPS = {0: 400, 1: 100}
AT_ONCE = ("forward", "backward", "update")
"""Where each of three ranks runs out of memory, where all do at the same size."""


class Capped(nn.Module):
    """A part that runs out of memory above a size, each rank at its own and in its own place."""

    def __init__(self, place: str, cap: int) -> None:
        super().__init__()
        self.place, self.cap = place, cap

    @torch._dynamo.disable
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
    rank = torch.distributed.get_rank()
    place = AT_ONCE[rank] if place == "at once" else place
    model = perceptron(4)
    model.insert(2, Capped(place, caps.get(rank, 10**9)))
    model = wrapped(model, "ddp" if how == "zero" else how)
    if how == "zero":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        zero = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)
        steps(model, zero, 3)
        return model, zero
    optimizer = CappedOptimizer(model.parameters(), lr=1e-2)
    if place == "update":
        optimizer.cap = caps[rank]
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
        bf.Training(
            model,
            loader(1024),
            loss_fn=nn.functional.cross_entropy,
            optimizer=optimizer,
            clip=1e3 if how == "clipped" else None,
        ),
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
    model, optimizer = training(how, "nowhere", {})
    steps(model, optimizer, 3)
    return fingerprint(model, optimizer)


def check(how: str, place: str, caps: dict[int, int]) -> None:
    """Agreed maximum exact; state bit for bit; three more steps as of who never searched."""
    world = len(caps)
    found = all_well(on_processes(searched, how, place, caps, world=world, seconds=180))
    assert [each["largest"] for each in found] == [min(caps.values())] * world
    assert all(each["result"] == found[0]["result"] for each in found)
    assert all(each["put back"] for each in found)
    tight = min(caps, key=caps.__getitem__)
    assert any(f"(on rank {tight} of {world})" in note for _, _, note in found[0]["trials"])
    if how != "bare":
        expected = all_well(on_processes(untouched, how, world=world, seconds=180))
        assert [each["weights"] for each in found] == expected
