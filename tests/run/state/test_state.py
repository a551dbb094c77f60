"""What preserved() covers is afterwards bit for bit what it was, and a digest proves it."""

from __future__ import annotations

import gc
import random
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from batchfinder.errors import InvalidArgument
from batchfinder.run.state import preserved

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)
        self.register_buffer("seen", torch.zeros(3), persistent=False)
        self.calls = 0
        self.recent: list[float] = [1.0]
        self.average = torch.zeros(8)
        self.cached = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(self.norm(self.first(x)))
        self.calls += 1
        self.recent.append(float(hidden.detach().mean()))
        self.average.mul_(0.9).add_(0.1 * hidden.detach().mean(0))
        self.seen += 1
        self.cached = hidden
        self.invented = hidden
        return self.last(hidden)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        x, y = torch.randn(16, 4), torch.randint(2, (16,))

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        losses.append(float(optimizer.step(closure).detach()))
    return losses


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_after_is_bit_equal_to_training_without(name: str, steps_before: int) -> None:
    def run(disturb: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model = Net()
        optimizer = OPTIMIZERS[name](model.parameters())
        train(model, optimizer, steps_before)
        if disturb:
            with preserved(model, optimizer) as snapshot:
                train(model, optimizer, 4)
                optimizer.param_groups[0]["lr"] *= 3
                assert snapshot.differences()
                snapshot.restore()
                train(model, optimizer, 2)
            assert snapshot.differences() == ()
        return train(model, optimizer, 4), model.state_dict()

    plain, plain_weights = run(disturb=False)
    after, after_weights = run(disturb=True)
    assert plain == after
    assert all(torch.equal(plain_weights[key], after_weights[key]) for key in plain_weights)


def test_a_fresh_optimizer_is_fresh_again() -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    with preserved(model, optimizer):
        train(model, optimizer, 1)
        assert optimizer.state
    assert not optimizer.state
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_optimizers_state_comes_back_into_the_same_tensors() -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 1)
    held = optimizer.state[model.first.weight]["exp_avg"]
    with preserved(model, optimizer):
        train(model, optimizer, 1)
    assert optimizer.state[model.first.weight]["exp_avg"] is held


def test_gradients_present_or_absent() -> None:
    model = Net()
    model(torch.randn(4, 4)).sum().backward()
    model.last.bias.grad = None
    before = model.first.weight.grad.clone()
    with preserved(model) as snapshot:
        model.zero_grad(set_to_none=True)
        model.last.bias.grad = torch.ones(2)
    assert torch.equal(model.first.weight.grad, before)
    assert model.last.bias.grad is None
    assert snapshot.differences() == ()


