"""The user's own rate, and whether the rate that is set is the one that is trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.base_pair import why_unused
from batchfinder.run.bench import Bench, open_bench

X = torch.randn(64, 4)
DATA = TensorDataset(X, X.argmax(1) % 3)
LOSS = nn.CrossEntropyLoss()


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@contextmanager
def bench_of(model: nn.Module, **members: Any) -> Iterator[Bench]:
    training = bf.Training(model, DataLoader(DATA, batch_size=8), **members)
    with open_bench(training, memory_limit="64MiB") as bench:
        bench.fresh()
        yield bench


def own_update(optimizer: torch.optim.Optimizer, *after: Callable[[], Any]) -> Callable[..., float]:
    def train_step(model: nn.Module, batch: Any) -> float:
        model.zero_grad()
        loss = LOSS(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        for each in after:
            each()
        return loss.item()

    return train_step


def code(bench: Bench) -> str | None:
    why = why_unused(bench, 8)
    return None if why is None else why.code


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor])
def test_a_rate_that_is_used(own: bool, make: Any) -> None:
    model = linear()
    optimizer = make(model.parameters(), lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    members = {"train_step": own_update(optimizer)} if own else {"loss_fn": LOSS}
    with bench_of(model, optimizer=optimizer, **members) as bench:
        assert code(bench) is None
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_schedule_inside_the_step_writes_its_own_rate() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)
    step = own_update(optimizer, schedule.step)
    with bench_of(model, optimizer=optimizer, scheduler=schedule, train_step=step) as bench:
        assert code(bench) == "step.rate_overwritten"
    assert schedule.last_epoch == 0


def test_another_optimizer_than_the_one_that_was_passed() -> None:
    model = linear()
    handed, used = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with bench_of(model, optimizer=handed, train_step=own_update(used)) as bench:
        assert code(bench) == "step.optimizer_unused"


def test_an_optimizer_that_was_not_passed() -> None:
    model = linear()
    step = own_update(torch.optim.SGD(model.parameters(), lr=0.1))
    with bench_of(model, train_step=step) as bench:
        assert code(bench) == "step.optimizer_unseen"


def test_an_optimizer_without_a_rate() -> None:
    class Free(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            with torch.no_grad():
                for parameter in self.param_groups[0]["params"]:
                    parameter.sub_(parameter.grad, alpha=0.1)

    model = linear()
    optimizer = Free(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    with bench_of(model, optimizer=optimizer, loss_fn=LOSS) as bench:
        assert code(bench) == "step.no_rate"


class Waiting(torch.optim.Optimizer):
    """A wrapper whose step does nothing before the end of an accumulation."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)  # type: ignore[assignment]
    state = property(lambda self: self.optimizer.state)  # type: ignore[assignment]

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self.optimizer.load_state_dict(state_dict)

    def step(self, closure: Any = None) -> None: ...


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_an_update_that_does_nothing_is_refused_with_the_wrapper_s_name(make: Any) -> None:
    model = linear()
    wrapper = Waiting(make(model.parameters(), lr=0.1))
    with (
        bench_of(model, optimizer=wrapper, loss_fn=LOSS) as bench,
        pytest.raises(bf.InvalidArgument, match="found Waiting, whose step did nothing"),
    ):
        why_unused(bench, 8)


class Now(Waiting):
    """The same, at every fourth call."""

    calls = 0

    def step(self, closure: Any = None) -> None:
        self.calls += 1
        if self.calls % 4 == 0:
            self.optimizer.step()


def test_updates_at_some_calls_alone_are_refused_with_their_number() -> None:
    model = linear()
    wrapper = Now(torch.optim.SGD(model.parameters(), lr=0.1))
    with (
        bench_of(model, optimizer=wrapper, loss_fn=LOSS) as bench,
        pytest.raises(bf.InvalidArgument, match="found Now, whose step updated them in 5 of 20"),
    ):
        why_unused(bench, 8)


def test_updates_that_a_gradient_scaler_leaves_out_at_first_are_no_refusal() -> None:
    model = linear()
    members = {
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_fn": lambda output, target: 1e3 * LOSS(output, target),
        "grad_scaler": torch.amp.GradScaler("cpu", init_scale=2.0**127),
    }
    with bench_of(model, **members) as bench:
        assert code(bench) is None
