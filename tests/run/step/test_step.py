"""A step computes what the user's own loop would, whatever model, loss and optimizer are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from batchfinder.errors import (
    DeviceMismatch,
    InvalidArgument,
    LossIsNotFinite,
    NothingToTrain,
    UnknownLoss,
)
from batchfinder.run.step import step_from
from batchfinder.training import Training

X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def linear(outputs: int = 3) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, outputs)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def expected_gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


def test_a_loss_function_is_called_with_output_and_target() -> None:
    model = linear()
    step = step_from(model, loss_fn=nn.CrossEntropyLoss())
    loss = step.forward_backward((X, Y))
    wanted = nn.functional.cross_entropy(model(X), Y)
    assert torch.equal(loss, wanted.detach())
    assert not loss.requires_grad
    assert same(gradients(model), expected_gradients(model, wanted))


def test_gradients_add_up_over_scaled_micro_batches() -> None:
    model = linear()
    step = step_from(model, loss_fn=nn.CrossEntropyLoss())
    for part in (slice(0, 3), slice(3, 6)):
        step.forward_backward((X[part], Y[part]), scale=0.5)
    wanted = expected_gradients(model, nn.functional.cross_entropy(model(X), Y))
    for found, truth in zip(gradients(model), wanted, strict=True):
        torch.testing.assert_close(found, truth)


class OwnLoss(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.inner = linear()
        self.form = form

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.inner(x)
        if labels is None:
            return logits
        loss = nn.functional.cross_entropy(logits, labels)
        forms = {
            "scalar": loss,
            "mapping": {"loss": loss, "logits": logits},
            "attribute": type("Output", (), {"loss": loss, "logits": logits})(),
            "tuple": (logits, loss),
        }
        return forms[self.form]


@pytest.mark.parametrize("form", ["scalar", "mapping", "attribute", "tuple"])
@pytest.mark.parametrize("batch", [(X, Y), {"x": X, "labels": Y, "name": ["a"] * 6}])
def test_a_model_may_return_its_own_loss(form: str, batch: Any) -> None:
    model = OwnLoss(form)
    step = step_from(model)
    wanted = nn.functional.cross_entropy(model.inner(X), Y)
    assert torch.equal(step.forward_backward(batch), wanted.detach())
    assert same(gradients(model), expected_gradients(model, wanted))
    assert not any("loss" in said for said in step.assumptions)


@pytest.mark.parametrize("batch", [(X, Y), {"x": X, "labels": Y}])
def test_a_given_loss_function_wins_over_the_model_s_own(batch: Any) -> None:
    model = OwnLoss("scalar")
    loss = step_from(model, loss_fn=nn.MultiMarginLoss()).forward_backward(batch)
    assert torch.equal(loss, nn.MultiMarginLoss()(model.inner(X), Y))


def test_a_mapping_of_losses_is_added_up_and_said() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: torch.Tensor, targets: torch.Tensor) -> Any:
            return {"box": self.inner(x).mean(), "class": self.inner(x).var()}

    model = Detector()
    step = step_from(model)
    loss = step.forward_backward((X, Y))
    out = model.inner(X)
    torch.testing.assert_close(loss, (out.mean() + out.var()).detach())
    assert any("box, class" in said for said in step.assumptions)


@pytest.mark.parametrize(
    ("model", "batch", "loss", "said"),
    [
        (linear(), (X, Y), nn.functional.cross_entropy, "cross-entropy"),
        (linear(4), (X, X), nn.functional.mse_loss, "mean squared error"),
        (
            linear(1),
            (X, X[:, 0]),
            lambda o, t: nn.functional.mse_loss(o[:, 0], t),
            "mean squared error",
        ),
        (
            nn.Conv1d(4, 3, 1),
            (X[:, :, None].repeat(1, 1, 5), Y[:, None].repeat(1, 5)),
            nn.functional.cross_entropy,
            "cross-entropy",
        ),
        (
            linear(),
            (X[:, None].repeat(1, 5, 1), Y[:, None].repeat(1, 5)),
            lambda o, t: nn.functional.cross_entropy(o.movedim(-1, 1), t),
            "over the last dimension",
        ),
    ],
)
def test_a_loss_is_inferred_and_said(model: Any, batch: Any, loss: Any, said: str) -> None:
    step = step_from(model)
    torch.testing.assert_close(
        step.forward_backward(batch), loss(model(batch[0]), batch[1]).detach()
    )
    assert any(said in assumption for assumption in step.assumptions)


@pytest.mark.parametrize(
    "batch",
    [
        (X, torch.zeros(6, 3, dtype=torch.bool)),
        (X, torch.zeros(6, 7)),
        (X, ["a"] * 6),
        X,
        (X, Y + 5),
    ],
)
def test_a_loss_that_cannot_be_known_is_asked_for(batch: Any) -> None:
    with pytest.raises(UnknownLoss, match=r"loss_fn=.*train_step=|train_step=.*loss_fn="):
        step_from(linear()).forward_backward(batch)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    step = step_from(linear(), loss_fn=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(UnknownLoss, match=r"expected loss_fn to give a scalar.*tensor \(6,\)"):
        step.forward_backward((X, Y))


def test_a_user_s_step_is_called_with_model_and_batch() -> None:
    model = linear()
    step = step_from(model, train_step=lambda m, b: m(b[0]).pow(2).mean())
    assert torch.equal(step.forward_backward((X, Y)), model(X).pow(2).mean().detach())
    assert not step.updates_itself


@pytest.mark.parametrize("returns", ["none", "float", "detached"])
def test_a_step_that_updates_itself_is_left_to_it(returns: str) -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(module: nn.Module, batch: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return {"none": None, "float": loss.item(), "detached": loss.detach()}[returns]

    twin = linear()
    loss = nn.functional.cross_entropy(twin(X), Y)
    with torch.no_grad():
        for p, g in zip(twin.parameters(), expected_gradients(twin, loss), strict=True):
            p.sub_(0.1 * g)
    step = step_from(model, train_step=train, optimizer=optimizer)
    step.forward_backward((X, Y))
    step.update()
    assert step.updates_itself
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)
    assert any("its own backward" in said for said in step.assumptions)


def test_a_loss_without_a_graph_is_named() -> None:
    with pytest.raises(NothingToTrain, match="without a graph"):
        step_from(linear(), train_step=lambda m, b: m(b[0]).mean().detach()).forward_backward((X,))


def test_backward_without_update_is_named() -> None:
    def train(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = model(batch[0]).mean()
        loss.backward()
        return loss.detach()

    with pytest.raises(UnknownLoss, match="ran backward and no update"):
        step_from(linear(), train_step=train).forward_backward((X, Y))


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        (nn.ReLU(), None, "found none"),
        (linear().requires_grad_(False), None, "all 2 are frozen"),
        (linear(), torch.optim.SGD(linear().parameters(), lr=1.0), "2 other tensors"),
    ],
)
def test_nothing_to_train_is_named(model: Any, optimizer: Any, message: str) -> None:
    with pytest.raises(NothingToTrain, match=message):
        step_from(model, optimizer=optimizer)


def test_a_lazy_module_is_asked_to_see_a_batch_first() -> None:
    with pytest.raises(InvalidArgument, match=r"'weight' belongs to a lazy module.*one batch"):
        Training(nn.LazyLinear(3), []).check()


def test_weights_without_data_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="meta device"):
        Training(linear().to("meta"), []).check()


def test_a_loss_on_another_device_is_named() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.ones(3, device="meta"))
    with pytest.raises(DeviceMismatch, match=r"its 'weight' is on meta.*loss_fn\.to"):
        step_from(linear(), loss_fn=loss)


def test_lbfgs_is_sent_to_train_step() -> None:
    model = linear()
    with pytest.raises(InvalidArgument, match=r"LBFGS: pass train_step="):
        step_from(model, optimizer=torch.optim.LBFGS(model.parameters()))


class Sharpness(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        if closure is None:
            raise ValueError("expected a closure")


class Required(torch.optim.SGD):
    def step(self, closure: Any) -> None:
        super().step(closure)


def test_a_step_that_requires_an_argument_is_sent_to_train_step() -> None:
    model = linear()
    with pytest.raises(InvalidArgument, match=r"Required: pass train_step="):
        step_from(model, optimizer=Required(model.parameters(), lr=0.1))


def test_an_error_about_a_closure_is_told_the_way_out() -> None:
    model = linear()
    step = step_from(model, optimizer=Sharpness(model.parameters(), lr=0.1), loss_fn=nn.MSELoss())
    step.forward_backward((X, torch.zeros(6, 3)))
    with pytest.raises(ValueError, match="expected a closure") as caught:
        step.update()
    assert "Sharpness" in caught.value.__notes__[0]
    assert "pass train_step=" in caught.value.__notes__[0]


def test_several_models_need_a_step() -> None:
    with pytest.raises(InvalidArgument, match="train_step="):
        step_from([linear(), linear()])


def test_a_loss_is_checked_only_when_asked() -> None:
    step = step_from(linear(), train_step=lambda m, b: m(b[0]).sum() * float("nan"))
    loss = step.forward_backward((X, Y))
    with pytest.raises(LossIsNotFinite, match="found nan"):
        step.check_loss(loss)
