"""Lightning and Fabric on two ranks: what one searches all do, and each sets the same."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from framework_cases import digest, digits, network, seed
from framework_processes import as_launched, one_report, searching
from processes import all_well, on_processes
from test_lightning import PACKAGES, module_of, trainer_of
from torch.nn import functional
from torch.utils.data import DataLoader

pytest.importorskip("lightning")

from batchfinder.integrations import lightning as adapter


def made(package: str, manual: bool, **options: Any) -> tuple[Any, Any]:
    trainer = trainer_of(package, strategy="ddp", devices=2, **options)
    return module_of(package, manual=manual, schedule="one cycle"), trainer


def fitted(module: Any, trainer: Any) -> str:
    trainer.fit(module)
    assert trainer.world_size == 2
    return digest(module, trainer.optimizers[0])


def found(rank: int, cases: Sequence[tuple[str, bool]]) -> list[dict[str, Any]]:
    as_launched(rank)
    warnings.simplefilter("ignore")
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.ERROR)
    return [searched(rank, *case) for case in cases]


def searched(rank: int, package: str, manual: bool) -> dict[str, Any]:
    without = fitted(*made(package, manual))
    module, trainer = made(package, manual)
    report = adapter.find_batch_size(trainer, module, **searching(rank, at_least=20))
    after = fitted(module, trainer)

    ends = []
    module, trainer = made(package, manual)
    applied = adapter.apply(report, trainer, module)
    rate, size = module.lr, module.batch_size
    seed(1)
    ends.append(fitted(module, trainer))
    module, trainer = made(package, manual, accumulate_grad_batches=report.accumulation_steps)
    module.lr, module.batch_size = rate, size
    seed(1)
    ends.append(fitted(module, trainer))

    finder = adapter.BatchFinder(**searching(rank, at_least=20))
    module, trainer = made(package, manual, callbacks=[finder], limit_train_batches=1.0)
    fitted(module, trainer)
    assert finder.report is not None
    steps = -(-len(digits()) // (2 * finder.report.batch_size))
    steps = -(-steps // finder.report.accumulation_steps)
    return {
        "report": report,
        "with": after,
        "without": without,
        "applied": [str(each) for each in applied],
        "as typed": ends[0] == ends[1],
        "callback": (finder.report, [str(each) for each in finder.applied]),
        "steps": (trainer.global_step, steps),
        "weights": [each.tolist() for each in module.parameters()],
    }


@pytest.mark.slow
def test_function_and_callback_under_ddp_also_with_manual_optimization() -> None:
    cases = [(PACKAGES[0], False), (PACKAGES[0], True), (PACKAGES[1], False)]
    ranks = all_well(on_processes(found, cases, seconds=400))
    for (_, manual), *every in zip(cases, *ranks, strict=True):
        report = one_report(every)
        assert report.base_batch_size == 16
        assert report.batch_size >= 20
        assert dict(report.environment.extra)["strategy"] == "DDPStrategy"
        assert manual or report.base_learning_rate == pytest.approx(1e-3)
        one, other = every
        assert one["as typed"]
        assert one["callback"] == other["callback"]
        assert one["weights"] == other["weights"]
        assert one["steps"][0] == one["steps"][1]


def fabric_found(rank: int, precision: str) -> dict[str, Any]:
    from lightning.fabric import Fabric

    as_launched(rank)
    ends, report = [], None
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision=precision)
    fabric.launch()
    for is_searched in (False, True):
        seed(0)
        plain = network()
        model, optimizer = fabric.setup(plain, torch.optim.AdamW(plain.parameters(), 1e-3))
        loader = fabric.setup_dataloaders(DataLoader(digits(), batch_size=16, shuffle=True))
        if is_searched:
            options = searching(rank, loss_fn=functional.cross_entropy)
            report = adapter.find_batch_size(fabric, model, optimizer, loader, **options)
        for index, (images, labels) in enumerate(loader):
            if index == 3:
                break
            optimizer.zero_grad()
            fabric.backward(functional.cross_entropy(model(images), labels))
            optimizer.step()
        ends.append(digest(plain, optimizer.optimizer))
    return {"report": report, "applied": [], "without": ends[0], "with": ends[1]}


@pytest.mark.slow
def test_fabric_under_ddp() -> None:
    report = one_report(all_well(on_processes(fabric_found, "bf16-mixed", seconds=200)))
    assert report.base_batch_size == 16
    assert report.environment.precision == "bfloat16 autocast over float32"
