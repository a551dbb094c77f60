"""A monitor as a callback: the training is the same, and what it sees is what a loop would see."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from framework_cases import digest, digits, network, seed
from torch.nn import functional
from torch.utils.data import DataLoader

from batchfinder import TrainingMonitor
from batchfinder.monitor import Kind

pytest.importorskip("lightning.pytorch")
transformers = pytest.importorskip("transformers")

from lightning.pytorch.loggers.logger import DummyLogger
from test_lightning import PACKAGES, module_of, trainer_of
from test_transformers import trainer_of as hugging_trainer_of

from batchfinder.integrations.lightning import MonitorCallback as LightningMonitor
from batchfinder.integrations.transformers import MonitorCallback as TransformersMonitor

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STEPS, PER_STEP, EVERY = 40, 2, 2


class Keeping(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, float] = {}

    def log_metrics(self, metrics, step=None) -> None:
        self.kept |= metrics


@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_trains_the_same_with_a_monitor(package) -> None:
    ends = []
    for watched in (False, True):
        callback = LightningMonitor(every=EVERY)
        module = module_of(package)
        trainer = trainer_of(
            package,
            callbacks=[callback] if watched else [],
            accumulate_grad_batches=PER_STEP,
            limit_train_batches=STEPS * PER_STEP,
        )
        logger = Keeping()
        trainer.loggers = [logger]
        trainer.fit(module)
        ends.append(digest(module, trainer.optimizers[0]))
    assert ends[0] == ends[1]
    monitor = callback.monitor
    assert monitor.steps == STEPS
    assert monitor.samples == STEPS * PER_STEP * 16
    assert monitor.noise_scale is not None
    assert monitor.noise_scale.micro_batch == 16
    assert logger.kept["batchfinder/noise_scale"] == monitor.noise_scale.value
    assert not monitor.events


def test_lightnings_readings_are_those_of_a_loop_by_hand() -> None:
    callback = LightningMonitor(every=EVERY)
    module = module_of(PACKAGES[0])
    trainer = trainer_of(
        PACKAGES[0], callbacks=[callback], accumulate_grad_batches=2, limit_train_batches=40
    )
    seed(1)
    trainer.fit(module)

    model = module_of(PACKAGES[0])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    monitor = TrainingMonitor(model.network, optimizer, batch_size=32, every=EVERY)
    seed(1)
    batches = iter(DataLoader(digits(), batch_size=16, shuffle=True))
    for _ in range(20):
        optimizer.zero_grad()
        losses = []
        for images, labels in (next(batches), next(batches)):
            loss = functional.cross_entropy(model.network(images), labels)
            (loss / 2).backward()
            losses.append(loss.detach())
        optimizer.step()
        monitor.step(sum(losses) / 2)
    pairs = zip(callback.monitor.history.readings, monitor.history.readings, strict=True)
    for found, expected in pairs:
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
        assert found.noise_trace == pytest.approx(expected.noise_trace, rel=1e-4)


def test_lightning_without_accumulation_watches_stability_alone() -> None:
    callback = LightningMonitor(every=EVERY)
    module = module_of(PACKAGES[0])
    trainer = trainer_of(PACKAGES[0], callbacks=[callback], limit_train_batches=STEPS)
    trainer.fit(module)
    assert callback.monitor.noise_scale is None
    assert any("accumulate" in str(caveat) for caveat in callback.monitor.caveats)
    assert all(math.isfinite(each.update_ratio) for each in callback.monitor.history.readings)


def test_lightning_tells_a_loss_that_is_not_finite() -> None:
    told = []
    module = module_of(PACKAGES[0])
    step = type(module).training_step
    type(module).training_step = lambda self, batch, index: (
        step(self, batch, index) * (math.nan if index > 3 else 1)
    )
    callback = LightningMonitor(every=EVERY, observe=told.append)
    trainer = trainer_of(PACKAGES[0], callbacks=[callback], limit_train_batches=8)
    trainer.fit(module)
    assert told[0].kind is Kind.NOT_FINITE
    assert told[0].step == 5


def test_transformers_trains_the_same_with_a_monitor(tmp_path) -> None:
    ends = []
    for watched in (False, True):
        callback = TransformersMonitor(every=EVERY)
        trainer = hugging_trainer_of(
            tmp_path, callbacks=[callback] if watched else [], max_steps=STEPS
        )
        trainer.train()
        ends.append(digest(trainer.model, trainer.optimizer))
    assert ends[0] == ends[1]
    monitor = callback.monitor
    assert monitor.steps == STEPS
    assert monitor.samples == STEPS * 8
    assert monitor.noise_scale is not None
    assert all(0 < each.loss < 10 for each in monitor.history.readings)
    assert not trainer.model._forward_hooks


def test_transformers_readings_hold_the_trainers_own_loss(tmp_path) -> None:
    callback = TransformersMonitor(every=3)
    trainer = hugging_trainer_of(
        tmp_path, callbacks=[callback], max_steps=6, logging_strategy="steps", logging_steps=6
    )
    trainer.train()
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    readings = callback.monitor.history.readings
    watched = sum(each.loss for each in readings) / len(readings)
    assert watched == pytest.approx(logged, rel=0.05)


def test_steps_without_a_loss_watch_gradients_alone() -> None:
    seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    monitor = TrainingMonitor(model, optimizer, batch_size=32, every=2)
    images, labels = next(iter(DataLoader(digits(), batch_size=32)))
    for _ in range(8):
        optimizer.zero_grad()
        for rows in (slice(0, 16), slice(16, 32)):
            (functional.cross_entropy(model(images[rows]), labels[rows]) / 2).backward()
            monitor.took(16)
        optimizer.step()
        monitor.step(None)
    assert monitor.samples == 8 * 32
    assert all(math.isnan(each.loss) for each in monitor.history.readings)
    assert all(each.noise_trace > 0 for each in monitor.history.readings)


def test_transformers_gradients_are_unscaled() -> None:
    images, labels = next(iter(DataLoader(digits(), batch_size=16)))
    norms = []
    for scale in (1.0, 1024.0):
        seed(0)
        model = network()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = SimpleNamespace(
            optimizer=torch.optim.SGD(model.parameters(), 0.0), scaler=scaler
        )
        callback = TransformersMonitor(every=1)
        args = SimpleNamespace(train_batch_size=16, n_gpu=0)
        callback.on_train_begin(args, None, None, model=model, optimizer=optimizer)
        for _ in range(4):
            model.zero_grad()
            scaler.scale(functional.cross_entropy(model(images), labels)).backward()
            callback.on_pre_optimizer_step(args, None, None)
            callback.on_step_end(args, None, None)
        callback.on_train_end(args, None, None)
        norms.append(callback.monitor.history.readings[-1].gradient_norm)
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_a_run_that_an_exception_ended_leaves_no_hook_to_the_next() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    args = SimpleNamespace(train_batch_size=16, n_gpu=0)
    callback = TransformersMonitor()
    for _ in range(2):
        callback.on_train_begin(args, None, None, model=model, optimizer=optimizer)
        assert len(model._forward_hooks) == 1
    for _ in range(2):
        callback.on_train_end(args, None, None)
        assert not model._forward_hooks

    trainer = SimpleNamespace(
        model=model, precision_plugin=None, optimizers=[optimizer], global_step=0, loggers=[]
    )
    watching = LightningMonitor()
    watching.on_train_start(trainer, model)
    closed: list[bool] = []
    watching.monitor.close = lambda: closed.append(True)
    watching.on_train_start(trainer, model)
    assert closed == [True]
    for _ in range(2):
        watching.on_train_end(trainer, model)


def test_transformers_counts_the_rows_of_a_short_batch(tmp_path) -> None:
    callback = TransformersMonitor(every=EVERY)
    trainer = hugging_trainer_of(
        tmp_path,
        callbacks=[callback],
        max_steps=-1,
        num_train_epochs=1,
        gradient_accumulation_steps=1,
    )
    trainer.train_dataset = torch.utils.data.Subset(trainer.train_dataset, range(10))
    trainer.train()
    assert callback.monitor.steps == 3
    assert callback.monitor.samples == 10


def test_transformers_samples_end_to_end_in_one_row_count_as_they_were_asked_for() -> None:
    callback = TransformersMonitor()
    model = network()
    args = SimpleNamespace(train_batch_size=4, n_gpu=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    callback.on_train_begin(args, None, None, model=model, optimizer=optimizer)
    row = torch.zeros(1, 64)
    for given, samples in (({"position_ids": row}, 4), ({}, 1)):
        callback._see(model, (), {"input_ids": row, **given}, {})
        callback.on_pre_optimizer_step(args, None, None)
        before = callback.monitor.samples
        callback.on_step_end(args, None, None)
        assert callback.monitor.samples - before == samples
    callback.on_train_end(args, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["lightning", "transformers"])
def test_ranks_are_micro_batches_under_a_framework(tmp_path, framework) -> None:
    script = Path(__file__).parent.parent / "support" / "monitor_callback_ranks.py"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(script.parent.parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    ranks = [{}]  # Lightning starts the second one
    if framework == "transformers":
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), framework, str(tmp_path / "rank")],
            env=environment | of_rank,
        )
        for of_rank in ranks
    ]
    assert {process.wait(timeout=240) for process in processes} == {0}
    first, second = (json.loads((tmp_path / f"rank{rank}").read_text()) for rank in range(2))
    assert first == second, "every rank knows the same"
    assert first["caveats"] == []
    assert first["micro_batch"] == 16
    value, low, high = first["noise"]
    assert 0 < low < value < high
