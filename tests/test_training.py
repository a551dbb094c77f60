"""The training as one value: the same answer from every function as from model and loader."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.training import built_by, training_of

EVERYDAY = (
    "loss_fn",
    "train_step",
    "optimizer",
    "scheduler",
    "clip",
    "autocast",
    "grad_scaler",
)
FUNCTIONS = (
    bf.find_batch_size,
    bf.max_batch_size,
    bf.gradient_noise_scale,
    bf.estimate_memory,
    bf.predict_max_batch_size,
    bf.assert_fits,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(8, 4)


def loader() -> DataLoader[Any]:
    rows = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(rows, rows.argmax(1) % 4), batch_size=8)


LOSS = nn.CrossEntropyLoss()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_function_takes_the_everyday_members(function: Any) -> None:
    taken = inspect.signature(function).parameters
    assert list(taken)[:2] == ["model", "loader"]
    assert set(EVERYDAY) <= set(taken)
    untyped = [n for n, each in taken.items() if each.annotation in (each.empty, "Any")]
    assert untyped == []


def test_find_batch_size_has_the_twenty_five_parameters_of_the_contract() -> None:
    assert len(inspect.signature(bf.find_batch_size).parameters) == 25


def test_who_searches_together_belongs_to_the_training() -> None:
    met: list[str] = []

    class Group:
        """As ``ALONE``, and keeps a note of the calls it met for."""

        def meet(self, described: Any, *, replicas: int | None = None) -> Any:
            met.append(described["the function"])
            return bf.ALONE.meet(described, replicas=replicas)

    training = bf.Training(network(), loader(), loss_fn=LOSS, ranks=Group())
    bf.max_batch_size(training, at_most=8, observe=quiet)
    bf.gradient_noise_scale(training, noise=bf.MicroBatchVariance(samples=64), observe=quiet)
    bf.eval_batch_size(
        bf.Training(network(), loader(), ranks=Group()),
        at_most=8,
        budget_seconds=0.1,
        observe=quiet,
    )
    assert met == ["max_batch_size", "gradient_noise_scale", "eval_batch_size"]
    with pytest.raises(bf.UnknownArgument, match=r"pass Training\(model, loader, ranks=...\)"):
        bf.max_batch_size(network(), loader(), process_group=None)
    with pytest.raises(bf.InvalidArgument, match="expected ranks to be"):
        bf.max_batch_size(bf.Training(network(), loader(), ranks=2))  # type: ignore[arg-type]


def quiet(event: object) -> None:
    """Say nothing."""


@pytest.mark.parametrize(
    ("function", "options", "answer"),
    [
        (
            bf.max_batch_size,
            {"memory_limit": "200KiB", "at_most": 32, "observe": quiet},
            lambda found: found.max_batch_size,
        ),
        (
            bf.gradient_noise_scale,
            {"noise": bf.MicroBatchVariance(samples=64), "observe": quiet},
            lambda found: found.value,
        ),
        (bf.estimate_memory, {"batch_size": 16}, lambda found: found.peak_bytes),
        (bf.predict_max_batch_size, {"memory": "8GB"}, lambda found: found.batch_size),
        (
            bf.assert_fits,
            {"memory": "1MiB", "batch_size": 8},
            lambda found: found.peak_bytes,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_training_gives_the_same_answer(
    function: Any, options: dict[str, Any], answer: Any
) -> None:
    apart = function(network(), loader(), loss_fn=LOSS, **options)
    together = function(bf.Training(network(), loader(), loss_fn=LOSS), **options)
    mixed = function(bf.Training(network(), loader()), loss_fn=LOSS, **options)
    assert answer(apart) == answer(together) == answer(mixed)


def test_make_loader_needs_no_loader() -> None:
    rows = loader().dataset
    training = bf.Training(
        network(), loss_fn=LOSS, make_loader=lambda size: DataLoader(rows, batch_size=size)
    )
    found = bf.max_batch_size(training, memory_limit="1MiB", at_most=16, observe=quiet)
    assert found.max_batch_size == 16


def test_a_factory_returns_a_training_or_its_arguments() -> None:
    training = bf.Training(network(), loader())
    assert built_by(lambda: training) is training
    assert built_by(lambda: {"model": network(), "loader": loader()}).loss_fn is None
    with pytest.raises(bf.InvalidArgument, match="found colour"):
        built_by(lambda: {"model": network(), "loader": loader(), "colour": "red"})
    with pytest.raises(bf.InvalidArgument, match="found list"):
        built_by(lambda: [network()])  # type: ignore[arg-type, return-value]


def test_the_members_of_a_training_are_kept_as_they_are() -> None:
    model, batches = network(), loader()
    training = training_of(model, batches, loss_fn=LOSS, optimizer=None)
    assert training.model is model
    assert training.loader is batches
    assert training.loss_fn is LOSS
    assert training.optimizer is None


@pytest.mark.parametrize(
    "wrong", [{"optimizer": "adam"}, {"scheduler": [3]}, {"grad_scaler": True}]
)
def test_what_holds_no_state_is_refused_with_what_to_build(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    found = value[0] if isinstance(value, list) else value
    with pytest.raises(
        bf.InvalidArgument, match=rf"{name} to be .* found {found!r}: build it first"
    ):
        bf.Training(nn.Linear(2, 2), [torch.zeros(2)], **wrong).check()
