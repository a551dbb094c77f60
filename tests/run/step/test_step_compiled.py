"""Compiled models: the user's graphs are left alone, the recompile limit is noticed and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from batchfinder.run.step import step_from
from batchfinder.run.step.compiled import is_compiled

pytestmark = pytest.mark.slow


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).relu()


def wrapped(**options: Any) -> nn.Module:
    return torch.compile(Small(), backend="aot_eager", **options)


def in_place(**options: Any) -> nn.Module:
    model = Small()
    model.compile(backend="aot_eager", **options)
    return model


@pytest.fixture(autouse=True)
def _no_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 4), torch.arange(size) % 3


@pytest.mark.parametrize("build", [wrapped, in_place])
@pytest.mark.parametrize(
    ("dynamic", "searched", "later"), [(None, 1, 1), (True, 0, 0), (False, 4, 2)]
)
def test_a_search_leaves_the_user_s_graphs_and_their_limit(
    build: Callable[..., nn.Module], dynamic: bool | None, searched: int, later: int
) -> None:
    model = build(dynamic=dynamic)
    assert is_compiled([model])
    with torch._dynamo.config.patch(recompile_limit=3):
        model(batch(5)[0]).sum().backward()
        mine = graphs()
        step = step_from(model)
        for size in range(6, 10):  # four sizes, of which the user's limit allows two more
            step.forward_backward(batch(size))
        assert graphs() - mine == searched
        assert not any("limit" in said for said in step.assumptions)
        before = graphs()
        for size in (5, 20, 21):  # the user's own again, and the two that are still allowed
            model(batch(size)[0]).sum().backward()
        assert graphs() - before == later
        assert not torch._dynamo.utils.counters["unimplemented"]
        assert torch._dynamo.config.recompile_limit == 3


def test_the_recompile_limit_is_noticed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchfinder.run.step.compiled._MOST_GRAPHS", 3)
    model = wrapped(dynamic=False)
    step = step_from(model)
    with torch._dynamo.config.patch(recompile_limit=3):
        for size in range(2, 5):
            step.forward_backward(batch(size))
        assert not any("recompile limit" in said for said in step.assumptions)
        step.forward_backward(batch(5))
    assert any("met torch's recompile limit" in said for said in step.assumptions)


def test_without_regions_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a torch that cannot keep graphs apart."""
    monkeypatch.setattr("batchfinder.run.step.compiled._REGION", "_no_such_attribute")
    step = step_from(wrapped())
    step.forward_backward(batch(3))
    assert any("count towards its recompile limit" in said for said in step.assumptions)


def test_a_plain_model_is_not_compiled() -> None:
    assert not is_compiled([Small()])
    assert not any("compile" in said.lower() for said in step_from(Small()).assumptions)


def test_a_compiled_step_computes_what_the_plain_one_does() -> None:
    torch.manual_seed(0)
    model = Small()
    data = batch(6)
    plain = step_from(model).forward_backward(data)
    wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    compiled = step_from(torch.compile(model, backend="aot_eager")).forward_backward(data)
    torch.testing.assert_close(compiled, plain)
    for p, grad in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, grad)
