"""Evaluation on several ranks: one size for all, that of the rank with the least memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import all_well, on_processes
from ranks_cases import fingerprint, loader, perceptron, wrapped
from ranks_search import Capped, steps
from torch import nn

import batchfinder as bf


def evaluated(rank: int, how: str, limits: tuple[str, str], capped: bool) -> dict[str, Any]:
    model = perceptron(4)
    if capped:
        model.insert(2, Capped("forward", (400, 100)[rank]))
    model = wrapped(model, how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps(model, optimizer, 2)
    before = fingerprint(model, optimizer)
    found = bf.eval_batch_size(
        model,
        loader(1024),
        memory_limit=limits[rank],
        search=bf.Search(resolution=0.0),
        budget_seconds=1.0,
    )
    same = fingerprint(model, optimizer) == before
    steps(model, optimizer, 1)
    return {"found": found, "same": same, "weights": fingerprint(model, optimizer)}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bare", "ddp", "fsdp"])
def test_the_rank_that_runs_out_first_decides(how: str) -> None:
    one, other = all_well(on_processes(evaluated, how, ("1GiB", "1GiB"), True, seconds=100))
    assert one["found"] == other["found"]
    assert one["found"].max_batch_size == 100
    assert one["same"]
    assert other["same"]
    assert all(each.batch_size <= 100 for each in one["found"].measurements)


@pytest.mark.slow
def test_the_least_memory_decides() -> None:
    found = all_well(on_processes(evaluated, "ddp", ("200KiB", "120KiB"), False, seconds=100))
    assert found[0]["found"] == found[1]["found"]
    assert found[0]["found"].limit_bytes == 120 * 1024


def mistaken(rank: int) -> None:
    model = perceptron()

    def mistake(model: nn.Module, given: Any) -> None:
        if rank == 1 and len(given[0]) > 16:
            raise ValueError("a mistake")

    model.register_forward_pre_hook(mistake)
    bf.eval_batch_size(model, loader(), budget_seconds=1.0)


def test_a_mistake_on_one_rank_ends_the_evaluation_on_both() -> None:
    other, own = on_processes(mistaken)
    assert (own.kind, own.text) == ("ValueError", "a mistake")
    assert other.kind == "PeerFailed"
    assert "rank 1 stopped: ValueError" in other.text


def by_itself(rank: int) -> int:
    if rank == 1:
        return 0
    model = perceptron()
    model.insert(2, Capped("forward", 50))
    return bf.eval_batch_size(
        bf.Training(model, loader(), ranks=bf.ALONE),
        search=bf.Search(resolution=0.0),
        memory_limit="1GiB",
        budget_seconds=0.5,
    ).max_batch_size


@pytest.mark.slow
def test_one_rank_evaluates_by_itself_where_it_is_told_to() -> None:
    assert all_well(on_processes(by_itself)) == [50, 0]
