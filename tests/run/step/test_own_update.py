"""Steps that run backward or update by themselves: at every call, at some, or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from batchfinder.errors import InvalidArgument, NothingToTrain, UnknownLoss
from batchfinder.run.step import step_from
from batchfinder.run.step.own_update import Did, check_every_call

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])

RETURNS: dict[str, Callable[[torch.Tensor], Any]] = {
    "none": lambda loss: None,
    "float": lambda loss: loss.item(),
    "detached": lambda loss: loss.detach(),
    "graph gone": lambda loss: loss,
}


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def loss_of(model: Any, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def looked_at(model: nn.Module, train: Any, **parts: Any) -> Any:
    step = step_from(model, train_step=train, **parts)
    step.look((X, Y))
    step.forward_backward((X, Y))
    return step


@pytest.mark.parametrize("returns", RETURNS)
@pytest.mark.parametrize(("every", "offset"), [(2, 0), (4, 0), (4, 3), (16, 5)])
def test_accumulation_over_several_calls_is_named(returns: str, every: int, offset: int) -> None:
    model, calls = linear(), [offset]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(module: nn.Module, batch: Any) -> Any:
        loss = loss_of(module, batch)
        (loss / every).backward()
        calls[0] += 1
        if calls[0] % every == 0:
            optimizer.step()
            optimizer.zero_grad()
        return RETURNS[returns](loss)

    with pytest.raises(InvalidArgument, match=f"accumulates gradients over {every} calls"):
        looked_at(model, train, optimizer=optimizer)


def test_accumulation_in_hooks_of_backward_is_named() -> None:
    model, calls = linear(), [0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def hook(parameter: torch.Tensor) -> None:
        calls[0] += 1
        if calls[0] % (3 * 2) == 0:
            optimizer.step()
            optimizer.zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)

    def train(module: nn.Module, batch: Any) -> torch.Tensor:
        loss = loss_of(module, batch)
        loss.backward()
        return loss.detach()

    with pytest.raises(InvalidArgument, match="over 3 calls"):
        looked_at(model, train, optimizer=optimizer)


@pytest.mark.parametrize("returns", RETURNS)
def test_an_update_through_data_is_an_update(returns: str) -> None:
    model = linear()

    def train(module: nn.Module, batch: Any) -> Any:
        module.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.data.sub_(parameter.grad, alpha=0.1)  # no version changes
        return RETURNS[returns](loss)

    assert looked_at(model, train).updates_itself


def test_an_update_through_data_in_a_hook_of_backward_is_an_update() -> None:
    model = linear()

    def hook(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        parameter.data.sub_(parameter.grad, alpha=0.1)
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)
    step = step_from(model, train_step=loss_of)
    step.look((X, Y))
    assert step.updates_itself
    assert step.optimizers() == []


def test_a_scaler_of_the_step_s_own_may_leave_out_first_updates() -> None:
    model, calls = linear(), [0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(module: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        calls[0] += 1
        if calls[0] > 5:  # until its scale has come down
            optimizer.step()
        return loss.item()

    assert looked_at(model, train, optimizer=optimizer).updates_itself


def test_a_part_that_is_trained_now_and_then_accumulates_nothing() -> None:
    critic, generator, calls = linear(), linear(), [0]
    own = torch.optim.SGD(critic.parameters(), lr=0.1)
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)

    def train(module: nn.Module, batch: Any) -> float:
        calls[0] += 1
        for part, each in ((critic, own), (generator, optimizer)):
            if part is critic or calls[0] % 5 == 0:
                each.zero_grad()
                loss = loss_of(part, batch)
                loss.backward()
                each.step()
        generator.zero_grad()
        return loss.item()

    assert looked_at(generator, train, optimizer=optimizer).updates_itself


def test_an_optimizer_that_has_converged_accumulates_nothing() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    done: list[bool] = []

    def train(module: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        if not done:
            optimizer.step()
        done.append(True)
        return loss.item()

    assert looked_at(model, train).updates_itself


def test_a_number_without_any_training_is_named() -> None:
    with pytest.raises(NothingToTrain, match=r"changed no parameter.*\.item\(\)"):
        looked_at(linear(), lambda model, batch: loss_of(model, batch).item())


def test_a_loss_on_which_backward_has_run_is_not_run_backward_again() -> None:
    def train(module: nn.Module, batch: Any) -> torch.Tensor:
        loss = loss_of(module, batch)
        loss.backward(retain_graph=True)
        return loss

    with pytest.raises(UnknownLoss, match="ran backward and no update"):
        looked_at(linear(), train)


def test_a_slow_step_is_not_called_for_long() -> None:
    seconds = iter(range(0, 1000, 4))
    calls: list[Did] = []

    def again() -> Did:
        calls.append(Did(updated=False, ran_backward=True))
        return calls[-1]

    with pytest.raises(UnknownLoss, match="no update in 3 calls"):
        check_every_call(Did(False, True), again, clock=lambda: float(next(seconds)))


def test_the_end_of_a_schedule_inside_the_step_is_named() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)

    def train(module: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    step = step_from(model, train_step=train, optimizer=optimizer)
    with pytest.raises(InvalidArgument, match=r"schedule ends .*pass scheduler="):
        for _ in range(6):
            step.forward_backward((X, Y))


def test_a_mistake_of_the_user_s_own_stays_itself() -> None:
    def train(module: nn.Module, batch: Any) -> torch.Tensor:
        raise ValueError("Tried to step on a Lego")

    with pytest.raises(ValueError, match="Lego"):
        step_from(linear(), train_step=train).forward_backward((X, Y))
