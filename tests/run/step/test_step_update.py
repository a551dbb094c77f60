"""Clipping, the user's own backward, weights of micro-batches, rates, and what an update did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from batchfinder.errors import InvalidArgument, UnknownLoss
from batchfinder.rates import GroupRate
from batchfinder.run.step import Step, step_from
from batchfinder.run.step.own_update import fingerprint
from batchfinder.training import Training

X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
LOSS = nn.CrossEntropyLoss()


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def sgd(model: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate)


def one_step(step: Step) -> None:
    step.zero_grad()
    step.forward_backward((X, Y))
    step.update()


def by_hand(clip: Callable[[list[nn.Parameter]], Any], scale: float = 1.0) -> list[torch.Tensor]:
    model = linear()
    optimizer = sgd(model)
    (scale * LOSS(model(X), Y)).backward()
    clip(list(model.parameters()))
    optimizer.step()
    return [p.detach() for p in model.parameters()]


def halve(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad.mul_(0.5)


@pytest.mark.parametrize("clip", [0.01, 1e6, halve])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_are_clipped_before_every_update(clip: Any, scaled: bool) -> None:
    """After unscaling, so that the norm is that of the true gradient."""
    model = linear()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None
    step = step_from(model, loss_fn=LOSS, optimizer=sgd(model), clip=clip, grad_scaler=scaler)
    with step.watched() as watch:
        one_step(step)
    function = clip if callable(clip) else lambda p: nn.utils.clip_grad_norm_(p, clip)
    for found, truth in zip(model.parameters(), by_hand(function), strict=True):
        torch.testing.assert_close(found.detach(), truth)
    effect = watch.effect()
    assert (effect.updates, effect.clipped) == (1, 0 if clip == 1e6 else 1)


def test_gradients_as_they_are_read_are_not_clipped() -> None:
    model = linear()
    step_from(model, loss_fn=LOSS, optimizer=sgd(model), clip=1e-9).forward_backward((X, Y))
    truth = torch.autograd.grad(LOSS(model(X), Y), list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), truth, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("clip", [0, -1.0, "1.0", True])
def test_what_is_no_clip_is_refused(clip: Any) -> None:
    with pytest.raises(InvalidArgument, match="expected clip to be a maximum gradient norm"):
        Training(linear(), [], loss_fn=LOSS, clip=clip).check()


@pytest.mark.parametrize("scaled", [False, True])
def test_the_user_s_own_backward_takes_its_place(scaled: bool) -> None:
    seen = []

    def backward(loss: torch.Tensor) -> None:
        seen.append(loss.item())
        loss.backward()

    model = linear()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
    step = step_from(model, loss_fn=LOSS, backward=backward, grad_scaler=scaler)
    loss = step.forward_backward((X, Y), scale=0.5)
    assert seen == [pytest.approx(float(loss) * 0.5 * (8 if scaled else 1))]
    assert not step.updates_itself


@pytest.mark.parametrize("scales", [(0.5, 0.5), (1 / 6, 5 / 6)])
def test_weights_of_micro_batches_enter_the_accumulated_mean(scales: tuple[float, float]) -> None:
    """Sums over tokens divided by all tokens, however many each micro-batch holds."""
    model = linear()

    def train_step(m: nn.Module, batch: Any) -> tuple[torch.Tensor, int]:
        return LOSS(m(batch[0]), batch[1]), len(batch[0])

    step = step_from(model, train_step=train_step, optimizer=sgd(model))
    step.zero_grad()
    for part, scale in zip((slice(0, 1), slice(1, 6)), scales, strict=True):
        step.forward_backward((X[part], Y[part]), scale=scale)
    step.update()
    for found, truth in zip(model.parameters(), by_hand(lambda p: None), strict=True):
        torch.testing.assert_close(found.detach(), truth)


def test_a_micro_batch_without_weight_counts_for_nothing() -> None:
    model = linear()
    weights = iter([0, 3])

    def train_step(m: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return LOSS(m(batch[0]), batch[1]), torch.tensor(next(weights))

    step = step_from(model, train_step=train_step, optimizer=sgd(model))
    step.zero_grad()
    step.forward_backward((X + 5, Y), scale=0.5)
    assert step.weight == 0
    step.forward_backward((X, Y), scale=0.5)
    assert step.weight == 1
    step.update()
    for found, truth in zip(model.parameters(), by_hand(lambda p: None), strict=True):
        torch.testing.assert_close(found.detach(), truth)


def test_one_micro_batch_alone_is_untouched_by_its_weight() -> None:
    model = linear()
    step = step_from(model, train_step=lambda m, b: (LOSS(m(b[0]), b[1]), 17.0))
    step.forward_backward((X, Y))
    truth = torch.autograd.grad(LOSS(model(X), Y), list(model.parameters()))
    assert all(map(torch.equal, [p.grad for p in model.parameters()], truth))


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_a_weight_that_weighs_nothing_sensible_is_refused(weight: float) -> None:
    step = step_from(linear(), train_step=lambda m, b: (LOSS(m(b[0]), b[1]), weight))
    with pytest.raises(UnknownLoss, match="weight of at least 0"):
        step.forward_backward((X, Y))


def test_an_update_that_is_as_asked_for() -> None:
    model = linear()
    step = step_from(model, loss_fn=LOSS, optimizer=torch.optim.Adam(model.parameters()))
    with step.watched() as watch:
        step.set_learning_rate(0.01)
        one_step(step)
    effect = watch.effect()
    assert (effect.updates, effect.steps_taken) == (1, 1)
    assert effect.parameters_moved and effect.state_moved and effect.rate_kept
    assert effect.rate_was_used and not effect.did_nothing
    assert not step.optimizers()[0]._optimizer_step_pre_hooks


def test_a_rate_of_zero_moves_no_parameter() -> None:
    model = linear()
    step = step_from(model, loss_fn=LOSS, optimizer=sgd(model))
    with step.watched() as watch:
        step.set_learning_rate(0.0)
        one_step(step)
    effect = watch.effect()
    assert not effect.parameters_moved and effect.state_moved is None
    assert not effect.rate_was_used and not effect.did_nothing  # its step has run


class EveryFourth(torch.optim.Optimizer):
    """A wrapper whose step does nothing between accumulation boundaries, as Accelerate's."""

    def __init__(self, optimizer: torch.optim.Optimizer, boundary: bool) -> None:
        self.optimizer, self.boundary = optimizer, boundary

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def step(self, closure: Any = None) -> None:
        if self.boundary:
            self.optimizer.step()


