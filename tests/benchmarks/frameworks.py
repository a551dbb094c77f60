"""The batch-size finders of the frameworks and batchfinder, on one task under one simulated limit.

    python tests/benchmarks/frameworks.py

Writes docs/tables/frameworks.md and asserts nothing. The true maximum is found by running whole
steps at every size of a bisection, on the longest samples. "Same training" compares weights and
optimizer after a few steps with those of a run without a finder, at the size of that run.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from framework_cases import Lines, digest, digits, network, seed
from torch.nn import functional
from torch.utils.data import DataLoader

from batchfinder import max_batch_size, memory_limit
from batchfinder.training import Search

LIMIT = "6 MiB"
BUDGET = 20
STEPS = 4
TABLE = Path(__file__).parent.parent.parent / "docs" / "tables" / "frameworks.md"


@dataclass
class Found:
    """What a finder gave, and what it left behind."""

    finder: str
    size: int
    failures: int
    seconds: float
    ran: bool
    same: bool
    rate: str


class Counter:
    """Counts out-of-memory errors and keeps every size that a whole step ran at."""

    def __init__(self) -> None:
        self.failures, self.ran = 0, set[int]()

    @contextlib.contextmanager
    def step(self, size: int) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            self.failures += 1
            # the finders go by the text of the error
            text = f"CUDA out of memory. Simulated: {error}"
            raise torch.OutOfMemoryError(text) from None
        self.ran.add(size)


def said(report: Any) -> str:
    """What a report says of the learning rate."""
    if report.learning_rate is None:
        return "none: no noise scale within the budget"
    return f"{report.learning_rate:.2g} at {report.global_batch_size}"


def timed(work: Callable[[], int]) -> tuple[int, float]:
    started = time.perf_counter()
    size = work()
    return size, time.perf_counter() - started


# Lightning ---------------------------------------------------------------------------------------


def lightning_rows() -> list[Found]:
    import lightning.pytorch as pl
    from lightning.pytorch.tuner import Tuner

    from batchfinder.integrations import lightning as adapter

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    counter = Counter()

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size, self.lr = 16, 1e-3
            self.network = network()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return functional.cross_entropy(self.network(batch[0]), batch[1])

        def optimizer_step(self, *given: Any, **named: Any) -> None:
            with counter.step(self.batch_size):
                super().optimizer_step(*given, **named)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), self.lr)

        def train_dataloader(self) -> Any:
            return DataLoader(digits(), batch_size=self.batch_size, shuffle=True)

    def made() -> tuple[Any, Any]:
        seed(0)
        trainer = pl.Trainer(
            max_epochs=1,
            limit_train_batches=STEPS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tempfile.mkdtemp(),
        )
        return Module(), trainer

    def trained(module: Any, trainer: Any) -> str:
        module.batch_size = 16
        trainer.fit(module)
        return digest(module, trainer.optimizers[0])

    untouched = trained(*made())

    def row(name: str, work: Callable[[Any, Any], int], rate: str) -> Found:
        module, trainer = made()
        counter.failures, counter.ran = 0, set()
        size, seconds = timed(lambda: work(module, trainer))
        for trial in trials:
            counter.failures += not trial.fits
            counter.ran.add(trial.batch_size if trial.fits else 0)
        trials.clear()
        failures, ran = counter.failures, size in counter.ran
        return Found(
            name, size, failures, seconds, ran, trained(module, trainer) == untouched, rate
        )

    def own(mode: str) -> Callable[[Any, Any], int]:
        def work(module: Any, trainer: Any) -> int:
            with memory_limit(LIMIT):
                Tuner(trainer).scale_batch_size(module, mode=mode)
            return module.batch_size

        return work

    trials: list[Any] = []

    def probe(module: Any, trainer: Any) -> int:
        found = adapter.max_batch_size(trainer, module, memory_limit=LIMIT)
        trials.extend(found.trials)
        return found.max_batch_size

    rates: list[str] = []

    def whole(module: Any, trainer: Any) -> int:
        report = adapter.find_batch_size(trainer, module, memory_limit=LIMIT, budget_seconds=BUDGET)
        rates.append(said(report))
        trials.extend(report.probe.trials)
        counter.ran.update(each.batch_size for each in report.measurements)
        return report.batch_size

    rows = [
        row('Lightning `scale_batch_size("power")`', own("power"), "untouched"),
        row('Lightning `scale_batch_size("binsearch")`', own("binsearch"), "untouched"),
        row("batchfinder, `max_batch_size`", probe, "untouched"),
        row("batchfinder, `find_batch_size`", whole, ""),
    ]
    rows[-1].rate = rates[0]
    module, trainer = made()
    started = time.perf_counter()
    found = Tuner(trainer).lr_find(module)
    seconds = time.perf_counter() - started
    same = trained(module, trainer) == untouched
    rate = None if found is None else found.suggestion()
    says = "no suggestion" if rate is None else f"{rate:.2g} at 16"
    return [*rows, Found("Lightning `lr_find`, batch 16", 16, 0, seconds, True, same, says)]


# Transformers ------------------------------------------------------------------------------------


def transformers_rows() -> list[Found]:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from batchfinder.integrations import transformers as adapter

    counter = Counter()

    class Counting(Trainer):
        def training_step(self, model: Any, inputs: Any, *others: Any) -> Any:
            with counter.step(len(inputs["input_ids"])):
                return super().training_step(model, inputs, *others)

    def made(size: int = 8, **changed: Any) -> Any:
        seed(0)
        config = GPT2Config(vocab_size=128, n_positions=32, n_embd=32, n_layer=2, n_head=2)
        given = {
            "per_device_train_batch_size": size,
            "learning_rate": 1e-3,
            "max_steps": 4,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_strategy": "no",
            **changed,
        }
        arguments = TrainingArguments(tempfile.mkdtemp(), **given)
        return Counting(GPT2LMHeadModel(config), arguments, train_dataset=Lines())

    def trained(trainer: Any) -> str:
        trainer.train()
        return digest(trainer.model, trainer.optimizer)

    def begin() -> None:
        counter.failures, counter.ran = 0, set()

    def own() -> Found:
        begin()
        trainer = made(64, auto_find_batch_size=True)

        def work() -> int:
            with memory_limit(LIMIT):
                trainer.train()
            return trainer._train_batch_size

        size, seconds = timed(work)
        same = digest(trainer.model, trainer.optimizer) == trained(made(size))
        name = "Transformers `auto_find_batch_size`, from 64"
        return Found(name, size, counter.failures, seconds, True, same, "untouched")

    def ours(name: str, work: Callable[[Any], tuple[int, str]]) -> Found:
        begin()
        trainer, kept = made(), []

        def search() -> int:
            size, rate = work(trainer)
            kept.append(rate)
            return size

        size, seconds = timed(search)
        failures, ran = counter.failures, size in counter.ran
        same = trained(trainer) == trained(made())
        return Found(name, size, failures, seconds, ran, same, kept[0])

    def probe(trainer: Any) -> tuple[int, str]:
        return adapter.max_batch_size(trainer, memory_limit=LIMIT).max_batch_size, "untouched"

    def whole(trainer: Any) -> tuple[int, str]:
        report = adapter.find_batch_size(trainer, memory_limit=LIMIT, budget_seconds=BUDGET)
        return report.batch_size, said(report)

    return [
        own(),
        ours("batchfinder, `max_batch_size`", probe),
        ours("batchfinder, `find_batch_size`", whole),
    ]


# Accelerate --------------------------------------------------------------------------------------


def accelerate_rows() -> list[Found]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import find_executable_batch_size

    from batchfinder.integrations import accelerate as adapter

    counter = Counter()

    def made(size: int = 16) -> tuple[Any, ...]:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        seed(0)
        accelerator, model = Accelerator(cpu=True), network()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        loader = DataLoader(digits(), batch_size=size, shuffle=True)
        return accelerator, *accelerator.prepare(model, optimizer, loader)

    def train(accelerator: Any, model: Any, optimizer: Any, loader: Any) -> str:
        for index, (images, labels) in enumerate(loader):
            if index == 4:
                break
            with counter.step(len(images)):
                accelerator.backward(functional.cross_entropy(model(images), labels))
                optimizer.step()
            optimizer.zero_grad()
        return digest(model, optimizer.optimizer)

    def own() -> Found:
        counter.failures, counter.ran = 0, set()
        ends: list[str] = []

        @find_executable_batch_size(starting_batch_size=128)
        def training(batch_size: int) -> int:
            ends.append(train(*made(batch_size)))
            return batch_size

        def work() -> int:
            with memory_limit(LIMIT):
                return training()

        size, seconds = timed(work)
        failures = counter.failures
        same = ends[-1] == train(*made(size))
        name = "Accelerate `find_executable_batch_size`, from 128"
        return Found(name, size, failures, seconds, True, same, "untouched")

    def ours(name: str, work: Callable[..., Any]) -> Found:
        objects = made()
        options = {"loss_fn": functional.cross_entropy, "memory_limit": LIMIT}
        started = time.perf_counter()
        if work is adapter.find_batch_size:
            options["budget_seconds"] = BUDGET
        result = work(*objects, **options)
        seconds = time.perf_counter() - started
        size, rate = getattr(result, "max_batch_size", 0), "untouched"
        if hasattr(result, "learning_rate"):
            size = result.batch_size
            rate = said(result)
        failures = sum(not trial.fits for trial in result.trials)
        ran = size in {trial.batch_size for trial in result.trials if trial.fits}
        ran = ran or size in {each.batch_size for each in getattr(result, "measurements", ())}
        return Found(name, size, failures, seconds, ran, train(*objects) == train(*made()), rate)

    return [
        own(),
        ours("batchfinder, `max_batch_size`", adapter.max_batch_size),
        ours("batchfinder, `find_batch_size`", adapter.find_batch_size),
    ]


def truth(model: Any, data: Any, **options: Any) -> int:
    """The largest size that runs, exactly."""
    loader = DataLoader(data, batch_size=8, shuffle=True)
    search = Search(resolution=0.0)
    found = max_batch_size(model, loader, memory_limit=LIMIT, search=search, **options)
    return found.max_batch_size


def section(title: str, rows: list[Found], largest: int) -> str:
    lines = "\n".join(
        f"| {row.finder} | {row.size:,} | {'yes' if row.ran else 'no'} | {row.failures} | "
        f"{row.seconds:.0f} | {'yes' if row.same else 'no'} | {row.rate} |"
        for row in rows
    )
    print(title, rows, largest, sep="\n", flush=True)
    return f"""## {title}

