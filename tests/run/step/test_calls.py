"""How a model and a loss are called, and what is said where they cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from batchfinder.errors import InvalidArgument
from batchfinder.run.step import step_from

X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
ROWS = {"x": X, "y": Y}


class Whole(nn.Module):
    """Takes its batch as it is and computes the loss by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, batch: Any) -> torch.Tensor:
        x, y = batch.values() if isinstance(batch, dict) else batch
        return nn.functional.cross_entropy(self.linear(x), y)


class Unnamed(Whole):
    def forward(self, inputs: Any) -> torch.Tensor:
        return super().forward(inputs)


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], ROWS])
def test_a_model_that_takes_a_batch_is_given_it_whole(batch: Any) -> None:
    model = Whole()
    loss = step_from(model).forward_backward(batch)
    assert torch.equal(loss, model((X, Y)).detach())


def test_an_error_of_a_model_that_was_given_a_part_says_so() -> None:
    with pytest.raises(ValueError, match="unpack") as caught:
        step_from(Unnamed()).forward_backward((X, Y))
    (note,) = caught.value.__notes__
    assert "forward was called with (float32 tensor (6, 4)) of a batch of tuple(" in note
    assert "train_step=lambda model, batch: model(batch)" in note


class More(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)


class Third(More):
    def forward(self, a: Any, b: Any, c: Any) -> torch.Tensor:
        return self.linear(a)


class Keyword(More):
    def forward(self, a: Any, *, mask: Any) -> torch.Tensor:
        return self.linear(a)


class Keys(More):
    def forward(self, x: Any, ids: Any) -> torch.Tensor:
        return self.linear(x)


@pytest.mark.parametrize(
    ("model", "batch", "words"),
    [
        (Third(), (X, Y), r"found Third\.forward\(a, b, c\) and a batch of tuple.*'c'"),
        (Keyword(), (X, Y), r"found Keyword\.forward\(a, mask\).*'mask'"),
        (Keys(), ROWS, r"found Keys\.forward\(x, ids\) and a batch of dict\(x: .*'ids'"),
        (torch.compile(Third(), backend="eager"), (X, Y), r"found Third\.forward\(a, b, c\)"),
    ],
)
@pytest.mark.parametrize("loss_fn", [None, nn.CrossEntropyLoss()])
def test_arguments_that_the_batch_does_not_hold_are_named(
    model: nn.Module, batch: Any, words: str, loss_fn: Any
) -> None:
    with pytest.raises(InvalidArgument, match=words + r".*train_step=lambda model, batch"):
        step_from(model, loss_fn=loss_fn).forward_backward(batch)


def contrast(output: Any, target: Any, margin: Any) -> torch.Tensor:
    return output.mean()


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        (nn.CTCLoss(), r"CTCLoss\(log_probs, targets, input_lengths, target_lengths\)"),
        (nn.TripletMarginLoss(), r"TripletMarginLoss\(anchor, positive, negative\)"),
        (contrast, r"contrast\(output, target, margin\)"),
    ],
)
def test_a_loss_that_wants_more_than_output_and_target_is_named(loss_fn: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words + r".*train_step="):
        step_from(nn.Linear(4, 3), loss_fn=loss_fn).forward_backward((X, Y))


def test_a_mistake_inside_the_model_or_the_loss_stays_itself() -> None:
    def wrong(output: Any, target: Any) -> torch.Tensor:
        return contrast(output, target)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'margin'"):
        step_from(nn.Linear(4, 3), loss_fn=wrong).forward_backward((X, Y))