@pytest.mark.parametrize("boundary", [False, True])
def test_an_update_that_does_nothing_is_seen_through_a_wrapper(boundary: bool) -> None:
    model = linear()
    step = step_from(model, loss_fn=LOSS, optimizer=EveryFourth(sgd(model), boundary))
    with step.watched() as watch:
        one_step(step)
    effect = watch.effect()
    assert (effect.did_nothing, effect.wrapper) == (not boundary, "EveryFourth")


class Nothing(torch.optim.SGD):
    """Its step runs, hooks and all, and does nothing but at every ``every``-th call."""

    def __init__(self, *given: Any, every: int, **more: Any) -> None:
        super().__init__(*given, **more)
        self.every, self.calls = every, 0

    def step(self, closure: Any = None) -> None:
        self.calls += 1
        if self.every and self.calls % self.every == 0:
            super().step(closure)


def test_updates_that_were_made_are_counted_where_hooks_see_every_call() -> None:
    for every, made in ((0, 0), (1, 8), (4, 2)):
        model = linear()
        optimizer = Nothing(model.parameters(), lr=0.1, every=every)
        step = step_from(model, loss_fn=LOSS, optimizer=optimizer)
        with step.watched() as watch:
            for _ in range(8):
                one_step(step)
        effect = watch.effect()
        assert (effect.updates, effect.made, effect.left_out) == (8, made, 8 - made)
        assert effect.did_nothing is (made == 0)


