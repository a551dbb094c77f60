"""No collective begins that a rank will not join: two processes over gloo."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from processes import all_well, on_processes
from ranks_cases import CLASSES, WIDTH, perceptron, wrapped
from torch import nn

from batchfinder.run.ranks import TorchRanks, gate, mend, wrapping_of


class Planted(nn.Module):
    """Runs out of memory in forward or in backward, on one rank, from some size on."""

    def __init__(self, rank: int, place: str) -> None:
        super().__init__()
        self.rank, self.place = rank, place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.distributed.get_rank() == self.rank and len(x) > 8:
            if self.place == "forward":
                raise torch.OutOfMemoryError("planted in forward")
            x.register_hook(self.fail)
        return x

    def fail(self, gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("planted in backward")


def step(model: nn.Module, optimizer: Any, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, WIDTH, generator=generator)
    y = torch.randint(CLASSES, (size,), generator=generator)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def cut_steps(rank: int, how: str, place: str, first: int) -> tuple[list[str], list[float]]:
    """Steps of which those of more than 8 samples run out of memory on rank 1."""
    model = perceptron(4)
    model.insert(2, Planted(1, place))
    model = wrapped(model, how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ranks = TorchRanks().meet({"function": "test"})
    for number in range(first):
        step(model, optimizer, 8, 10 * number + rank)
    met = []
    for _ in range(3):
        try:
            with ranks.together("a step"), ranks.gate():
                step(model, optimizer, 16, rank)
        except torch.OutOfMemoryError as error:
            met.append(str(error))
        mend([model])
        optimizer.zero_grad()
    for number in range(3):
        step(model, optimizer, 8, 100 + 10 * number + rank)
    total = [float(p.detach().double().sum()) for p in whole(model)]
    return met, total


def whole(model: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]


def undisturbed(rank: int, how: str, first: int) -> list[float]:
    model = wrapped(perceptron(4), how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seeds = [10 * number for number in range(first)] + [100 + 10 * number for number in range(3)]
    for seed in seeds:
        step(model, optimizer, 8, seed + rank)
    return [float(p.detach().double().sum()) for p in whole(model)]


def check(how: str, place: str, first: int) -> None:
    expected = all_well(on_processes(undisturbed, how, first))
    found = all_well(on_processes(cut_steps, how, place, first))
    for rank in range(2):
        met, total = found[rank]
        assert met == [f"planted in {place} (on rank 1 of 2)"] * 3
        assert total == expected[rank]


def test_a_step_that_was_cut_on_one_rank_leaves_ddp_as_if_it_had_not_been() -> None:
    check("ddp", "backward", first=2)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("place", ["forward", "backward"])
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_cut_steps_leave_no_trace(how: str, place: str, first: int) -> None:
    check(how, place, first)


def on_one_core(rank: int, times: int) -> list[bool]:
    """Whether cut steps left no trace, where what a step has begun is slow to end."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return [
        cut_steps(rank, "ddp", "backward", 2)[1] == undisturbed(rank, "ddp", 2)
        for _ in range(times)
    ]


@pytest.mark.slow
def test_averages_under_way_end_before_the_next_step() -> None:
    assert all_well(on_processes(on_one_core, 20, seconds=120)) == [[True] * 20] * 2


class AllReduce:
    """An operator that begins what ends once it is waited for."""

    namespace, _opname = "c10d", "allreduce_"

    def __init__(self, *, broken: bool = False) -> None:
        self.under_way, self.broken = True, broken

    def __call__(self) -> AllReduce:
        return self

    def wait(self) -> None:
        self.under_way = False
        if self.broken:
            raise RuntimeError("connection closed by peer")


def test_a_step_that_is_cut_waits_for_what_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "work_begun", lambda result: [result])
    monkeypatch.setattr(gate, "is_under_way", lambda work: work.under_way)
    asked: list[str] = []
    for error in (torch.OutOfMemoryError, KeyboardInterrupt):
        works = [AllReduce(broken=True), AllReduce()]
        with pytest.raises(error), gate.Gate(asked.append) as guard:
            for each in works:
                guard.__torch_dispatch__(each, ())
            raise error
        assert not any(each.under_way for each in works)
    well = AllReduce()
    with gate.Gate(asked.append) as guard:
        guard.__torch_dispatch__(well, ())
    assert well.under_way  # the step itself waits for it
    assert asked == ["collective allreduce_"] * 5


def seen(rank: int, how: str) -> list[str]:
    model = wrapped(perceptron(), how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ranks = TorchRanks().meet({"function": "test"})
    asked: list[str] = []
    tell = ranks.tell
    ranks.tell = lambda where, value: (asked.append(where), tell(where, value))[1]  # type: ignore
    step(model, optimizer, 8, rank)
    with ranks.gate():
        step(model, optimizer, 8, rank)
        nn.utils.clip_grad_norm_(model.parameters(), 1e3)
    return asked


@pytest.mark.slow
def test_the_gate_sees_the_collectives_of_every_wrapper() -> None:
    ddp, fsdp = (all_well(on_processes(seen, how)) for how in ("ddp", "fsdp"))
    assert ddp[0] == ddp[1]
    assert fsdp[0] == fsdp[1]
    assert sum("allreduce" in each for each in ddp[0]) >= 2
    assert sum("allgather" in each for each in fsdp[0]) >= 2
    assert sum("reduce_scatter" in each for each in fsdp[0]) >= 2
    assert "collective all_reduce" in fsdp[0]  # of the norm


def described(rank: int) -> list[tuple[str, int | None, bool, int]]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    found = [wrapping_of([wrapped(perceptron(), how)]) for how in ("bare", "ddp", "fsdp")]
    split = perceptron()
    parallelize_module(split, init_device_mesh("cpu", (2,)), {"0": ColwiseParallel()})
    found.append(wrapping_of([split]))
    both = perceptron()
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(both, mesh["tp"], {"0": ColwiseParallel()})
    fully_shard(both, mesh=mesh["dp"])
    found.append(wrapping_of([both]))
    return [(each.name, each.replicas, each.exchanges, each.group_size) for each in found]


@pytest.mark.slow
def test_replicas_are_not_ranks() -> None:
    assert (
        all_well(on_processes(described))
        == [
            [
                ("", None, False, 1),  # every rank
                ("DistributedDataParallel", 2, True, 2),
                ("fully_shard", 2, True, 2),
                ("tensor parallelism", 1, False, 2),
                ("fully_shard", 1, True, 1),
            ]
        ]
        * 2
    )
