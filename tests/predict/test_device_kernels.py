"""What a GPU keeps for backward, counted by hand; and sizes that were found on a real one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_trainings import Training, cases
from predict_cases import loader_of, resnet50
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from batchfinder.errors import CannotPredict
from batchfinder.predict import (
    estimate_memory,
    memory_savings,
    predict_for_devices,
    predict_max_batch_size,
)
from batchfinder.predict.allowances import CONTEXT_BYTES, WORKSPACE_BYTES
from batchfinder.predict.device_kernels import CudaKernels

HEADS, LENGTH, WIDTH = 4, 64, 16


def saved_bytes(work, *inputs: torch.Tensor) -> int:
    """Bytes of distinct storages that autograd keeps for the backward of ``work``, inputs aside."""
    seen = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), CudaKernels():
        out = work(*inputs)
        result = sum(seen.values())
    assert out.requires_grad
    return result


def heads() -> tuple[torch.Tensor, ...]:
    shape = (2, HEADS, LENGTH, WIDTH)
    return tuple(torch.randn(shape, requires_grad=True) for _ in range(3))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_keeps_its_output_and_one_number_a_row(dropout: float) -> None:
    def attend(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)

    row = 2 * HEADS * LENGTH * 4
    assert saved_bytes(attend, *heads()) == row * WIDTH + row


def test_attention_inside_multi_head_attention_is_followed() -> None:
    attention = nn.MultiheadAttention(HEADS * WIDTH, HEADS, dropout=0.1, batch_first=True)

    def kept(length: int) -> int:
        x = torch.randn(2, length, HEADS * WIDTH, requires_grad=True)
        return saved_bytes(lambda x: attention(x, x, x, need_weights=False)[0], x)

    assert kept(4 * LENGTH) < 4 * kept(LENGTH)  # a matrix of weights would grow 16-fold


def test_attention_with_a_mask_is_uncertain_and_said() -> None:
    q, k, v = heads()
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    for pessimistic in (False, True):
        kernels = CudaKernels(pessimistic=pessimistic)
        with kernels:
            functional.scaled_dot_product_attention(q, k, v, mask, dropout_p=0.1)
        assert len(kernels.uncertain) == 1


def test_dropout_keeps_a_byte_an_element() -> None:
    x = torch.randn(8, 100, requires_grad=True)
    assert saved_bytes(lambda x: functional.dropout(x, 0.5), x) == 800


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.layer_norm(x, (64,)),
        lambda x: torch.pow(x, 3.0),
        lambda x: x**3,
        lambda x: x.softmax(-1),
    ],
)
def test_autocast_runs_these_in_float32(function) -> None:
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        with CudaKernels():
            assert function(x).dtype is torch.float32
        assert function(x).dtype is torch.bfloat16


def test_outside_autocast_nothing_is_cast() -> None:
    with CudaKernels():
        assert functional.layer_norm(torch.randn(2, 8).bfloat16(), (8,)).dtype is torch.bfloat16


def test_recurrent_layers_are_refused_as_the_first_guess_does() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x)[0][:, -1])

    loader = loader_of(torch.randn(64, 5, 8), torch.randint(2, (64,)))
    with pytest.raises(CannotPredict, match="recurrent"):
        predict_max_batch_size(Recurrent(), loader, memory="8GB", loss_fn=functional.cross_entropy)


def perceptron() -> tuple[nn.Module, DataLoader, dict]:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    loader = loader_of(torch.randn(64, 64), torch.randint(10, (64,)))
    return model, loader, {"loss_fn": functional.cross_entropy}


def test_a_cpu_has_nothing_set_aside() -> None:
    model, loader, options = perceptron()
    found = predict_max_batch_size(model, loader, memory="1MiB", device="cpu", **options)
    assert found.batch_size > 0
    assert not found.allowances
    assert found.low <= found.batch_size <= found.high


def test_one_rehearsal_for_every_device() -> None:
    model, loader, options = perceptron()
    table = predict_for_devices(model, loader, devices=["T4", "H100"], **options)
    for found in table.predictions:
        alone = predict_max_batch_size(model, loader, device=found.device, **options)
        assert abs(alone.batch_size - found.batch_size) <= 0.005 * alone.batch_size
    assert [line.split()[0] for line in str(table).splitlines()[:3]] == ["device", "T4", "H100"]


def test_an_estimate_knows_what_it_fits() -> None:
    model, loader, options = perceptron()
    estimate = estimate_memory(model, loader, 64, device="H200", **options)
    assert estimate.fits("H200") and estimate.fits("2GB")
    assert not estimate.fits("512MiB")  # the context alone is more
    assert estimate.fits(estimate.total_bytes) and not estimate.fits(estimate.total_bytes - 1)


def test_savings_are_rehearsed_and_leave_nothing_behind() -> None:
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)) for _ in range(6)]
    model = nn.Sequential(*blocks)
    loader = loader_of(torch.randn(64, 64), torch.randn(64, 64))
    options = {"loss_fn": functional.mse_loss}
    found = memory_savings(model, loader, 4096, **options)
    named = {saving.name: saving for saving in found.savings}
    assert "activation checkpointing" in named
    assert found.savings[0].saved_bytes == max(each.saved_bytes for each in found.savings)
    assert all("forward" not in vars(block) for block in blocks)
    assert estimate_memory(model, loader, 4096, **options).peak_bytes == found.peak_bytes


# Found by running whole steps on an H200 under the same limit ------------------------------------


class Zeros(Dataset):
    def __init__(self, make) -> None:
        self.make = make

    def __len__(self) -> int:
        return 20_000

    def __getitem__(self, index: int):
        return self.make()


@pytest.mark.slow
def test_resnet50_in_24_gb() -> None:
    model = resnet50()
    found = predict_max_batch_size(
        model,
        DataLoader(Zeros(lambda: (torch.zeros(3, 224, 224), 0)), batch_size=8),
        memory="24GB",
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        autocast=torch.bfloat16,
    )
    assert found.batch_size == pytest.approx(505, rel=0.1)
    assert found.low <= 505 <= found.high


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_gpt2_small_in_24_gb() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def tokens() -> dict[str, torch.Tensor]:
        ids = torch.zeros(1024, dtype=torch.long)
        return {"input_ids": ids, "labels": ids}

    model = GPT2LMHeadModel(GPT2Config())
    found = predict_max_batch_size(
        model,
        DataLoader(Zeros(tokens), batch_size=8),
        memory="24GB",
        train_step=lambda model, batch: model(**batch).loss,
        optimizer=torch.optim.AdamW(model.parameters(), 1e-4, fused=True),
        autocast=torch.bfloat16,
    )
    assert found.batch_size == pytest.approx(13, rel=0.1)
    assert found.low <= 13 <= found.high


@pytest.mark.slow
def test_the_allocated_peaks_of_an_h200_are_met_within_a_hundredth() -> None:
    path = Path(__file__).parent.parent / "support" / "edge_on_an_h200.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    measured = {row["size"]: row["alloc"] for row in rows if row.get("ok") and not row["conf"]}
    model = resnet50()
    loader = DataLoader(Zeros(lambda: (torch.zeros(3, 224, 224), 0)), batch_size=8)
    for size in (min(measured), max(measured)):
        estimate = estimate_memory(
            model,
            loader,
            size,
            device="H200",
            loss_fn=nn.CrossEntropyLoss(),
            optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
            autocast=torch.bfloat16,
        )
        assert estimate.peak_bytes == pytest.approx(measured[size], rel=0.01)


def measured_on_an_h200() -> list[dict[str, Any]]:
    path = Path(__file__).parent.parent / "support" / "peaks_on_an_h200.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
@pytest.mark.parametrize("row", measured_on_an_h200(), ids=lambda row: row["training"])
def test_what_an_h200_ran_is_predicted_from_a_cpu(row: dict[str, Any]) -> None:
    """Sizes within 10%, inside of the range; peaks within 1%, or 3% below a batch of 8."""
    training = Training(cases(tiny=False)[row["training"]], torch.device("cpu"))
    given = {"train_step": training.loss, "optimizer": training.optimizer}
    found = predict_max_batch_size(training.model, training.loader, memory=row["limit"], **given)
    assert found.batch_size == pytest.approx(row["trains"], rel=0.1)
    assert found.low <= row["trains"] <= found.high
    for size, peak in (row["peaks"][0], row["peaks"][-1]):
        estimate = estimate_memory(training.model, training.loader, size, device="H200", **given)
        assert estimate.peak_bytes + CONTEXT_BYTES + WORKSPACE_BYTES == pytest.approx(
            peak, rel=0.03 if size < 8 else 0.01
        )


def test_what_attention_gives_can_be_joined_without_a_copy() -> None:
    """As in flash attention, whose heads lie inside of rows."""
    with CudaKernels(), FakeTensorMode():
        query = torch.empty(2, 4, 16, 8, requires_grad=True)
        out = functional.scaled_dot_product_attention(query, query, query)
        assert out.shape == (2, 4, 16, 8)
        assert out.transpose(1, 2).is_contiguous()
        flat = functional.scaled_dot_product_attention(query[0, 0], query[0, 0], query[0, 0])
        assert flat.shape == (16, 8)