def test_updates_past_the_versions_of_parameters_are_not_counted() -> None:
    class Old(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for parameter in self.param_groups[0]["params"]:
                parameter.data.sub_(parameter.grad, alpha=0.1)

    model = linear()
    step = step_from(model, loss_fn=LOSS, optimizer=Old(model.parameters(), lr=0.1))
    with step.watched() as watch:
        one_step(step)
    effect = watch.effect()
    assert effect.made is None and effect.left_out == 0 and not effect.did_nothing


@pytest.mark.parametrize(("period", "kept"), [(100_000, True), (60, False)])
def test_a_schedule_that_hardly_moves_leaves_the_rate(period: int, kept: bool) -> None:
    model = linear()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, period)

    def train_step(m: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = LOSS(m(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    step = step_from(model, train_step=train_step, optimizer=optimizer)
    with step.watched() as watch:
        step.set_learning_rate(0.5)
        for _ in range(40):
            step.scale_learning_rate(0.5)
            one_step(step)
            step.scale_learning_rate(2.0)
    assert watch.effect().rate_kept is kept


def test_a_rate_that_the_step_overwrites_is_not_kept() -> None:
    model = linear()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (k + 1))

    def train_step(m: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = LOSS(m(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    step = step_from(model, train_step=train_step, optimizer=optimizer)
    with step.watched() as watch:
        step.set_learning_rate(0.5)
        one_step(step)
        step.scale_learning_rate(0.5)  # of a rate that is the schedule's by now
        one_step(step)
    assert watch.effect().parameters_moved and not watch.effect().rate_kept
    assert not watch.effect().rate_was_used


def test_an_optimizer_that_the_step_does_not_use() -> None:
    model = linear()
    handed = sgd(model)

    def train_step(m: nn.Module, batch: Any) -> None:
        m.zero_grad()
        LOSS(m(batch[0]), batch[1]).backward()
        torch.optim.SGD(m.parameters(), lr=0.3).step()

    step = step_from(model, train_step=train_step, optimizer=handed)
    with step.watched() as watch:
        step.set_learning_rate(0.1)
        one_step(step)
    effect = watch.effect()
    assert (effect.updates, effect.steps_taken, effect.parameters_moved) == (1, 0, True)
    assert not effect.rate_was_used


def test_an_optimizer_that_steps_during_backward_is_seen() -> None:
    model = linear()
    optimizers = {p: torch.optim.Adam([p], lr=1e-3) for p in model.parameters()}

    def hook(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)
    step = step_from(model, loss_fn=LOSS, optimizer=list(optimizers.values()))
    step.forward_backward((X, Y))
    assert step.updates_itself
    moved = [p.detach().clone() for p in model.parameters()]
    step.update()
    assert all(map(torch.equal, moved, model.parameters()))


def schedules() -> dict[str, Callable[[torch.optim.Optimizer], Any]]:
    lr = torch.optim.lr_scheduler
    return {
        "one-cycle": lambda o: lr.OneCycleLR(o, max_lr=0.1, total_steps=50),
        "linear warm-up": lambda o: lr.LinearLR(o, 0.1, total_iters=10),
        "warm-up from zero": lambda o: lr.LambdaLR(o, lambda k: min(1.0, k / 10)),
        "cosine": lambda o: lr.CosineAnnealingLR(o, 10),
        "exponential": lambda o: lr.ExponentialLR(o, 0.9),
        "chained": lambda o: lr.SequentialLR(
            o, [lr.LinearLR(o, 0.1, total_iters=5), lr.CosineAnnealingLR(o, 10)], [5]
        ),
    }


@pytest.mark.parametrize("name", schedules())
@pytest.mark.parametrize("later", [0, 3])
def test_the_base_rate_is_the_peak_of_a_schedule(name: str, later: int) -> None:
    model = linear()
    optimizer = sgd(model, 0.1)
    schedule = schedules()[name](optimizer)
    for _ in range(later):
        optimizer.step()
        schedule.step()
    step = step_from(model, loss_fn=LOSS, optimizer=optimizer)
    assert step.base_learning_rate() == pytest.approx(0.1)
    step.scale_learning_rate(0.0)
    step.set_learning_rate(0.3)  # from a rate of zero too
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)


def test_several_rates_are_moved_by_one_factor_and_listed() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 3)
    model = nn.Sequential(first, last)
    optimizers = [
        torch.optim.SGD(
            [{"params": [first.weight], "lr": 1e-2}, {"params": [first.bias], "lr": 4e-2}]
        ),
        torch.optim.AdamW(last.parameters(), lr=1e-3),
    ]
    step = step_from(model, loss_fn=LOSS, optimizer=optimizers)
    assert step.group_rates(2e-2) == (
        GroupRate(0, 0, "SGD", 1e-2, 2.0, 2e-2),
        GroupRate(0, 1, "SGD", 4e-2, 2.0, 8e-2),
        GroupRate(1, 0, "AdamW", 1e-3, 2.0, 2e-3),
    )
    assert [each.factor for each in step.group_rates()] == [None, None, None]
    step.scale_learning_rate(0.0)
    step.set_learning_rate(2e-2)
    rates = [group["lr"] for each in optimizers for group in each.param_groups]
    assert rates == pytest.approx([2e-2, 8e-2, 2e-3])


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.int8, torch.bool]
)
def test_a_fingerprint_sees_one_element(dtype: torch.dtype) -> None:
    tensor = torch.zeros(3, 5).to(dtype)
    before = fingerprint([tensor])
    assert fingerprint([tensor.clone()]) == before
    tensor[2, 3] = 1
    assert fingerprint([tensor]) != before
    assert fingerprint([tensor.t()]) == fingerprint([tensor])


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.Embedding(50, 4, sparse=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rows(x))


def test_the_state_of_an_optimizer_for_sparse_gradients_is_laid_out() -> None:
    model = Table()
    sparse = torch.optim.SparseAdam([model.rows.weight], lr=0.1)
    dense = torch.optim.Adam(model.head.parameters(), lr=0.1)
    step = step_from(model, loss_fn=LOSS, optimizer=[sparse, dense])
    weights = model.rows.weight.detach().clone()
    step.look((torch.arange(6), Y))
    step.prime()
    assert sparse.state[model.rows.weight]["exp_avg"].shape == (50, 4)
    assert len(dense.state) == 2
    assert torch.equal(model.rows.weight, weights)
    assert sparse.param_groups[0]["lr"] == 0.1


def test_the_optimizer_that_is_assumed_takes_sparse_gradients() -> None:
    model = Table()
    step = step_from(model, loss_fn=LOSS)
    batch = (torch.arange(6), Y)
    step.look(batch)
    step.prime()
    step.forward_backward(batch)
    before = model.rows.weight.detach().clone()
    step.update()
    assert not torch.equal(model.rows.weight, before)
    assert step.optimizer_name == "AdamW + SparseAdam"
    assert step.optimizer_family == "adam"
    assert any(
        "AdamW and SparseAdam were assumed at learning rate 0.001" in said
        for said in step.assumptions
    )


def test_sparse_gradients_that_could_not_be_foreseen_ask_for_the_optimizer() -> None:
    class Looked(Table):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = nn.functional.embedding(x, self.rows.weight, sparse=True)
            return self.head(rows)

    model = Looked()
    model.rows.sparse = False
    with pytest.raises(InvalidArgument, match=r"sparse gradients.*SparseAdam"):
        step_from(model, loss_fn=LOSS).look((torch.arange(6), Y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step_from(model, loss_fn=LOSS, optimizer=optimizer).look((torch.arange(6), Y))


def test_an_optimizer_that_wants_more_than_gradients_is_laid_out_by_the_first_trial() -> None:
    class PerSample(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            if not hasattr(self.param_groups[0]["params"][0], "grad_sample"):
                raise ValueError("per-sample gradients are missing")

    model = linear()
    step = step_from(model, loss_fn=LOSS, optimizer=PerSample(model.parameters(), lr=0.1))
    step.prime()
    assert not step.optimizers()[0].state
    assert all(p.grad is None for p in model.parameters())


def test_no_optimizer_is_assumed_beside_one_that_the_step_has() -> None:
    model = linear()

    def train_step(m: nn.Module, batch: Any) -> None:
        m.zero_grad()
        LOSS(m(batch[0]), batch[1]).backward()
        torch.optim.SGD(m.parameters(), lr=0.3).step()

    step = step_from(model, train_step=train_step)
    assert step.optimizers()
    step.look((X, Y))
    step.prime()
    assert not step.optimizers()
    assert step.learning_rate() is None and step.group_rates() == ()
    assert step.optimizer_name == "optimizer in train_step"
    assert not any("AdamW" in said for said in step.assumptions)
