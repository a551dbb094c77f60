"""What a step reaches without having been handed it is put back, or its name is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from batchfinder.run.state import preserved

CARRIED: torch.Tensor | None = None
TEACHER = nn.BatchNorm1d(4)


def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 4)


def teacher_in_a_closure() -> tuple[Callable[[], Any], Callable[[], Any]]:
    teacher = nn.BatchNorm1d(4)
    return lambda: teacher(torch.randn(8, 4)), teacher.state_dict


def teacher_in_a_global() -> tuple[Callable[[], Any], Callable[[], Any]]:
    return lambda: TEACHER(torch.randn(8, 4)), TEACHER.state_dict


def averaged_weights() -> tuple[Callable[[], Any], Callable[[], Any]]:
    own = model()
    average = torch.optim.swa_utils.AveragedModel(own)
    return lambda: average.update_parameters(own), average.state_dict


def optimizers_by_parameter() -> tuple[Callable[[], Any], Callable[[], Any]]:
    own = model()
    optimizers = {p: torch.optim.Adam([p]) for p in own.parameters()}

    def step() -> None:
        own(torch.randn(8, 4)).sum().backward()
        for optimizer in optimizers.values():
            optimizer.step()

    return step, lambda: [optimizer.state_dict() for optimizer in optimizers.values()]


def optimizers_in_hooks() -> tuple[Callable[[], Any], Callable[[], Any]]:
    own = model()
    optimizers = {p: torch.optim.Adam([p]) for p in own.parameters()}
    for p in own.parameters():
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())

    def step() -> None:
        own(torch.randn(8, 4)).sum().backward()

    return step, lambda: [optimizer.state_dict() for optimizer in optimizers.values()]


def scheduler_in_an_object() -> tuple[Callable[[], Any], Callable[[], Any]]:
    class Trainer:
        def __init__(self) -> None:
            self.optimizer = torch.optim.SGD(model().parameters(), lr=0.1)
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)

        def step(self) -> None:
            self.optimizer.step()
            self.scheduler.step()

    trainer = Trainer()
    return trainer.step, lambda: (trainer.optimizer.state_dict(), trainer.scheduler.state_dict())


def momentum_by_hand() -> tuple[Callable[[], Any], Callable[[], Any]]:
    state = {p: torch.zeros_like(p) for p in model().parameters()}

    def step() -> None:
        for value in state.values():
            value.add_(1)

    return step, lambda: list(state.values())


def hidden_state_in_a_dict() -> tuple[Callable[[], Any], Callable[[], Any]]:
    carried: dict[str, Any] = {"h": None}

    def step() -> None:
        carried["h"] = torch.ones(3)

    return step, lambda: dict(carried)


def hidden_state_in_a_cell() -> tuple[Callable[[], Any], Callable[[], Any]]:
    carried = None

    def step() -> None:
        nonlocal carried
        carried = torch.ones(3)

    return step, lambda: carried


def hidden_state_in_a_global() -> tuple[Callable[[], Any], Callable[[], Any]]:
    def step() -> None:
        global CARRIED  # noqa: PLW0603  # what is tested
        CARRIED = torch.ones(3)

    return step, lambda: CARRIED


def a_replay_memory() -> tuple[Callable[[], Any], Callable[[], Any]]:
    memory: list[torch.Tensor] = []
    return lambda: memory.append(torch.ones(2)), lambda: list(memory)


def a_generator() -> tuple[Callable[[], Any], Callable[[], Any]]:
    generator = torch.Generator().manual_seed(3)
    return lambda: torch.rand(2, generator=generator), generator.get_state


KINDS = [
    teacher_in_a_closure,
    teacher_in_a_global,
    averaged_weights,
    optimizers_by_parameter,
    optimizers_in_hooks,
    scheduler_in_an_object,
    momentum_by_hand,
    hidden_state_in_a_dict,
    hidden_state_in_a_cell,
    hidden_state_in_a_global,
    a_replay_memory,
    a_generator,
]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("make", KINDS)
def test_what_a_step_reaches_is_put_back_and_in_the_digest(make: Callable[[], Any]) -> None:
    step, state = make()
    before = copy.deepcopy(state())
    with preserved(reaching=[step]) as snapshot:
        assert snapshot.differences() == ()
        step()
        assert not same(before, state())
        assert snapshot.differences()
        snapshot.restore()
        assert same(before, state())
        step()
    assert same(before, state())
    assert snapshot.differences() == ()
    assert snapshot.left() == ()


def test_a_log_and_a_counter_stay_and_are_named() -> None:
    losses: list[float] = []
    counter = {"calls": 0}

    def step() -> None:
        losses.append(0.5)
        counter["calls"] += 1

    with preserved(reaching=[step]) as snapshot:
        step()
    assert (losses, counter) == ([0.5], {"calls": 1})
    assert set(snapshot.left()) == {"counter", "losses"}
    assert snapshot.differences() == ()


def test_preserve_takes_plain_objects() -> None:
    class Counter:
        def __init__(self) -> None:
            self.calls, self.seen = 0, [1.0]

    counter = Counter()
    with preserved(counter) as snapshot:
        counter.calls, counter.extra = 5, "new"
        counter.seen.append(2.0)
        assert snapshot.differences()
    assert vars(counter) == {"calls": 0, "seen": [1.0]}
    assert snapshot.differences() == ()


def test_storages_can_be_resized_after_as_before() -> None:
    layer = model()
    layer.register_buffer("seen", torch.zeros(2))
    with preserved(layer) as snapshot:
        layer.seen.resize_(7)
        snapshot.restore()
    assert layer.seen.shape == (2,)
    layer.seen.resize_(5)


def test_tensor_subclasses_are_put_back_in_their_parts() -> None:
    layer = model()
    layer.register_buffer("two", TwoTensor(torch.zeros(3), torch.ones(3)))
    with preserved(layer) as snapshot:
        layer.two.add_(1)
        assert snapshot.differences() == ("buffers",)
    assert (layer.two.a.tolist(), layer.two.b.tolist()) == ([0, 0, 0], [1, 1, 1])
    assert snapshot.differences() == ()


def test_what_appears_on_an_optimizer_is_taken_away_again() -> None:
    optimizer = torch.optim.SGD(model().parameters(), lr=0.1)
    names = set(vars(optimizer))
    with preserved(optimizer):
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        optimizer.step()
        optimizer.invented = 1
    assert set(vars(optimizer)) == names
