"""Datamodules, hooks, several loaders, resumed runs, names, and what is refused."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from framework_cases import PROBE, SHORT, digest, digits, network, seed
from torch.nn import functional
from torch.utils.data import DataLoader, random_split

pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from test_lightning import PACKAGES, module_of, trainer_of

from batchfinder import BatchFinderWarning, InvalidArgument, Search, memory_limit
from batchfinder.integrations import lightning as adapter
from batchfinder.integrations import lightning_trainer

LOAD = (
    {"weights_only": False}
    if "weights_only" in inspect.signature(pl.Trainer.fit).parameters
    else {}
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("error::batchfinder.BatchFinderWarning"),
]


class Digits(pl.LightningDataModule):
    """A split drawn in ``setup``, noise added on the device, the size in ``hparams`` alone."""

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.seen: list[str] = []

    def setup(self, stage: str) -> None:
        self.train, self.held = random_split(digits(), [1500, 297])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.hparams.batch_size, shuffle=True)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.seen.append("before")
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.seen.append("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.seen.append("after")
        images, labels = batch
        return images + 0.1 * torch.randn_like(images), labels


class Metric(torch.nn.Module):
    """A torchmetrics-like counter: a buffer and a plain attribute that every update changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.updates = 0

    def forward(self, loss: torch.Tensor) -> torch.Tensor:
        self.total += loss.detach()
        self.updates += 1
        return self.total / self.updates


