"""Inside ``fit`` where the first step would be: nothing is left behind, what is applied is used."""

from __future__ import annotations

import importlib

import pytest
import torch
from framework_cases import SHORT, WHOLE, Noted, digest, digits, network, seed
from torch.nn import functional
from torch.utils.data import DataLoader

pytest.importorskip("lightning")

from batchfinder import InvalidArgument
from batchfinder.integrations import lightning as adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PRECISION = {
    None: "float32",
    "bf16-mixed": "bfloat16 autocast over float32",
    "16-mixed": "float16 autocast over float32, scaled",
    "bf16-true": "bfloat16",
}
PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


def module_of(package: str, *, manual: bool = False, schedule: str = "constant", clip: float = 0):
    pl = importlib.import_module(package)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"batch_size": 16, "lr": 1e-3})
            self.batch_size, self.lr = 16, 1e-3
            self.network = network()
            self.automatic_optimization = not manual
            self.logged = 0

        def training_step(self, batch, batch_idx):
            images, labels = batch
            loss = functional.cross_entropy(self.network(images), labels)
            self.log("loss", loss)
            if not self.automatic_optimization:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), self.lr)
            if schedule == "constant":
                return optimizer
            total = self.trainer.estimated_stepping_batches
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=total)
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]

        def train_dataloader(self):
            return DataLoader(digits(), batch_size=self.batch_size, shuffle=True)

    seed(0)
    return Module()


def trainer_of(package: str, **options):
    pl = importlib.import_module(package)
    given = {
        "max_epochs": 1,
        "limit_train_batches": 4,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **options,
    }
    if given.get("precision") == "16-mixed":  # which a Trainer turns into bf16-mixed on a CPU
        plugins = importlib.import_module(f"{package}.plugins.precision")
        given["plugins"] = [plugins.MixedPrecision(given.pop("precision"), "cpu")]
    return pl.Trainer(**given)


@pytest.mark.parametrize(
    ("package", "options", "of_module", "search"),
    [
        (PACKAGES[0], {}, {}, SHORT),
        (PACKAGES[1], {}, {}, SHORT),
        (PACKAGES[0], {"precision": "bf16-mixed", "gradient_clip_val": 1.0}, {}, SHORT),
        (PACKAGES[0], {"precision": "16-mixed"}, {}, SHORT),
        (PACKAGES[0], {"precision": "bf16-true"}, {}, SHORT),
        (PACKAGES[0], {"accumulate_grad_batches": 2}, {}, SHORT),
        (PACKAGES[0], {}, {"manual": True}, SHORT),
        (PACKAGES[0], {}, {"schedule": "one cycle"}, SHORT),
        pytest.param(PACKAGES[0], {}, {}, WHOLE, marks=pytest.mark.slow),
        pytest.param(PACKAGES[1], {}, {"schedule": "one cycle"}, WHOLE, marks=pytest.mark.slow),
    ],
    ids=[
        "plain",
        "pytorch_lightning",
        "bf16, clipped",
        "fp16",
        "bf16-true",
        "accumulated",
        "manual",
        "one cycle",
        "whole",
        "pytorch_lightning, whole",
    ],
)
def test_training_afterwards_is_that_without_a_search(package, options, of_module, search) -> None:
    ends = []
    for searched in (False, True):
        module = module_of(package, **of_module)
        trainer = trainer_of(package, **options)
        if searched:
            callbacks = list(trainer.callbacks)
            report = adapter.find_batch_size(trainer, module, **search)
            assert trainer.callbacks == callbacks
            assert report.base_batch_size == 16 * options.get("accumulate_grad_batches", 1)
            assert report.environment.precision == PRECISION[options.get("precision")]
            extra = dict(report.environment.extra)
            assert extra["precision"] == options.get("precision", "32-true")
            assert extra["strategy"] == "SingleDeviceStrategy"
            if not of_module.get("manual"):
                assert report.base_learning_rate == pytest.approx(1e-3)
        trainer.fit(module)
        ends.append(digest(module, trainer.optimizers[0]))
    assert ends[0] == ends[1]


