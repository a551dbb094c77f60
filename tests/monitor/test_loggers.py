"""What the documentation says to TensorBoard, W&B and MLflow, run as it is printed."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monitor_cases import batches, mlp, train

from batchfinder import TrainingMonitor
from batchfinder.monitor import Kind, Reading
from batchfinder.monitor.noise import FEWEST_LOOKS

PAGE = Path(__file__).parent.parent.parent / "docs" / "monitor.md"
STEPS, EVERY = 60, 5


def lines_for(logger: str) -> str:
    found = re.search(rf"\n{logger}[^\n]*:\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, logger
    return found[1]


def logged(logger: str, names: dict[str, Any]) -> TrainingMonitor:
    """A monitor whose training ran the logger's lines after every step."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = TrainingMonitor(model, optimizer, batch_size=16, every=EVERY)
    lines = compile(lines_for(logger), logger, "exec")
    for number, batch in enumerate(batches(16, count=STEPS), start=1):
        bad = number == STEPS - 10
        train(model, optimizer, monitor, iter([batch]), loss=loss_nan if bad else loss_of)
        exec(lines, {"monitor": monitor, **names})
    assert [event.kind for event in monitor.events] == [Kind.NOT_FINITE]
    return monitor


def loss_of(model: torch.nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(part[0]), part[1])


class _NotFinite(torch.autograd.Function):
    """NaN forwards, the gradient of the loss backwards."""

    @staticmethod
    def forward(_: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss * math.nan

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def loss_nan(model: torch.nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return _NotFinite.apply(loss_of(model, part))


def wanted(monitor: TrainingMonitor) -> list[tuple[dict[str, float], int]]:
    return [(each.scalars(), each.step) for each in monitor.history.readings]


def test_tensorboard() -> None:
    added: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *scalar: added.append(scalar))
    monitor = logged("TensorBoard", {"writer": writer})
    assert added == [(*item, step) for row, step in wanted(monitor) for item in row.items()]


def test_weights_and_biases() -> None:
    rows: list[tuple[dict[str, float], int]] = []
    alerts: list[tuple[str, str]] = []
    run = SimpleNamespace(
        log=lambda row, step: rows.append((row, step)),
        alert=lambda title, text: alerts.append((title, text)),
    )
    monitor = logged("Weights & Biases", {"run": run})
    assert rows == wanted(monitor)
    assert alerts == [("training", str(monitor.events[0]))]


def test_mlflow() -> None:
    rows: list[tuple[dict[str, float], int]] = []
    kept: dict[str, str] = {}
    mlflow = SimpleNamespace(
        log_metrics=lambda row, step: rows.append((row, step)),
        log_text=lambda text, name: kept.update({name: text}),
        set_tag=lambda name, text: kept.update({name: text}),
    )
    monitor = logged("MLflow", {"mlflow": mlflow})
    assert rows == wanted(monitor)
    assert kept["history.json"] == monitor.history.to_json()
    assert kept["events"] == str(monitor.events[0])


def test_scalars_hold_what_could_be_read() -> None:
    bare = Reading(step=3, samples=24, batch_size=8, learning_rate=0.1)
    assert bare.scalars() == {"learning_rate": 0.1, "batch_size": 8.0}
    monitor = logged("TensorBoard", {"writer": SimpleNamespace(add_scalar=lambda *_: None)})
    readings = monitor.history.readings
    assert "noise_scale" not in readings[FEWEST_LOOKS - 2].scalars()
    noise = readings[-1].noise_scale
    assert noise is not None
    assert readings[-1].scalars()["noise_scale"] == noise.value
    assert readings[-1] is monitor.last_reading
    assert sum("loss" not in each.scalars() for each in readings) == 1, "the one that was NaN"


@pytest.mark.parametrize("logger", ["TensorBoard", "Weights & Biases", "MLflow"])
def test_five_lines_will_do(logger: str) -> None:
    assert len(lines_for(logger).splitlines()) <= 5
