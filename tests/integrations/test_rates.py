"""Learning rates through the adapters: the user's own under every schedule, and clipped updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from framework_cases import PROBE, SHORT, digits, network, seed
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

accelerate = pytest.importorskip("accelerate")
pl = pytest.importorskip("lightning.pytorch")
transformers = pytest.importorskip("transformers")

from test_lightning import trainer_of as lightning_trainer
from test_transformers import trainer_of

from batchfinder import Report
from batchfinder.integrations import accelerate as for_accelerate
from batchfinder.integrations import lightning as for_lightning
from batchfinder.integrations import transformers as for_transformers
from batchfinder.integrations.lightning_trainer import inside_fit, training_inside_fit
from batchfinder.outcomes import Judgement
from batchfinder.run.bench import open_bench

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
RATE = 1e-3
BY_TRANSFORMERS = [
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]


def sequence(optimizer: Any) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)]
    parts.append(lr_scheduler.CosineAnnealingLR(optimizer, 20))
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[5])


def by_transformers(name: str) -> Callable[[Any], Any]:
    return lambda optimizer: transformers.get_scheduler(
        name, optimizer, num_warmup_steps=5, num_training_steps=30
    )


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "linear warm-up": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=30),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 30),
    "from zero": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 5)),
    "warm-up, then cosine": sequence,
    **{f"get_scheduler, {name}": by_transformers(name) for name in BY_TRANSFORMERS},
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def base_rate(training: Any) -> float | None:
    with open_bench(training, memory_limit="24MiB") as bench:
        return bench.step.base_learning_rate()


def prepared(
    schedule: Callable[[Any], Any] | None = None,
    optimizer: type = torch.optim.AdamW,
    **options: Any,
) -> tuple[Any, ...]:
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()
    seed(0)
    accelerator, model = accelerate.Accelerator(cpu=True), network()
    made = torch.optim.AdamW(model.parameters(), RATE)
    loader = DataLoader(digits(), batch_size=16, shuffle=True)
    scheduler = None if schedule is None else schedule(made)
    prepared_ones = accelerator.prepare(model, made, loader)
    return accelerator, *prepared_ones, scheduler and accelerator.prepare(scheduler)


class Module(pl.LightningModule):
    """The digits with a schedule of its own, SGD, and a loss that may be scaled."""

    def __init__(self, schedule: Any = None, rate: float = RATE, times: float = 1.0) -> None:
        super().__init__()
        seed(0)
        self.network, self.batch_size, self.lr = network(), 16, rate
        self.schedule, self.times = schedule, times

    def training_step(self, batch, batch_idx):
        return self.times * functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.lr)
        if self.schedule is None:
            return optimizer
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]

    def train_dataloader(self):
        return DataLoader(digits(), batch_size=self.batch_size, shuffle=True)


@each_schedule
def test_the_base_rate_under_accelerate_is_the_users_own(schedule) -> None:
    accelerator, model, optimizer, loader, scheduler = prepared(schedule)
    training = for_accelerate.training(
        accelerator,
        model,
        optimizer,
        loader,
        scheduler=scheduler,
        loss_fn=functional.cross_entropy,
    )
    assert base_rate(training) == pytest.approx(RATE)


@each_schedule
def test_the_base_rate_under_lightning_is_the_users_own(schedule) -> None:
    def work(trainer: Any, module: Any) -> float | None:
        made, _ = training_inside_fit(trainer, module)
        with made as training:
            return base_rate(training)

    trainer = lightning_trainer("lightning.pytorch")
    assert inside_fit(trainer, Module(schedule), None, None, work) == pytest.approx(RATE)


@pytest.mark.parametrize("name", BY_TRANSFORMERS)
def test_the_base_rate_under_a_trainer_is_the_users_own(tmp_path, name) -> None:
    trainer = trainer_of(tmp_path, lr_scheduler_type=name, warmup_steps=2)
    assert for_transformers._inside_train(trainer, base_rate) == pytest.approx(RATE)


@pytest.fixture(scope="module")
def larger() -> Report:
    """A report with another rate, by a rule that no measured noise scale caps."""
    accelerator, model, optimizer, loader, _ = prepared()
    report = for_accelerate.find_batch_size(
        accelerator,
        model,
        optimizer,
        loader,
        loss_fn=functional.cross_entropy,
        **{**SHORT, "at_most": 64},
        at_least=64,
        learning_rate_rule="square_root",
    )
    assert report.rate_factor == pytest.approx(2)
    return report


@each_schedule
def test_an_applied_rate_survives_the_schedule(schedule, larger) -> None:
    ends = []
    for is_applied in (False, True):
        accelerator, model, optimizer, loader, scheduler = prepared(schedule)
        if is_applied:
            for_accelerate.apply(larger, accelerator, loader, optimizer, scheduler)
        rates = []
        for _ in range(3):
            functional.cross_entropy(model(torch.rand(2, 1, 8, 8)), torch.tensor([0, 1])).backward()
            optimizer.step()
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        ends.append(rates)
    assert ends[1] == pytest.approx([larger.rate_factor * each for each in ends[0]])


class Norms:
    """The norm and the largest entry of every gradient that an update sees."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.largest: list[float] = []

    def listen(self, optimizer: Any) -> None:
        optimizer.register_step_pre_hook(self._see)

    def _see(self, optimizer: Any, *_: Any) -> None:
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        gradients = [each.grad.flatten() for each in parameters if each.grad is not None]
        together = torch.cat(gradients)
        self.norms.append(float(together.norm()))
        self.largest.append(float(together.abs().max()))


