"""The whole call on several ranks: one report everywhere, whatever each rank has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from processes import all_well, on_processes
from ranks_cases import data, fingerprint, loader, perceptron, wrapped
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

import batchfinder as bf
from batchfinder.recommend.objectives import samples_per_second
from batchfinder.results import Candidate


def found(
    rank: int, how: str, limits: tuple[str, str], budget: float = 8.0, **options: Any
) -> dict[str, Any]:
    model = wrapped(perceptron(4), how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = fingerprint(model, optimizer)
    given = {"loader": loader(1024), "budget_seconds": budget, "memory_limit": limits[rank]}
    given |= options
    report = bf.find_batch_size(
        model,
        given.pop("loader"),
        loss_fn=nn.functional.cross_entropy,
        optimizer=optimizer,
        **given,
    )
    return {"report": report, "put back": before == fingerprint(model, optimizer)}


def check(every: list[dict[str, Any]]) -> bf.Report:
    reports = [each["report"] for each in all_well(every)]
    assert reports[0] == reports[1]
    assert all(each["put back"] and each["report"].state_restored for each in every)
    return reports[0]


def test_one_report_under_ddp_with_unequal_memory() -> None:
    report = check(on_processes(found, "ddp", ("400KiB", "300KiB"), 4.0, seconds=100))
    assert report.world_size == 2
    assert report.memory.limit_bytes == 300 * 1024
    assert report.global_batch_size == 2 * report.batch_size * report.accumulation_steps


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bare", "fsdp"])
def test_one_report_bare_and_sharded(how: str) -> None:
    report = check(on_processes(found, how, ("300KiB", "400KiB"), 25.0, seconds=100))
    assert report.world_size == 2


def uneven(rank: int) -> dict[str, Any]:
    return found(rank, "ddp", ("1GiB", "1GiB"), loader=loader((400, 700)[rank], seed=rank))


@pytest.mark.slow
def test_ranks_of_uneven_shards_agree_on_what_all_can_fill() -> None:
    report = check(on_processes(uneven, seconds=100))
    assert max(trial.batch_size for trial in report.trials) <= 400


def divided(rank: int) -> dict[str, Any]:
    whole = data(2048)
    sampled = DataLoader(whole, batch_size=64, sampler=DistributedSampler(whole))
    return found(rank, "ddp", ("1GiB", "1GiB"), 25.0, loader=sampled, base_batch_size=512)


@pytest.mark.slow
def test_a_share_is_not_held_against_the_global_batch() -> None:
    report = check(on_processes(divided, seconds=100))
    sizes = {each.plan.global_batch for each in report.candidates}
    assert max(sizes) > 1024  # a rank's share


def cut(rank: int, times: int) -> list[bf.Report]:
    model = wrapped(perceptron(4), "ddp")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return [
        bf.find_batch_size(
            model,
            loader(1024),
            loss_fn=nn.functional.cross_entropy,
            optimizer=optimizer,
            budget_seconds=0.5 + 0.5 * number,
        )
        for number in range(times)
    ]


@pytest.mark.slow
def test_calls_that_the_time_cuts_anywhere_never_part() -> None:
    one, other = all_well(on_processes(cut, 10, seconds=280))
    assert one == other


def soonest(candidates: Sequence[Candidate]) -> Candidate:
    """By the law of the noise scale, as if that were 128."""
    return min(
        candidates, key=lambda each: (1 + each.plan.global_batch / 128) / samples_per_second(each)
    )


def slowed(rank: int, seconds: float, per_sample: float) -> bf.Report:
    """A step of one rank takes longer: by so much in any case, and by so much for each sample."""
    import time

    model = perceptron(4)
    if rank == 1:
        model.register_forward_pre_hook(
            lambda _, given: time.sleep(seconds + per_sample * len(given[0]))
        )
    model = nn.parallel.DistributedDataParallel(model)
    return bf.find_batch_size(
        model,
        loader(1024, batch=32),
        loss_fn=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        objective=soonest,
        at_most=128,
        noise=None,
        budget_seconds=30,
    )


@pytest.mark.slow
def test_the_slowest_rank_sets_the_step_time_and_moves_the_recommendation() -> None:
    """A rank late by 30 ms makes large batches pay; one late with every sample makes them not."""
    late, behind = (
        all_well(on_processes(slowed, *seconds, seconds=200))
        for seconds in ((0.03, 0.0), (0.0, 0.002))
    )
    assert late[0] == late[1]
    assert behind[0] == behind[1]
    assert all(each.step_seconds >= 0.03 for each in late[0].measurements)
    assert all(each.step_seconds >= 0.002 * each.batch_size for each in behind[0].measurements)
    assert late[0].global_batch_size > behind[0].global_batch_size
