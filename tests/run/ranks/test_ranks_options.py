"""Out of memory under everything that changes how ranks exchange: the failure matrix, in full."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import all_well, on_processes
from ranks_cases import fingerprint, loader, perceptron
from ranks_search import CAPS, Capped, check
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import batchfinder as bf

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("place", ["forward", "backward"])
@pytest.mark.parametrize("how", ["bucket view", "static graph", "unused", "hook", "compiled"])
def test_options_of_ddp(how: str, place: str) -> None:
    check(how, place, CAPS)


@pytest.mark.parametrize("place", ["forward", "backward", "update"])
@pytest.mark.parametrize("how", ["kept", "clipped"])
def test_options_of_fully_shard(how: str, place: str) -> None:
    check(how, place, CAPS)


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_replicas_of_shards(place: str) -> None:
    check("hsdp", place, {0: 400, 1: 400, 2: 400, 3: 100})


@pytest.mark.parametrize("how", ["bare", "ddp", "fsdp"])
def test_three_ranks_run_out_at_once_each_at_its_own_place(how: str) -> None:
    check(how, "at once", {0: 100, 1: 100, 2: 100})


def accumulating(rank: int, fails: bool) -> dict[str, Any]:
    """A step of the user's own: half a batch without exchange, half with it, then the update."""
    model = perceptron(4)
    model.insert(2, Capped("backward", 50 if fails and rank == 1 else 10**9))
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=1e-2)

    def step(model: Any, batch: Any) -> torch.Tensor:
        x, y = batch
        half = (len(x) + 1) // 2
        optimizer.zero_grad()
        with model.no_sync():
            nn.functional.cross_entropy(model(x[:half]), y[:half]).backward()
        loss = nn.functional.cross_entropy(model(x[-half:]), y[-half:])
        loss.backward()
        optimizer.step()
        return loss

    def train() -> None:
        for number in range(3):
            generator = torch.Generator().manual_seed(10 * number + rank)
            step(ddp, (torch.randn(8, 16, generator=generator), torch.arange(8) % 4))

    train()
    before = fingerprint(ddp, optimizer)
    largest = 0
    if fails:
        found = bf.max_batch_size(
            ddp,
            loader(1024),
            train_step=step,
            optimizer=optimizer,
            search=bf.Search(resolution=0.0),
            memory_limit="1GiB",
        )
        largest = found.max_batch_size
    same = fingerprint(ddp, optimizer) == before
    train()
    return {"largest": largest, "same": same, "weights": fingerprint(ddp, optimizer)}


def test_half_a_batch_without_exchange() -> None:
    found, expected = (
        all_well(on_processes(accumulating, fails, seconds=180)) for fails in (True, False)
    )
    assert [each["largest"] for each in found] == [100, 100]
    assert all(each["same"] for each in found)
    assert [each["weights"] for each in found] == [each["weights"] for each in expected]
