"""Optimizers, precision, devices and modes of a step."""

from __future__ import annotations

from collections import namedtuple
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from loader_cases import Encoding, Graphs
from torch import nn

from batchfinder.errors import InvalidArgument, UnknownLoss
from batchfinder.run.step import moved, step_from
from batchfinder.run.step.loss import LossInference
from batchfinder.run.torch_internals.compiler import compile_contexts, is_compiled_function

X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def test_adamw_is_assumed_and_said() -> None:
    step = step_from(linear())
    assert step.optimizer_name == "AdamW"
    assert step.learning_rate() is None
    assert any("AdamW was assumed" in said for said in step.assumptions)
    assert step_from(linear(), base_learning_rate=0.5).learning_rate() == 0.5


def test_a_rate_that_is_set_is_known() -> None:
    step = step_from(linear())
    step.set_learning_rate(0.25)
    assert step.learning_rate() == pytest.approx(0.25)


@pytest.mark.parametrize("tensor", [False, True])
def test_rates_scale_in_every_group(tensor: bool) -> None:
    model = linear()
    rates = [torch.tensor(0.1), torch.tensor(0.2)] if tensor else [0.1, 0.2]
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": r} for p, r in zip(model.parameters(), rates, strict=True)]
    )
    step = step_from(model, optimizer=optimizer)
    step.scale_learning_rate(2.0)
    assert [float(g["lr"]) for g in optimizer.param_groups] == pytest.approx([0.2, 0.4])
    assert step.learning_rate() == pytest.approx(0.2)


class Lion(torch.optim.SGD):
    pass


class FusedAdam(torch.optim.SGD):
    pass


class Wrapper:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.state = optimizer.state

    def step(self) -> None:
        self.optimizer.step()


@pytest.mark.parametrize(
    ("make", "family"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "sgd"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "sgd-momentum"),
        (torch.optim.Adam, "adam"),
        (torch.optim.AdamW, "adam"),
        (torch.optim.NAdam, "adam"),
        (torch.optim.RMSprop, "adam"),
        (torch.optim.Adafactor, "adafactor"),
        (torch.optim.ASGD, "sgd"),
        (torch.optim.Rprop, "unknown"),
        (lambda p: Lion(p, lr=0.1), "lion"),
        (lambda p: FusedAdam(p, lr=0.1), "adam"),
        (lambda p: Wrapper(torch.optim.AdamW(p)), "adam"),
    ],
)
def test_the_family_of_an_optimizer(make: Any, family: str) -> None:
    model = linear()
    assert step_from(model, optimizer=make(model.parameters())).optimizer_family == family


def test_optimizers_of_two_families_have_none_in_common() -> None:
    model = linear()
    pair = {
        "a": torch.optim.SGD([model.weight], lr=0.1),
        "b": torch.optim.Adam([model.bias]),
    }
    step = step_from(model, optimizer=pair)
    assert (step.optimizer_family, step.optimizer_name) == ("unknown", "SGD + Adam")
    assert len(step.parameters()) == 2


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.AdamW,
        torch.optim.Adafactor,
        torch.optim.RMSprop,
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), capturable=False),
    ],
)
def test_priming_creates_state_and_moves_no_weight(make: Any) -> None:
    model = linear()
    optimizer = make(model.parameters())
    before = [p.clone() for p in model.parameters()]
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    step_from(model, optimizer=optimizer).prime()
    assert optimizer.state
    assert all(map(torch.equal, model.parameters(), before))
    assert [float(group["lr"]) for group in optimizer.param_groups] == rates
    assert all(p.grad is None for p in model.parameters())


def test_priming_leaves_state_that_is_there() -> None:
    model = linear()
    optimizer = torch.optim.Adam(model.parameters())
    step = step_from(model, optimizer=optimizer, loss_fn=nn.CrossEntropyLoss())
    step.forward_backward((X, Y))
    step.update()
    step.prime()
    assert float(optimizer.state[model.weight]["step"]) == 1.0


class TwoHeads(nn.Module):
    """Of whose heads only the first is used."""

    def __init__(self, breaks: bool = False) -> None:
        super().__init__()
        self.used, self.unused = linear(), linear()
        self.breaks = breaks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.breaks:
            raise ValueError("mine")
        return self.used(x)