def test_a_gradient_that_somebody_holds_is_the_same_object_again() -> None:
    model = Net()
    model(torch.randn(4, 4)).sum().backward()
    held = {name: p.grad for name, p in model.named_parameters()}
    values = {name: grad.clone() for name, grad in held.items()}
    with preserved(model) as snapshot:
        model(torch.randn(4, 4)).sum().backward()  # adds to the very tensors
        snapshot.restore()
        model.zero_grad(set_to_none=True)
        model(torch.randn(4, 4)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is held[name]
        assert torch.equal(parameter.grad, values[name])


def test_a_gradient_that_nobody_else_holds_costs_no_memory_meanwhile() -> None:
    model = Net()
    model(torch.randn(4, 4)).sum().backward()
    before = model.first.weight.grad.clone()
    storage = weakref.ref(model.first.weight.grad.untyped_storage())
    with preserved(model):
        model.zero_grad(set_to_none=True)
        gc.collect()
        assert storage() is None
    assert torch.equal(model.first.weight.grad, before)


@pytest.mark.parametrize("given", [False, True])
def test_a_parameter_that_only_the_optimizer_knows(given: bool) -> None:
    """A temperature, say, that train_step multiplies with."""
    model, free = Net(), nn.Parameter(torch.tensor([1.0, 2.0]))
    if given:
        free.grad = torch.tensor([3.0, 4.0])
    held = free.grad
    optimizer = torch.optim.SGD([{"params": model.parameters()}, {"params": [free]}], lr=0.1)
    with preserved(model, optimizer) as snapshot:
        free.grad = torch.ones(2)
        optimizer.step()
        assert snapshot.differences() != ()
        assert any(name.startswith("parameters") for name in snapshot.differences())
    assert snapshot.differences() == ()
    assert free.tolist() == [1.0, 2.0]
    assert free.grad is held


def test_modes_flags_buffers_and_plain_attributes() -> None:
    model = Net()
    model.norm.eval()
    model.first.weight.requires_grad_(False)
    average = model.average
    with preserved(model) as snapshot:
        model.train()
        model.first.weight.requires_grad_(True)
        model(torch.randn(4, 4))
        model.seen = torch.ones(5)
    assert (model.training, model.norm.training) == (True, False)
    assert not model.first.weight.requires_grad
    assert (model.calls, model.recent, model.cached) == (0, [1.0], None)
    assert model.average is average
    assert not average.any()
    assert not model.seen.any()
    assert not hasattr(model, "invented")
    assert snapshot.differences() == ()


class Counting(nn.Module):
    """Keeps its own statistics in every kind of container, and its own generators."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.counts: Counter[str] = Counter(a=1)
        self.ordered = OrderedDict(first=1)
        self.array = np.zeros(3)
        self.torch_generator = torch.Generator().manual_seed(1)
        self.numpy_generator = np.random.default_rng(1)
        self.python_generator = random.Random(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counts["a"] += 1
        self.ordered["second"] = 2
        self.array += 1
        torch.rand(1, generator=self.torch_generator)
        self.numpy_generator.random()
        self.python_generator.random()
        return self.layer(x)


def test_containers_arrays_and_generators_of_a_module() -> None:
    model = Counting()
    with preserved(model) as snapshot:
        model(torch.ones(1, 2))
        assert snapshot.differences() == ("attributes",)
    assert snapshot.differences() == ()
    assert (model.counts, model.ordered) == (Counter(a=1), OrderedDict(first=1))
    assert not model.array.any()
    assert model.python_generator.random() == random.Random(1).random()
    assert model.numpy_generator.random() == np.random.default_rng(1).random()


def test_generators_of_a_dataset() -> None:
    class Drawing(TensorDataset):
        def __init__(self) -> None:
            super().__init__(torch.arange(4))
            self.rng = np.random.default_rng(7)

    dataset = Drawing()
    with preserved(loader=DataLoader(dataset)):
        dataset.rng.random(5)
    assert dataset.rng.random() == np.random.default_rng(7).random()


def test_a_swapped_data_pointer_comes_back() -> None:
    model = nn.Linear(2, 2)
    pointer, weights = model.weight.data_ptr(), model.weight.detach().clone()
    with preserved(model):
        model.weight.data = torch.zeros(2, 2)
    assert model.weight.data_ptr() == pointer
    assert torch.equal(model.weight, weights)


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    with preserved(model):
        train_weight = model[0].weight
        train_weight.data.add_(1)
    assert model[1].weight is model[0].weight


def test_random_numbers_of_every_kind() -> None:
    generator = torch.Generator().manual_seed(3)
    dataset = TensorDataset(torch.arange(10))
    loader = DataLoader(dataset, sampler=RandomSampler(dataset, generator=generator))
    expected = random.getstate(), generator.get_state(), torch.get_rng_state()
    before = np.random.get_state()[1].copy()
    with preserved(loader=loader) as snapshot:
        random.random()
        np.random.rand()
        torch.rand(1)
        list(loader)
        assert set(snapshot.differences()) == {"loader's generators", "random numbers"}
    assert random.getstate() == expected[0]
    assert torch.equal(generator.get_state(), expected[1])
    assert torch.equal(torch.get_rng_state(), expected[2])
    assert (np.random.get_state()[1] == before).all()


def test_backend_flags() -> None:
    before = torch.backends.cudnn.benchmark, torch.get_num_threads()
    with preserved() as snapshot:
        torch.backends.cudnn.benchmark = not before[0]
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(before[1] + 1)
        assert snapshot.differences() == ("flags",)
    assert (torch.backends.cudnn.benchmark, torch.get_num_threads()) == before
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_after_any_exception(error: type[BaseException]) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())

    def interrupted() -> None:
        with preserved(model, optimizer) as snapshot:
            kept.append(snapshot)
            train(model, optimizer, 2)
            raise error

    kept: list = []
    with pytest.raises(error):
        interrupted()
    assert kept[0].differences() == ()


def test_ctrl_c_during_the_restoring_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    before = model.first.weight.detach().clone()
    strikes = iter([True, False])
    with pytest.raises(KeyboardInterrupt), preserved(model) as snapshot:
        real = snapshot.restore

        def restore() -> None:
            if next(strikes):
                raise KeyboardInterrupt
            real()

        monkeypatch.setattr(snapshot, "restore", restore)
        model.first.weight.data.zero_()
    assert torch.equal(model.first.weight, before)


def test_schedulers_and_averages_by_their_state_dict() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with preserved(model, optimizer, scheduler) as snapshot:
        train(model, optimizer, 1)
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert scheduler.last_epoch == 0
    assert snapshot.differences() == ()


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="state_dict"), preserved(object()):
        pass
    with pytest.raises(InvalidArgument, match="lazy"), preserved(nn.LazyLinear(3)):
        pass


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.first.weight.data[0, 0].add_(1e-7),
        lambda model: model.norm.running_mean.add_(1e-7),
        lambda model: model.norm.eval(),
        lambda model: setattr(model, "calls", 1),
        lambda model: setattr(model.last.bias, "grad", torch.zeros(2)),
        lambda model: model.last.bias.requires_grad_(False),
    ],
)
def test_the_digest_sees_the_smallest_change(change: Callable[[Net], object]) -> None:
    model = Net()
    with preserved(model) as snapshot:
        change(model)
        assert len(snapshot.differences()) == 1


class Wrapper:
    """Shares its optimizer's containers, as wrappers do, and loads through it."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, shows_state: bool) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        if shows_state:
            self.state = optimizer.state

    def step(self) -> None:
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, object]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.optimizer.load_state_dict(state)


@pytest.mark.parametrize("shows_state", [True, False])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_wrapper_and_what_it_wraps_still_share_their_groups(shows_state, steps_before) -> None:
    model = Net()
    inner = torch.optim.Adam(model.parameters(), lr=1e-3)
    wrapper = Wrapper(inner, shows_state=shows_state)
    train(model, inner, steps_before)
    groups, state, first = inner.param_groups, inner.state, inner.param_groups[0]
    with preserved(model, wrapper) as snapshot:
        train(model, inner, 2)
        wrapper.param_groups[0]["lr"] = 0.0
        inner.load_state_dict(inner.state_dict())
    assert snapshot.differences() == ()
    assert (inner.param_groups, inner.state, inner.param_groups[0]) == (groups, state, first)
    assert inner.param_groups is groups is wrapper.param_groups
    assert inner.state is state
    assert inner.param_groups[0] is first
    assert first["lr"] == 1e-3
    assert len(inner.state) == (len(list(model.parameters())) if steps_before else 0)
