"""A target that the loss does not take: the error has the change that makes it work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from batchfinder.errors import InvalidArgument, UnknownLoss
from batchfinder.run.step import EvaluationStep, step_from

CLASSES = torch.tensor([0, 1, 2, 1])
ROWS = torch.randn(4, 8)


def step(loss_fn: Any, outputs: int = 3, **options: Any) -> Any:
    return step_from(nn.Linear(8, outputs), loss_fn=loss_fn, **options)


@pytest.mark.parametrize(
    ("loss_fn", "outputs", "target", "change"),
    [
        (nn.CrossEntropyLoss(), 3, CLASSES.float(), "target.long()"),
        (nn.functional.cross_entropy, 3, CLASSES.double(), "target.long()"),
        (nn.NLLLoss(), 3, CLASSES.float(), "target.long()"),
        (nn.CrossEntropyLoss(), 3, CLASSES.int(), "target.long()"),
        (nn.CrossEntropyLoss(), 3, CLASSES.float()[:, None], "target.flatten().long()"),
        (nn.CrossEntropyLoss(), 3, CLASSES[:, None], "target.squeeze(1).long()"),
        (nn.CrossEntropyLoss(), 3, nn.functional.one_hot(CLASSES), "target.float()"),
        (nn.BCEWithLogitsLoss(), 1, (CLASSES > 0).long()[:, None], "target.float()"),
        (nn.BCEWithLogitsLoss(), 1, (CLASSES > 0).float(), "target.view_as(output)"),
        (nn.BCEWithLogitsLoss(), 1, CLASSES > 0, "target.view_as(output)"),
    ],
)
def test_the_change_that_works_is_told(
    loss_fn: Any, outputs: int, target: torch.Tensor, change: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        step(loss_fn, outputs).forward_backward((ROWS, target))
    text = str(caught.value)
    assert "expected an output and a target" in text
    assert "float32 tensor (4," in text
    assert change in text
    assert isinstance(caught.value.__cause__, (RuntimeError, ValueError))  # torch's own
    expression = text.split("your_loss(")[1].split("), or", maxsplit=1)[0]
    output = nn.Linear(8, outputs)(ROWS)
    arguments = eval(f"({expression})", {"output": output, "target": target})
    assert loss_fn(*arguments).ndim == 0


def test_words_of_a_sequence_are_laid_flat() -> None:
    model = nn.Sequential(nn.Linear(8, 15), nn.Unflatten(1, (5, 3)))
    with pytest.raises(InvalidArgument, match=r"output.flatten\(0, -2\), target.flatten\(\)"):
        step_from(model, loss_fn=nn.CrossEntropyLoss()).forward_backward(
            (ROWS, torch.randint(3, (4, 5)))
        )


def test_values_that_would_be_lost_are_not_advised() -> None:
    with pytest.raises(RuntimeError, match="Long") as caught:
        step(nn.CrossEntropyLoss()).forward_backward((ROWS, torch.rand(4)))
    (note,) = caught.value.__notes__
    assert "the loss was called with an output of float32 tensor (4, 3)" in note


def test_classes_out_of_range_are_noted() -> None:
    with pytest.raises(IndexError) as caught:
        step(nn.CrossEntropyLoss()).forward_backward((ROWS, CLASSES + 3))
    assert "a target of int64 tensor (4,) from 3 to 5" in caught.value.__notes__[0]


def test_a_bug_in_a_loss_passes_as_itself() -> None:
    def broken(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise KeyError("weights")

    with pytest.raises(KeyError, match="weights"):
        step(broken).forward_backward((ROWS, CLASSES))


def test_out_of_memory_is_left_alone() -> None:
    def hungry(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        step(hungry).forward_backward((ROWS, CLASSES))
    assert not getattr(caught.value, "__notes__", ())


def test_floating_classes_without_a_loss() -> None:
    with pytest.raises(UnknownLoss, match="let the dataset return them as int64"):
        step(None).forward_backward((ROWS, CLASSES.float()))


def test_an_input_of_another_type_is_noted() -> None:
    with pytest.raises(RuntimeError) as caught:
        step(None).forward_backward((ROWS.double(), CLASSES))
    assert "the model's weights are float32: let the data set" in caught.value.__notes__[0]


class Wants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, rows: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        return self.layer(rows * mask) * scale


class Unpacks(Wants):
    def forward(self, pair: Any) -> torch.Tensor:
        rows, _ = pair
        return self.layer(rows)


def test_an_evaluation_names_its_own_way_out() -> None:
    with pytest.raises(InvalidArgument, match=r"forward\(rows, mask, scale\).*pass eval_step="):
        EvaluationStep(Wants()).forward_backward((ROWS, CLASSES))
    with pytest.raises(ValueError, match="unpack") as caught:
        EvaluationStep(Unpacks()).forward_backward((ROWS, CLASSES))
    assert "pass eval_step=lambda model, batch: model(batch)" in caught.value.__notes__[0]


@pytest.mark.parametrize("broken", [{1}, {1, 2, 3, 4, 5, 6}])
def test_a_mistake_in_the_loss_is_its_own(broken: set[int]) -> None:
    """Whether it comes and goes or stays: no change of the target is its way out."""
    calls = 0

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls in broken:
            raise ValueError("a mistake")
        return nn.functional.cross_entropy(output, target)

    step = step_from(nn.Linear(4, 3), loss_fn=loss)
    with pytest.raises(ValueError, match="a mistake") as caught:
        step.forward_backward((torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])))
    assert type(caught.value) is ValueError