class Plain(pl.LightningModule):
    """No batch size of its own; a metric beside the loss."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.learning_rate = lr
        self.network, self.metric = network(), Metric()

    def training_step(self, batch):
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log_dict({"loss": loss, "mean": self.metric(loss)})
        return {"loss": loss}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.learning_rate)


class Untouchable(DummyLogger):
    def __getattribute__(self, name: str):
        if name.startswith("log"):
            raise AssertionError("a search logs nothing")
        return super().__getattribute__(name)


class Counting(pl.Callback):
    calls = 0

    def on_train_start(self, trainer, pl_module) -> None:
        self.calls += 1

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.calls += 1


def test_a_datamodules_hooks_run_and_callbacks_loggers_and_metrics_are_left_alone() -> None:
    ends = []
    for searched in (False, True):
        seed(0)
        module, datamodule, counting = Plain(), Digits(), Counting()
        trainer = trainer_of(PACKAGES[0], callbacks=[counting])
        if searched:
            trainer.loggers = [Untouchable()]
            adapter.find_batch_size(trainer, module, datamodule=datamodule, **SHORT)
            trainer.loggers = []
            assert {"before", "transfer", "after"} <= set(datamodule.seen)
            assert counting.calls == module.metric.updates == 0
        trainer.fit(module, datamodule=datamodule)
        assert counting.calls == 5
        ends.append(digest(module, trainer.optimizers[0]))
    assert ends[0] == ends[1]


def test_size_and_rate_are_set_where_they_are_kept() -> None:
    module, datamodule = Plain(), Digits()
    trainer = trainer_of(PACKAGES[0])
    report = adapter.find_batch_size(
        trainer, module, datamodule=datamodule, apply=True, at_least=8, **SHORT
    )
    assert datamodule.hparams.batch_size == report.batch_size
    assert module.learning_rate == pytest.approx(report.learning_rate)


def test_other_names_are_set_by_name() -> None:
    module, trainer = module_of(PACKAGES[0]), trainer_of(PACKAGES[0])
    module.train_size, module.speed = 16, 1e-3
    report = adapter.find_batch_size(trainer, module, **SHORT)
    names = {"batch_arg_name": ("absent", "train_size"), "lr_arg_name": "speed"}
    applied = adapter.apply(report, trainer, module, **names)
    assert next(each.where for each in applied if each.done) == "Module.train_size"
    assert module.train_size == report.batch_size
    assert module.batch_size == 16


def test_the_callback_without_a_place_for_the_size_says_the_ways_out() -> None:
    finder = adapter.BatchFinder(**SHORT)
    trainer = trainer_of(PACKAGES[0], callbacks=[finder])
    loader = DataLoader(digits(), batch_size=16)
    with pytest.raises(InvalidArgument, match=r"batch_arg_name=, or call find_batch_size"):
        trainer.fit(Plain(), loader)


class Two(Plain):
    """A dictionary of loaders, built from ``batch_size``."""

    batch_size = 16

    def train_dataloader(self):
        def loader(start: int) -> DataLoader:
            half = torch.utils.data.Subset(digits(), range(start, start + 600))
            return DataLoader(half, batch_size=self.batch_size, shuffle=True)

        return {"a": loader(0), "b": loader(600)}

    def training_step(self, batch):
        return sum(functional.cross_entropy(self.network(x), y) for x, y in batch.values())


def test_several_loaders_grow_together_and_training_afterwards_is_the_same() -> None:
    ends = []
    for searched in (False, True):
        seed(0)
        module, trainer = Two(), trainer_of(PACKAGES[0])
        if searched:
            report = adapter.find_batch_size(trainer, module, base_batch_size=16, **SHORT)
            assert module.batch_size == 16
            assert report.max_batch_size <= 24
        trainer.fit(module)
        ends.append(digest(module, trainer.optimizers[0]))
    assert ends[0] == ends[1]


def test_several_loaders_without_an_attribute_are_refused() -> None:
    loaders = [DataLoader(digits(), batch_size=16), DataLoader(digits(), batch_size=16)]
    with pytest.raises(InvalidArgument, match=r"self\.batch_size"):
        adapter.max_batch_size(trainer_of(PACKAGES[0]), Plain(), loaders, **PROBE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    saver = ModelCheckpoint(folder, save_last=True)
    trainer = trainer_of(PACKAGES[0], callbacks=[saver], enable_checkpointing=True)
    trainer.fit(module_of(PACKAGES[0]))
    return saver.last_model_path


def test_a_resumed_run_searches_with_the_loaded_optimizer(checkpoint) -> None:
    ends = []
    for searched in (False, True):
        finder = adapter.BatchFinder(apply=False, **SHORT)
        module = module_of(PACKAGES[0])
        trainer = trainer_of(
            PACKAGES[0], max_epochs=2, callbacks=[finder] if searched else [], limit_train_batches=3
        )
        seed(1)
        trainer.fit(module, ckpt_path=checkpoint, **LOAD)
        assert trainer.current_epoch == 2
        ends.append(digest(module, trainer.optimizers[0]))
    assert finder.report is not None
    assert ends[0] == ends[1]


def test_a_resumed_run_trains_on_with_what_is_applied(checkpoint) -> None:
    finder = adapter.BatchFinder(at_least=20, **SHORT)
    module = module_of(PACKAGES[0])
    trainer = trainer_of(PACKAGES[0], max_epochs=2, callbacks=[finder], limit_train_batches=3)
    trainer.fit(module, ckpt_path=checkpoint, **LOAD)
    assert module.batch_size == finder.report.batch_size >= 20
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(
        1e-3 * finder.report.rate_factor
    )


def test_a_milestone_searches_again_and_the_next_epoch_has_its_size() -> None:
    finder = adapter.BatchFinder(milestones=[1], at_least=8, **SHORT)
    module = module_of(PACKAGES[0])
    sizes = []
    step = type(module).training_step

    def training_step(self, batch, batch_idx):
        sizes.append(len(batch[0]))
        return step(self, batch, batch_idx)

    type(module).training_step = training_step
    trainer = trainer_of(PACKAGES[0], max_epochs=2, callbacks=[finder])
    first = []
    finder.on_train_epoch_end = lambda *_: first.append(finder.report)
    trainer.fit(module)
    assert first[0] is not finder.report
    assert sizes[-4:] == [finder.report.batch_size] * 4
    assert trainer.current_epoch == 2


def test_fast_dev_run_is_a_warning_in_the_callback_and_refused_by_the_function() -> None:
    finder = adapter.BatchFinder(**SHORT)
    with pytest.warns(BatchFinderWarning, match="fast_dev_run"):
        trainer_of(PACKAGES[0], fast_dev_run=True, callbacks=[finder]).fit(module_of(PACKAGES[0]))
    assert finder.report is None
    with pytest.raises(InvalidArgument, match="fast_dev_run"):
        adapter.max_batch_size(trainer_of(PACKAGES[0], fast_dev_run=True), module_of(PACKAGES[0]))


def test_overfit_batches_and_a_schedule_of_accumulation_are_refused() -> None:
    trainer = trainer_of(PACKAGES[0], overfit_batches=2)
    with pytest.raises(InvalidArgument, match="overfit_batches"):
        adapter.max_batch_size(trainer, module_of(PACKAGES[0]), **PROBE)
    module = module_of(PACKAGES[0])
    trainer = trainer_of(PACKAGES[0], callbacks=[GradientAccumulationScheduler({0: 1, 3: 2})])
    report = adapter.find_batch_size(trainer, module, **SHORT)
    trainer.accumulate_grad_batches = report.accumulation_steps + 1
    with pytest.raises(InvalidArgument, match="GradientAccumulationScheduler"):
        adapter.apply(report, trainer, module)


@pytest.mark.parametrize("package", PACKAGES)
def test_other_strategies_are_refused_with_the_way_out(package) -> None:
    trainer = trainer_of(package)
    trainer.strategy.__class__ = type("DeepSpeedStrategy", (type(trainer.strategy),), {})
    with pytest.raises(InvalidArgument, match=r"found DeepSpeedStrategy: .*strategy='ddp'"):
        adapter.max_batch_size(trainer, module_of(package), **PROBE)


def test_processes_that_fit_starts_itself_cannot_hand_back_a_report() -> None:
    trainer = trainer_of(PACKAGES[0], strategy="ddp_spawn", devices=2)
    with pytest.raises(InvalidArgument, match=r"ddp_spawn.*Trainer\(strategy='ddp'\)"):
        adapter.max_batch_size(trainer, module_of(PACKAGES[0]), **PROBE)


def test_the_largest_size_trains_in_a_real_fit_and_two_percent_more_does_not() -> None:
    module, trainer = module_of(PACKAGES[0]), trainer_of(PACKAGES[0], limit_train_batches=2)
    limit, search = "6MiB", Search(resolution=0)
    options = {**PROBE, "memory_limit": limit}
    largest = adapter.max_batch_size(trainer, module, search=search, **options).max_batch_size
    with memory_limit(limit):
        module.batch_size = largest
        trainer.fit(module)
        assert trainer.global_step == 2
        module, trainer = module_of(PACKAGES[0]), trainer_of(PACKAGES[0], limit_train_batches=2)
        module.batch_size = largest + max(1, largest // 50)
        with pytest.raises(torch.OutOfMemoryError):
            trainer.fit(module)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_private_name_that_is_used_exists(package) -> None:
    trainer, module = trainer_of(package), module_of(package)
    assert issubclass(lightning_trainer._exit_of(trainer), Exception)
    assert hasattr(trainer.fit_loop, "_data_source")
    assert hasattr(trainer.fit_loop, "_combined_loader")
    assert callable(module._on_before_batch_transfer)
    assert callable(trainer.strategy.setup_optimizers)
    assert callable(trainer.fit_loop.setup_data)
    assert callable(trainer._data_connector._prepare_dataloader)
    connectors = importlib.import_module(f"{package}.trainer.connectors.data_connector")
    assert callable(connectors._request_dataloader)
    assert "dataloader_idx" in inspect.signature(trainer.strategy.batch_to_device).parameters
