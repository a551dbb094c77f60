"""Compiled models: the user's graphs are left alone, the recompile limit is noticed and said."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.run.step import step_from
from batchfinder.run.step.compiled import Compilation

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
    assert Compilation([model]).is_any
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
    assert any("reached torch's recompile limit" in said for said in step.assumptions)


def test_without_regions_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a torch that cannot keep graphs apart."""
    monkeypatch.setattr("batchfinder.run.torch_internals.compiler._REGION", "_no_such_attribute")
    step = step_from(wrapped())
    step.forward_backward(batch(3))
    assert any("count toward its recompile limit" in said for said in step.assumptions)


def test_a_plain_model_is_not_compiled() -> None:
    assert not Compilation([Small()]).is_any
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


class Counted:
    """A backend that counts how often its graphs run."""

    def __init__(self) -> None:
        self.compiled = self.ran = 0

    def __call__(self, graph: Any, example: Any) -> Callable[..., Any]:
        self.compiled += 1

        def run(*inputs: Any) -> Any:
            self.ran += 1
            return graph.forward(*inputs)

        return run


class Outer(nn.Module):
    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.core(x)


def trainings(kind: str, fullgraph: bool, backend: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A training in which one part is compiled, and how batchfinder is told of it."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    compiled: dict[str, Any] = {"backend": backend, "fullgraph": fullgraph}
    if kind == "model":
        return torch.compile(model, **compiled), {"loss_fn": nn.CrossEntropyLoss()}
    if kind == "blocks":
        model = nn.Sequential(Small())
        model[0].compile(**compiled)
        return model, {"loss_fn": nn.CrossEntropyLoss()}
    if kind == "inner":
        return Outer(torch.compile(model, **compiled)), {"loss_fn": nn.CrossEntropyLoss()}
    if kind == "loss":
        loss = torch.compile(nn.functional.cross_entropy, **compiled)
        return model, {"loss_fn": loss}

    @torch.compile(**compiled)
    def loss_of(m: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(m(x), y)

    return model, {"train_step": lambda m, b: loss_of(m, *b)}


def whole(training: bf.Training) -> None:
    bf.find_batch_size(training, memory_limit="1MiB", at_most=64, budget_seconds=5)


def probing(training: bf.Training) -> None:
    bf.max_batch_size(training, at_most=64)


def limited(training: bf.Training) -> None:
    with bf.memory_limit("1MiB"):
        bf.max_batch_size(training, at_most=64)


def predicting(training: bf.Training) -> None:
    bf.predict_max_batch_size(training, memory="1MiB")


@pytest.mark.parametrize("call", [whole, probing, limited, predicting])
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("kind", ["model", "blocks", "inner", "loss", "step"])
def test_what_is_compiled_is_afterwards_as_it_was(
    kind: str, fullgraph: bool, call: Callable[[bf.Training], None]
) -> None:
    backend = Counted()
    model, members = trainings(kind, fullgraph, backend)
    optimizer = torch.optim.AdamW(model.parameters())
    data = TensorDataset(*batch(64))

    run = members.get("train_step") or (lambda m, b: members["loss_fn"](m(b[0]), b[1]))
    run(model, batch(16)).backward()
    ran = backend.ran
    assert ran > 0
    call(bf.Training(model, DataLoader(data, 16), optimizer=optimizer, **members))
    backend.compiled = backend.ran = 0
    run(model, batch(16)).backward()
    assert (backend.compiled, backend.ran) == (0, ran)


@pytest.mark.parametrize("kind", ["model", "loss", "step"])
def test_what_is_compiled_is_timed_as_compiled_and_counted_as_written(kind: str) -> None:
    backend = Counted()
    model, members = trainings(kind, True, backend)
    timed: list[int] = []
    report = bf.find_batch_size(
        bf.Training(model, DataLoader(TensorDataset(*batch(64)), 16), **members),
        memory_limit="1MiB",
        at_most=32,
        budget_seconds=6,
        noise=None,
        observe=lambda event: timed.append(backend.ran),
    )
    visits = sum(measured.repeats for measured in report.measurements)
    assert backend.ran >= visits
    assert any("counted on the uncompiled code" in caveat for caveat in report.caveats)


def test_a_compiled_update_runs_and_is_left_as_it_is() -> None:
    backend = Counted()
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-3))

    @torch.compile(backend=backend)
    def update() -> None:
        optimizer.step()

    def train_step(m: nn.Module, b: Any) -> float:
        m.zero_grad()
        loss = nn.functional.cross_entropy(m(b[0]), b[1])
        loss.backward()
        update()
        return loss.item()

    train_step(model, batch(16))
    ran = backend.ran
    data = DataLoader(TensorDataset(*batch(64)), 16)
    found = bf.max_batch_size(
        model, data, train_step=train_step, optimizer=optimizer, memory_limit="1MiB", at_most=32
    )
    assert found.max_batch_size == 32
    before = backend.ran
    train_step(model, batch(16))
    assert backend.ran - before == ran > 0


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a compiler")
def test_what_inductor_compiled_runs_after_a_search_as_before_it() -> None:
    inner = Small()
    model = torch.compile(inner)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)

    def own_step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.ones(8, 4)), torch.arange(8) % 3)
        loss.backward()
        optimizer.step()
        return loss.detach()

    first = own_step()
    found = bf.max_batch_size(
        model,
        DataLoader(TensorDataset(*batch(32)), 8),
        loss_fn=nn.functional.cross_entropy,
        optimizer=optimizer,
        at_most=16,
        memory_limit="4MiB",
        observe=lambda event: None,
    )
    assert found.max_batch_size == 16
    compiled = graphs()
    assert own_step() < first
    assert graphs() == compiled
