"""The parts of a prediction: batches that grow, the root of a curve, the table of devices."""

from __future__ import annotations

import logging

import pytest
import torch
from predict_cases import loader_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.devices import DEVICES, find_device
from batchfinder.errors import InvalidArgument
from batchfinder.predict import estimate_memory
from batchfinder.predict.guess import largest_within

# Batches and roots ------------------------------------------------------------------------------


def test_dicts_lists_and_shared_tensors_grow() -> None:
    def collate(rows: list[tuple[torch.Tensor, ...]]) -> dict[str, object]:
        x = torch.stack([row[0] for row in rows])
        return {"x": x, "same": x, "flat": x.flatten(), "each": [row[0] for row in rows],
                "size": len(rows), "name": "a"}  # fmt: skip

    loader = loader_of(torch.randn(64, 3, 5), collate=collate)
    seen: dict[str, object] = {}

    def train_step(model: nn.Module, batch: dict[str, object]) -> torch.Tensor:
        seen.update(batch)
        return model(batch["x"]).sum()

    estimate = estimate_memory(nn.Linear(5, 1), loader, 7, train_step=train_step)
    assert tuple(seen["x"].shape) == (7, 3, 5)
    assert seen["same"] is seen["x"]
    assert tuple(seen["flat"].shape) == (105,)
    assert [tuple(each.shape) for each in seen["each"]] == [(3, 5)] * 7
    assert (seen["size"], seen["name"]) == (7, "a")
    assert estimate.batch_bytes == 3 * 7 * 3 * 5 * 4


@pytest.mark.parametrize(
    "curve",
    [
        lambda size: 1000 + 7 * size,
        lambda size: max(5000 + size, 100 + 7 * size),
        lambda size: 1000 + size**2,
        lambda size: 1000 + size**3,
        lambda size: 1000,
        lambda size: 1000 + 7 * min(size, 4),
    ],
)
@pytest.mark.parametrize("limit", [1100, 6000, 10**6, 10**9])
def test_the_root_of_a_curve_in_few_questions(curve, limit: int) -> None:
    asked: list[int] = []

    def peak_of(size: int) -> int:
        asked.append(size)
        return curve(size)

    found = largest_within(peak_of, limit, (2, 10**6), 900)
    if curve(2) > limit:
        assert found == 0
        return
    assert curve(found) <= limit
    above = found + max(2, int(0.005 * found))
    assert above > 10**6 or curve(above) > limit
    assert len(asked) <= 20


# The table --------------------------------------------------------------------------------------


def test_devices_are_found_by_any_spelling() -> None:
    assert find_device("a100 80gb").memory_bytes == 80 * 10**9
    with pytest.raises(InvalidArgument, match="among A100-40GB, A100-80GB; found 'A100'"):
        find_device("A100")


def test_every_device_has_a_source_and_a_name_of_its_own() -> None:
    names = [device.name.lower() for device in DEVICES]
    assert len(names) == len(set(names))
    assert all("data sheet" in d.source or "product page" in d.source for d in DEVICES)


def test_a_mistake_in_the_model_is_raised_and_not_logged_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch logs a traceback of its own for every operator that fails under fake tensors."""
    logged: list[logging.LogRecord] = []
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    monkeypatch.setattr(logger, "callHandlers", logged.append)
    data = TensorDataset(torch.randn(200, 8), torch.randint(3, (200,)))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        bf.max_batch_size(
            nn.Linear(9, 3),
            DataLoader(data, batch_size=16),
            memory_limit="64MiB",
            observe=lambda event: None,
        )
    assert logged == []
    logger.error("as before")
    assert [record.getMessage() for record in logged] == ["as before"]
