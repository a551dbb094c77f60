"""What one process, or one with a launcher and no group, is told and pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from report_cases import plain
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.caveats import about_ranks, alone_by_mistake, caveats_of
from batchfinder.rank_facts import deciding_rank
from batchfinder.report.ranks import rank_table
from batchfinder.results import Limit, ProbeResult, RankFacts
from batchfinder.run.memory import host
from batchfinder.run.ranks import Wrapping, launched_without_group, ranks_here
from batchfinder.session import opened
from batchfinder.wording import Caveat

MIB = 1024**2


def small() -> tuple[nn.Module, DataLoader[Any]]:
    data = TensorDataset(torch.randn(64, 4), torch.arange(64) % 2)
    return nn.Linear(4, 2), DataLoader(data, batch_size=8)


def test_ranks_of_one_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "host_free", lambda root: 4000)
    assert host.host_budget(Path("/")) == 2000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert host.host_budget(Path("/")) == 500
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2(x3)")
    assert host.ranks_on_host() == 1


def test_a_launcher_without_a_group_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_without_group() is None
    monkeypatch.setenv("WORLD_SIZE", "4")
    model, loader = small()
    heard = []
    with opened(bf.Training(model, loader), observe=heard.append) as call:
        (said,) = alone_by_mistake()
        assert said in caveats_of(call)
    assert "WORLD_SIZE=4, but there is no process group" in said
    assert bf.Note(said) in heard
    assert said in bf.eval_batch_size(model, loader, at_most=8, budget_seconds=0.1).caveats


def test_what_cannot_be_searched_is_refused_with_the_way_out() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.pipelining.schedules import ScheduleGPipe

    model, loader = small()
    old = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(old)
    old._fsdp_wrapped_module = nn.Linear(1, 1)
    with pytest.raises(bf.InvalidArgument, match=r"torch.distributed.fsdp.fully_shard instead"):
        bf.max_batch_size(nn.Sequential(model, old), loader)
    schedule = ScheduleGPipe.__new__(ScheduleGPipe)

    def step(model: nn.Module, batch: Any) -> Any:
        return schedule.step(batch)

    said = "pipeline parallelism .ScheduleGPipe.*DistributedDataParallel or fully_shard"
    with pytest.raises(bf.InvalidArgument, match=said):
        bf.find_batch_size(model, loader, train_step=step)
    with pytest.raises(bf.InvalidArgument, match=said):
        bf.eval_batch_size(model, loader, eval_step=step)


def about(facts: tuple[RankFacts, ...], limited_by: Limit) -> tuple[Caveat, ...]:
    model, loader = small()
    wrapping = Wrapping("DistributedDataParallel", 2, exchanges=True)
    with opened(bf.Training(model, loader), observe=lambda event: None) as call:
        call.spent["measure"], call.wrapping = 10.0, wrapping
        probed = ProbeResult((), call.bench.breakdown(), limited_by)
        return about_ranks(call, facts, probed)


FACTS = (
    RankFacts(0, "cpu", "one", 8 * MIB, waited_seconds=6.0, room_bytes=3 * MIB),
    RankFacts(1, "cpu", "other", 5 * MIB, waited_seconds=1.0, room_bytes=0),
)


def test_who_decides_and_whom_the_others_wait_for_is_said() -> None:
    said = about(FACTS, Limit.MEMORY)
    assert [each.code for each in said] == [
        "ranks.decides",
        "ranks.devices",
        "ranks.waited",
        "ranks.replicas",
    ]
    assert said[0].startswith(
        "rank 1 determines the largest batch size: it has the least memory left, of a limit of 5.00"
    )
    assert "devices differ (one and other)" in said[1]
    assert "rank 1 is the slowest: others waited for it for up to 50% of the call" in said[2]


def test_no_rank_decides_a_size_that_memory_does_not_limit() -> None:
    said = about(FACTS, Limit.DATASET)
    assert said[0].code == "ranks.memory"
    assert "rank 1 has the least memory, 5.00 MiB, while another has 8.00 MiB" in said[0]


def test_a_rank_on_which_alone_memory_ran_out_decides_whatever_it_had_left() -> None:
    ran_out = (FACTS[0], replace(FACTS[1], room_bytes=4 * MIB, ran_out=3))
    assert deciding_rank(ran_out) == 1
    assert deciding_rank([replace(each, ran_out=1) for each in ran_out]) == 0
    assert deciding_rank([replace(each, room_bytes=MIB) for each in FACTS]) is None


def test_rows_of_ranks_are_printed_where_they_differ() -> None:
    report = replace(plain(), ranks=FACTS, seconds=(("measure", 10.0),))
    printed = report.text(100)
    assert "2 train together; they differ" in printed
    assert printed[printed.index("  rank") :].startswith(ROWS)
    assert "5.00 MiB" in report.to_html()
    assert bf.Report.from_json(report.to_json()) == report


ROWS = """\
  rank       device  memory limit  left at 268  ran out           waited  note
  ────  ───────────  ────────────  ───────────  ───────  ───────────────  ──────────────────────────
     0    cpu (one)      8.00 MiB     3.00 MiB  0 times  60% of the call
     1  cpu (other)      5.00 MiB          0 B  0 times  10% of the call  decides the largest size,
                                                                          slowest
"""


def test_of_many_ranks_the_rows_that_matter_are_printed() -> None:
    alike = [replace(FACTS[0], rank=rank) for rank in range(64)]
    report = replace(plain(), ranks=tuple(alike), seconds=(("measure", 10.0),))
    assert rank_table(report) is None
    assert "64 train together, with equal memory" in report.text(100)
    alike[40] = replace(alike[40], ran_out=2)
    report = replace(report, ranks=tuple(alike))
    table = rank_table(report)
    assert table is not None
    assert [row.cells[0] for row in table.rows] == ["0", "1", "2", "3", "4", "5", "6", "40"]
    assert "8 shown, all in report.ranks" in report.text(200)


def test_one_process_enters_no_gate_and_reads_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchfinder.run.ranks import group
    from batchfinder.run.ranks.gate import Gate

    def never(*given: Any, **named: Any) -> None:
        raise AssertionError("one process has nobody to ask")

    monkeypatch.setattr(group, "default_store", never)
    monkeypatch.setattr(Gate, "__init__", never)
    model, loader = small()
    assert ranks_here() is bf.ALONE
    found = bf.find_batch_size(
        model,
        loader,
        loss_fn=nn.functional.cross_entropy,
        at_most=8,
        noise=None,
        budget_seconds=1.0,
        observe=lambda event: None,
    )
    assert (found.world_size, found.ranks) == (1, ())
    assert not [each for each in found.caveats if each.code.startswith("ranks.")]


def test_no_message_is_sent_on_the_way_out() -> None:
    """A ``finally`` that waits for others would hide what is raised, or wait for ever."""
    import ast

    package = Path(bf.__file__).parent
    asking = {"tell", "together", "ask", "clock", "peak_bytes", "pressure"}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Try):
                called = {
                    inner.func.attr
                    for part in node.finalbody
                    for inner in ast.walk(part)
                    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute)
                }
                assert not called & asking, f"{path.name}: line {node.lineno}"