@pytest.mark.parametrize(
    ("options", "norm", "value"),
    [
        ({}, None, None),
        ({"gradient_clip_val": 0.5}, 0.5, None),
        ({"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}, None, 0.05),
    ],
    ids=["not clipped", "by norm", "by value"],
)
def test_every_update_under_lightning_is_clipped_as_in_training(options, norm, value) -> None:
    seen = Norms()
    module = Module(times=100)
    configure = module.configure_optimizers

    def configured() -> Any:
        optimizer = configure()
        seen.listen(optimizer)
        return optimizer

    module.configure_optimizers = configured
    trainer = lightning_trainer("lightning.pytorch", **options)
    for_lightning.find_batch_size(trainer, module, **SHORT)
    assert seen.norms
    if norm is not None:
        assert max(seen.norms) == pytest.approx(norm, rel=1e-3)
    if value is not None:
        assert max(seen.largest) == pytest.approx(value)
    if norm is None and value is None:
        assert max(seen.norms) > 5


@pytest.mark.parametrize("norm", [0.0, 0.25])
def test_every_update_of_a_trainer_is_clipped_as_in_training(tmp_path, norm) -> None:
    seen = Norms()
    trainer = trainer_of(tmp_path, max_grad_norm=norm)
    trainer.create_optimizer()
    seen.listen(trainer.optimizer)
    for_transformers.find_batch_size(trainer, **SHORT)
    assert max(seen.norms) == pytest.approx(norm, rel=1e-3) if norm else max(seen.norms) > 0.5


@pytest.mark.parametrize("norm", [None, 0.25])
def test_every_update_under_accelerate_is_clipped_as_in_training(norm) -> None:
    seen = Norms()
    accelerator, model, optimizer, loader, _ = prepared()
    seen.listen(optimizer.optimizer)
    for_accelerate.find_batch_size(
        accelerator,
        model,
        optimizer,
        loader,
        max_grad_norm=norm,
        loss_fn=lambda output, target: 10 * functional.cross_entropy(output, target),
        **SHORT,
    )
    assert max(seen.norms) == pytest.approx(norm, rel=1e-3) if norm else max(seen.norms) > 2


@pytest.mark.slow
def test_a_rate_that_trains_only_with_clipping_is_confirmed_with_it_and_not_without() -> None:
    found = {}
    for clip in (1.0, None):
        trainer = lightning_trainer("lightning.pytorch", gradient_clip_val=clip)
        options = {**PROBE, "at_least": 32, "at_most": 32, "noise": None, "budget_seconds": 300}
        module = Module(rate=0.5, times=100)
        found[clip] = for_lightning.find_batch_size(trainer, module, **options)
    clipped, other = found[1.0], found[None]
    assert clipped.confirmation is not None
    assert clipped.confirmation.judgement is Judgement.HELD
    assert clipped.rate_factor == pytest.approx(2**0.5)
    assert other.confirmation is not None
    assert other.confirmation.judgement is not Judgement.HELD
    assert other.rate_factor is not None
    assert other.rate_factor < 0.5
