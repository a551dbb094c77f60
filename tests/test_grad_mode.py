"""Calls made with gradients turned off train all the same, and leave them off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf


def training() -> bf.Training:
    torch.manual_seed(0)
    rows = torch.randn(64, 8)
    loader = DataLoader(TensorDataset(rows, rows.argmax(1)), batch_size=8)
    return bf.Training(nn.Linear(8, 8), loader, loss_fn=nn.CrossEntropyLoss())


def quiet(event: object) -> None:
    """Say nothing."""


CALLS: dict[str, Callable[[bf.Training], Any]] = {
    "find_batch_size": lambda given: bf.find_batch_size(
        given, at_most=16, base_learning_rate=0.1, noise=None, budget_seconds=1, observe=quiet
    ),
    "max_batch_size": lambda given: bf.max_batch_size(given, at_most=16, observe=quiet),
    "gradient_noise_scale": lambda given: bf.gradient_noise_scale(given, observe=quiet),
    "eval_batch_size": lambda given: bf.eval_batch_size(
        given, at_most=16, budget_seconds=0.3, observe=quiet
    ),
    "estimate_memory": lambda given: bf.estimate_memory(given, batch_size=8),
    "predict_max_batch_size": lambda given: bf.predict_max_batch_size(given, memory="8GB"),
    "assert_fits": lambda given: bf.assert_fits(given, batch_size=8, memory="8MiB"),
}


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_gradients_are_turned_on_for_the_call(
    call: Callable[[bf.Training], Any], off: Callable[[], Any]
) -> None:
    given = training()
    with off():
        assert call(given)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() is (off is torch.inference_mode)
    assert torch.is_grad_enabled()


def test_a_model_made_in_inference_mode_is_named() -> None:
    with torch.inference_mode(), pytest.raises(bf.InvalidArgument, match="outside of it"):
        bf.max_batch_size(training(), observe=quiet)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_a_lazy_model_that_has_seen_no_batch_is_named(call: Callable[[bf.Training], Any]) -> None:
    given = dataclasses.replace(training(), model=nn.LazyLinear(8))
    with pytest.raises(bf.InvalidArgument, match="run one batch through the model"):
        call(given)