def test_a_parameter_that_no_gradient_reaches_is_given_no_state() -> None:
    model = TwoHeads()
    optimizer = torch.optim.Adam(model.parameters())
    step = step_from(model, optimizer=optimizer, loss_fn=nn.CrossEntropyLoss())
    step.look((X, Y))
    assert all(p.grad is not None for p in step.reached())
    step.zero_grad()
    step.prime()
    assert set(optimizer.state) == set(model.used.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_looked_at_is_taken_to_be_reached() -> None:
    """The error is the first trial's to tell."""
    model = TwoHeads(breaks=True)
    optimizer = torch.optim.Adam(model.parameters())
    step = step_from(model, optimizer=optimizer, loss_fn=nn.CrossEntropyLoss())
    step.look((X, Y))
    step.prime()
    assert set(optimizer.state) == set(model.parameters())


def test_only_parameters_that_are_trained_count() -> None:
    model = nn.Sequential(linear(), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trained = step_from(model, optimizer=optimizer).parameters()
    assert [id(p) for p in trained] == [id(p) for p in model[1].parameters()]


def test_holdings_name_every_tensor_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    optimizer = torch.optim.Adam(model.parameters())
    step = step_from(model, optimizer=optimizer, train_step=lambda m, b: m(b[0]).mean())
    step.forward_backward((X, Y))
    step.update()
    held = list(step.holdings())
    tied_once = len(list(model.parameters()))
    assert len(held) == tied_once * 2 + len(list(model.buffers())) + 3 * tied_once
    assert len({id(tensor) for tensor in held}) == len(held)


@pytest.mark.parametrize(
    ("autocast", "dtype"),
    [
        (None, torch.float32),
        (True, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.bfloat16),
        (torch.autocast("cpu", dtype=torch.bfloat16), torch.bfloat16),
        (nullcontext, torch.float32),
    ],
)
def test_autocast_as_in_the_real_training(autocast: Any, dtype: torch.dtype) -> None:
    seen = []

    def train(model: nn.Module, batch: Any) -> torch.Tensor:
        out = model(batch[0])
        seen.append(out.dtype)
        return out.float().mean()

    step = step_from(linear(), train_step=train, autocast=autocast)
    for _ in range(2):
        step.forward_backward((X, Y))
    assert seen == [dtype, dtype]
    name = str(dtype).removeprefix("torch.")
    assert step.precision.startswith(name)
    assert any("without a gradient scaler" in s for s in step.assumptions) == (name == "float16")


def test_what_is_no_autocast_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"torch\.dtype"):
        step_from(linear(), autocast="bf16")


def test_a_gradient_scaler_scales_skips_and_unscales() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    step = step_from(model, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer, grad_scaler=scaler)
    twin = linear()
    plain = step_from(
        twin, loss_fn=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(twin.parameters(), lr=0.1)
    )
    for each in (step, plain):
        each.forward_backward((X, Y))
    assert step.loss_scale() == 8.0
    torch.testing.assert_close(model.weight.grad / 8, twin.weight.grad)
    for each in (step, plain):
        each.update()
    torch.testing.assert_close(model.weight, twin.weight)
    before = model.weight.clone()
    step.zero_grad()
    step.forward_backward((X * float("inf"), Y))
    step.update()
    assert torch.equal(model.weight, before)
    assert step.loss_scale() == 4.0


Point = namedtuple("Point", "x y")  # the untyped kind is what is tested


@pytest.mark.parametrize(
    ("batch", "read"),
    [
        (X, lambda b: b),
        ([X, {"a": (Y, "text")}], lambda b: b[1]["a"][0]),
        (Point(X, Y), lambda b: b.y),
        (Graphs(X, Y), lambda b: b.y),
        (Encoding({"x": X}), lambda b: b["x"]),
        (nn.utils.rnn.pack_sequence([X[:3], X[:2]]), lambda b: b.data),
    ],
)
def test_batches_of_any_structure_move(batch: Any, read: Any) -> None:
    found = moved(batch, torch.device("meta"))
    assert type(found) is type(batch)
    assert read(found).is_meta
    assert not read(batch).is_meta


def test_an_object_that_answers_every_attribute_is_no_compiled_function() -> None:
    class Answers:
        def __getattr__(self, name: str) -> object:
            return lambda: None

    assert compile_contexts([Answers()]) == []
    assert not is_compiled_function(Answers())


class WithPenalty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.layer(x)
        return out, 0.01 * out.square().mean()


def test_a_penalty_beside_an_output_is_not_taken_for_the_loss() -> None:
    step = step_from(WithPenalty())
    with pytest.raises(UnknownLoss, match="a scalar that does not depend on the target"):
        step.forward_backward((torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])))


def test_the_only_scalar_without_a_target_is_said_to_be_the_whole_loss() -> None:
    step = step_from(WithPenalty())
    step.forward_backward((torch.randn(5, 4),))
    assert any("used as the loss" in said for said in step.assumptions)


def test_classes_are_last_where_they_might_be_second_too() -> None:
    output, target = torch.randn(2, 6, 6), torch.randint(6, (2, 6))
    inferred = LossInference()
    truth = nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())
    assert torch.equal(inferred(output, target), truth)
    assert "it could also be the second" in (inferred.assumption or "")


def test_targets_of_zeros_and_ones_are_said_to_look_like_labels() -> None:
    inferred = LossInference()
    inferred(torch.randn(4, 5), torch.tensor([[0.0, 1, 0, 0, 1]] * 4))
    assert "if they are labels" in (inferred.assumption or "")


def test_a_single_class_is_refused_whatever_the_labels() -> None:
    for labels in (torch.zeros(4).long(), torch.tensor([0, 1, 0, 1])):
        with pytest.raises(UnknownLoss, match=r"at least 2 classes.*BCEWithLogitsLoss.*loss_fn="):
            LossInference()(torch.randn(4, 1), labels)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3)])
def test_class_targets_out_of_range_are_named_in_later_batches_too(shape: Any) -> None:
    inferred, output = LossInference(), torch.randn(shape)
    target = torch.zeros(shape[:-1]).long()
    inferred(output, target)
    target[-1] = 255
    with pytest.raises(UnknownLoss, match="from 0 to 2 for an output of 3 classes; found 0 to 255"):
        inferred(output, target)
    target[-1] = -100  # what torch ignores
    inferred(output, target)
