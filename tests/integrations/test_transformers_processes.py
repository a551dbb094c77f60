"""Transformers' ``Trainer`` on two ranks, TRL's included: one report, and the same values set."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from framework_cases import Lines, digest, seed
from framework_processes import as_launched, one_report, searching
from processes import all_well, on_processes

transformers = pytest.importorskip("transformers")

from test_transformers import trainer_of

from batchfinder.integrations import transformers as adapter


class Stream(torch.utils.data.IterableDataset[Any]):
    """Lines in order, which rank 0 reads for all."""

    def __iter__(self) -> Any:
        lines = Lines()
        return iter([lines[index] for index in range(len(lines))])


def made(how: str, **changed: Any) -> Any:
    folder = Path(tempfile.mkdtemp())
    if how == "fine-tuning":
        from test_trl import sft

        return sft(folder, **{"gradient_accumulation_steps": 2, **changed})
    trainer = trainer_of(folder, **changed)
    if how == "stream":
        trainer.train_dataset = Stream()
    return trainer


def trained(trainer: Any) -> str:
    trainer.train()
    assert trainer.args.world_size == 2
    return digest(trainer.model, trainer.optimizer, trainer.lr_scheduler)


def found(rank: int, ways: Sequence[str]) -> list[dict[str, Any]]:
    as_launched(rank)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    return [searched(rank, how) for how in ways]


def searched(rank: int, how: str) -> dict[str, Any]:
    without = trained(made(how))
    trainer = made(how)
    report = adapter.find_batch_size(trainer, **searching(rank, at_least=12))
    after = trained(trainer)
    trainer = made(how)
    applied = adapter.apply(report, trainer)
    seed(1)
    ends = [trained(trainer)]
    typed = made(how, **adapter.training_arguments(report))
    seed(1)
    ends.append(trained(typed))
    return {
        "report": report,
        "with": after,
        "without": without,
        "applied": [str(each) for each in applied],
        "as typed": ends[0] == ends[1],
    }


@pytest.mark.slow
def test_trainers_under_ddp_with_map_style_data_a_stream_and_fine_tuning() -> None:
    ways = ["map-style", "stream"]
    if importlib.util.find_spec("trl") is not None:
        ways.append("fine-tuning")
    ranks = all_well(on_processes(found, ways, seconds=400))
    for how, *every in zip(ways, *ranks, strict=True):
        report = one_report(every)
        assert report.base_batch_size == 8
        assert report.base_learning_rate == pytest.approx(1e-3)
        assert report.batch_size >= 12
        assert all(each["as typed"] for each in every), how