def test_what_the_function_applies_equals_the_numbers_typed_in() -> None:
    module, trainer = module_of(PACKAGES[0]), trainer_of(PACKAGES[0])
    report = adapter.find_batch_size(trainer, module, apply=True, **SHORT)
    assert module.batch_size == module.hparams.batch_size == report.batch_size
    typed = module_of(PACKAGES[0])
    typed.batch_size, typed.lr = report.batch_size, module.lr
    other = trainer_of(PACKAGES[0], accumulate_grad_batches=report.accumulation_steps)
    ends = []
    for each, fit in ((module, trainer), (typed, other)):
        seed(1)
        fit.fit(each)
        ends.append(digest(each, fit.optimizers[0]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("package", "schedule"),
    [(PACKAGES[0], "constant"), (PACKAGES[0], "one cycle"), (PACKAGES[1], "constant")],
)
def test_the_callback_searches_applies_and_trains(package, schedule) -> None:
    finder = adapter.BatchFinder(**SHORT, at_least=12)
    module = module_of(package, schedule=schedule)
    trainer = trainer_of(package, callbacks=[finder], limit_train_batches=1.0)
    trainer.fit(module)
    report = finder.report
    assert module.batch_size == report.batch_size
    steps = -(-len(digits()) // report.batch_size)
    assert trainer.global_step == -(-steps // report.accumulation_steps)
    if schedule == "one cycle":
        cycle = trainer.lr_scheduler_configs[0].scheduler
        assert cycle.total_steps == trainer.global_step
    else:
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(module.lr)
        assert module.lr == pytest.approx(report.learning_rate)


def test_loaders_given_to_fit_are_searched_and_named_to_be_set_by_hand() -> None:
    module, trainer = module_of(PACKAGES[0]), trainer_of(PACKAGES[0])
    del module.batch_size
    module.hparams.pop("batch_size")
    loader = DataLoader(digits(), batch_size=16, shuffle=True)
    report = adapter.find_batch_size(trainer, module, loader, **SHORT)
    applied = adapter.apply(report, trainer, module)
    assert not applied[0].done
    assert "report.make_loader(loader)" in str(applied[0])


def test_an_error_in_the_users_step_is_itself_and_the_trainer_can_be_used_again() -> None:
    module, trainer = module_of(PACKAGES[0]), trainer_of(PACKAGES[0])
    good = type(module).training_step

    def bad(self, batch, batch_idx):
        raise ValueError("planted")

    type(module).training_step = bad
    with pytest.raises(ValueError, match="planted"):
        adapter.find_batch_size(trainer, module, **SHORT)
    type(module).training_step = good
    trainer.fit(module)
    assert trainer.global_step == 4


def test_an_interrupt_passes_and_does_not_end_the_process() -> None:
    module, trainer = module_of(PACKAGES[0]), trainer_of(PACKAGES[0])

    def interrupted(self, batch, batch_idx):
        raise KeyboardInterrupt

    type(module).training_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        adapter.find_batch_size(trainer, module, **SHORT)


def test_options_that_lightning_answers_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="loss_fn"):
        adapter.BatchFinder(loss_fn=functional.cross_entropy)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_fabric_objects_are_unwrapped(precision) -> None:
    from lightning.fabric import Fabric

    ends = []
    for searched in (False, True):
        seed(0)
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        plain = network()
        model, optimizer = fabric.setup(plain, torch.optim.AdamW(plain.parameters(), 1e-3))
        loader = fabric.setup_dataloaders(DataLoader(digits(), batch_size=16, shuffle=True))
        if searched:
            report = adapter.find_batch_size(
                fabric, model, optimizer, loader, loss_fn=functional.cross_entropy, **SHORT
            )
            assert report.base_batch_size == 16
            assert report.environment.precision == PRECISION.get(precision, "float32")
        for index, (images, labels) in enumerate(loader):
            if index == 3:
                break
            optimizer.zero_grad()
            fabric.backward(functional.cross_entropy(model(images), labels))
            optimizer.step()
        ends.append(digest(plain, optimizer.optimizer))
    assert ends[0] == ends[1]


def test_members_of_a_training_that_only_the_caller_knows_are_options() -> None:
    from lightning.fabric import Fabric

    noted = Noted()
    module, trainer = module_of(PACKAGES[0]), trainer_of(PACKAGES[0])
    adapter.max_batch_size(trainer, module, **noted.members, memory_limit="24MiB", at_most=8)
    noted.assert_used()
    with pytest.raises(InvalidArgument, match="expected ranks to be"):
        adapter.find_batch_size(trainer, module, ranks=2, **SHORT)
    trainer.callbacks.append(adapter.BatchFinder(ranks=2, **SHORT))
    with pytest.raises(InvalidArgument, match="expected ranks to be"):
        trainer.fit(module)
    fabric, plain, noted = Fabric(accelerator="cpu", devices=1), network(), Noted()
    model, optimizer = fabric.setup(plain, torch.optim.AdamW(plain.parameters(), 1e-3))
    loader = fabric.setup_dataloaders(DataLoader(digits(), batch_size=16, shuffle=True))
    given = (fabric, model, optimizer, loader)
    adapter.max_batch_size(
        *given, loss_fn=functional.cross_entropy, **noted.members, memory_limit="24MiB", at_most=8
    )
    noted.assert_used()
