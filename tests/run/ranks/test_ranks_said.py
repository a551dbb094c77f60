"""What one process, or one with a launcher and no group, is told and pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.about_ranks import about_ranks
from batchfinder.results import RankFacts
from batchfinder.run.memory import host
from batchfinder.run.ranks import Wrapping, launched_without_group, ranks_here
from batchfinder.session import opened


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
    with opened(bf.Training(model, loader), observe=lambda event: None) as call:
        (said,) = about_ranks(call, (), Wrapping())
    assert "WORLD_SIZE=4, but there is no process group" in said


def test_who_decides_and_whom_the_others_wait_for_is_said() -> None:
    model, loader = small()
    facts = (
        RankFacts(0, "cpu", "one", 8 * 1024**2, waited_seconds=6.0),
        RankFacts(1, "cpu", "other", 5 * 1024**2, waited_seconds=1.0),
    )
    with opened(bf.Training(model, loader), observe=lambda event: None) as call:
        call.spent["measure"] = 10.0
        said = about_ranks(call, facts, Wrapping("DistributedDataParallel", 2, exchanges=True))
    assert [each.code for each in said] == ["ranks.memory", "ranks.waited", "ranks.replicas"]
    assert "rank 1 has the least memory, 5.00 MiB where another has 8.00 MiB" in said[0]
    assert "rank 1 is the slowest: others waited for it for up to 50% of the call" in said[1]


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