The largest size that trains under {LIMIT} is {largest:,}.

| finder | size | was run | out of memory | seconds | same training | learning rate |
|---|--:|---|--:|--:|---|---|
{lines}
"""


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seed(0)
    model = network()
    adam = torch.optim.AdamW(model.parameters(), 1e-3)
    images = truth(model, digits(), loss_fn=functional.cross_entropy, optimizer=adam)
    seed(0)
    names = ("lightning", "transformers", "accelerate", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    language = transformers_truth()
    loads = [os.getloadavg()[0]]
    sections = [
        section("Lightning: a CNN with BatchNorm on digits", lightning_rows(), images),
        section("Transformers: a small GPT-2 on bytes", transformers_rows(), language),
        section("Accelerate: the CNN", accelerate_rows(), images),
    ]
    loads.append(os.getloadavg()[0])
    load = sorted(loads)
    page = "\n".join(
        [
            f"""# Beside the frameworks' own finders

Made by `python tests/benchmarks/frameworks.py` ({versions};
Python {platform.python_version()}, one thread of a {os.cpu_count()}-core CPU machine at a load of
{load[0]:.0f} to {load[1]:.0f}: read the seconds against one another). The limit is simulated,
{LIMIT}. "Was run" means that a whole step ran at that size, "same training" that weights, optimizer
and random numbers afterwards are those of a run without the finder. `lr_find` needs more steps than
the {STEPS} of an epoch here to suggest a rate. Ours are called with no argument but the limit,
`find_batch_size` with `budget_seconds={BUDGET}` besides.
""",
            *sections,
        ]
    )
    TABLE.write_text(page)
    print(page)


def transformers_truth() -> int:
    from transformers import GPT2Config, GPT2LMHeadModel

    seed(0)
    config = GPT2Config(vocab_size=128, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config)
    adam = torch.optim.AdamW(model.parameters(), 1e-3)
    return truth(model, Lines(), train_step=lambda m, batch: m(**batch).loss, optimizer=adam)


if __name__ == "__main__":
    main()
