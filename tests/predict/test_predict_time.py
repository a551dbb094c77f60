"""A guess ends when its time is up, in the middle of a rehearsal too, and leaves nothing behind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from predict_cases import loader_of
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from batchfinder.predict import estimate_memory, first_guess
from batchfinder.predict.assumed import Assumed
from batchfinder.predict.rehearsal import OutOfTime, rehearsing
from batchfinder.protocols import Setup
from batchfinder.run.batches import source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.step import step_from

WORDS = 200


@dataclass
class Ticking:
    """A clock that goes on by a second whenever it is read."""

    now: float = 100.0
    readings: int = 0

    def __call__(self) -> float:
        self.readings += 1
        self.now += 1.0
        return self.now


@dataclass
class Standing:
    """A clock that is moved by hand."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class Recurrent(nn.Module):
    """What a GRU does word by word, hundreds of operators at any batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 4, batch_first=True)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.cell(words)[0].mean(dim=(1, 2))


@dataclass
class Counted:
    """A training step that says how many operators of its forward pass ran."""

    operators: list[int] = field(default_factory=list)

    def __call__(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        with Operators() as seen:
            try:
                return functional.mse_loss(model(batch[0]), batch[1])
            finally:
                self.operators.append(seen.count)


def set_up(train_step):
    torch.manual_seed(0)
    model = Recurrent()
    source = source_from(loader_of(torch.randn(64, WORDS, 4), torch.randn(64)))
    optimizer = torch.optim.Adam(model.parameters())
    step = step_from(model, train_step=train_step, optimizer=optimizer)
    return step, source, backend_for(step.device, "16MiB"), model


def test_no_guess_once_the_time_is_up_inside_one_rehearsal() -> None:
    counted = Counted()
    step, source, memory, model = set_up(counted)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clock = Ticking()
    assert first_guess(Setup(step, source, memory), seconds=100.0, clock=clock) is None
    assert len(counted.operators) == 1  # the first rehearsal of many
    assert 100 <= counted.operators[0] <= 8 * 101  # a size asked for is an operator, too
    assert clock.readings <= 105
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert step.optimizers()[0].state == {}
    step.forward_backward(source.take(4))  # nothing fake is left in it
    step.update()


def test_no_guess_once_the_time_is_up_between_rehearsals() -> None:
    clock = Standing()
    rehearsals = 0

    def slow(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        nonlocal rehearsals
        rehearsals += 1
        return functional.mse_loss(batch[0].mean() * model.cell.bias_hh_l0, batch[1].mean())

    step, source, memory, _ = set_up(slow)
    guess = first_guess(Setup(step, source, memory), seconds=1.0, clock=clock)
    assert guess is not None
    enough = rehearsals
    assert enough >= 3

    def late(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        loss = slow(model, batch)
        clock.now += 0.6
        return loss

    step, source, memory, _ = set_up(late)
    rehearsals = 0
    assert first_guess(Setup(step, source, memory), seconds=1.0, clock=clock) is None
    assert rehearsals == 2


@pytest.mark.parametrize(("seconds", "ends_at"), [(None, 10.0), (3.0, 3.0)])
def test_left_out_the_time_is_ten_seconds(seconds: float | None, ends_at: float) -> None:
    clock = Ticking()
    step, source, memory, _ = set_up(Counted())
    assert first_guess(Setup(step, source, memory), seconds=seconds, clock=clock) is None
    assert ends_at < clock.readings <= ends_at + 3


def test_a_step_that_catches_every_error_does_not_hold_up_the_end() -> None:
    caught = 0

    def stubborn(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        nonlocal caught
        for _ in range(1000):
            try:
                return functional.mse_loss(model(batch[0]), batch[1])
            except Exception:  # noqa: BLE001 - as users' loops do
                caught += 1
        raise ValueError("gave up")

    step, source, _, _ = set_up(stubborn)
    clock = Standing()
    end = 101.0

    def in_time() -> None:
        clock.now += 0.1
        if clock.now > end:
            raise OutOfTime

    with pytest.raises(OutOfTime), rehearsing(step, source, in_time=in_time):
        pass
    assert caught == 1000  # each at its first operator


def test_time_without_end_gives_the_guess_of_a_standing_clock() -> None:
    def short(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return functional.mse_loss(model(batch[0][:, :3]), batch[1])

    guesses = []
    for seconds, clock in ((math.inf, Ticking()), (10.0, Standing())):
        step, source, memory, _ = set_up(short)
        guesses.append(first_guess(Setup(step, source, memory), seconds=seconds, clock=clock))
    assert guesses[0] == guesses[1] and guesses[0] is not None


def test_the_time_is_not_up_where_torch_asks_for_a_device_or_a_size() -> None:
    """An error raised there passes through C++ that allows none, and the process ends."""
    calls = 0

    def before() -> None:
        nonlocal calls
        calls += 1

    tensor, mode = torch.zeros(4), Assumed(before)
    for query in (torch.ops.prim.device.default, torch.ops.aten.size.default):
        mode.__torch_dispatch__(query, (), (tensor,))
    with mode:
        tensor.view(2, 2)
    assert calls == 0
    with mode:
        tensor + 1
        tensor.add_(1)
    assert calls == 2


# A whole number that is read may become a size --------------------------------------------------


def test_a_size_made_from_a_number_is_said_to_be_too_small() -> None:
    def step(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return (functional.one_hot(batch[1]).sum() * model(batch[0])).sum()

    loader = loader_of(torch.randn(64, 4), torch.randint(10, (64,)))
    found = estimate_memory(nn.Linear(4, 1), loader, 8, train_step=step)
    assert any("one_hot without num_classes" in said for said in found.assumed)
    assert any("too small" in said for said in found.assumed)


def test_a_loss_that_is_logged_is_no_size() -> None:
    def step(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        loss = model(batch[0]).square().mean()
        loss.item()
        return loss

    loader = loader_of(torch.randn(64, 4), torch.randn(64))
    found = estimate_memory(nn.Linear(4, 1), loader, 8, train_step=step)
    assert len(found.assumed) == 1 and "too small" not in found.assumed[0]
