"""Accelerate on two ranks: one report, the same values set, and shards of every kind of loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from framework_cases import digest, digits, seed
from framework_processes import as_launched, one_report, searching
from processes import all_well, on_processes
from torch.nn import functional
from torch.utils.data import IterableDataset

accelerate = pytest.importorskip("accelerate")

from accelerate_cases import prepared, train

from batchfinder.integrations import accelerate as adapter


class Stream(IterableDataset[Any]):
    """The digits in order."""

    def __len__(self) -> int:
        return len(digits())

    def __iter__(self) -> Any:
        return iter(digits())


def made(how: str, **options: Any) -> tuple[Any, ...]:
    accelerate.state.AcceleratorState._reset_state()
    accelerate.state.GradientState._reset_state()
    loading = {f"{name}_batches": name in how for name in ("split", "dispatch")}
    return prepared(Stream() if "stream" in how else None, **options, **loading)


def trained(*objects: Any) -> str:
    train(*objects, steps=4)
    _, model, optimizer, _, scheduler = objects
    return digest(model, optimizer.optimizer, scheduler.scheduler)


def found(rank: int, ways: Sequence[str]) -> list[dict[str, Any]]:
    as_launched(rank)
    return [searched(rank, how) for how in ways]


def searched(rank: int, how: str) -> dict[str, Any]:
    without = trained(*made(how))
    objects = accelerator, model, optimizer, loader, scheduler = made(how)
    assert torch.distributed.get_world_size() == accelerator.num_processes == 2
    report = adapter.find_batch_size(
        accelerator,
        model,
        optimizer,
        loader,
        scheduler=scheduler,
        max_grad_norm=1.0,
        loss_fn=functional.cross_entropy,
        **searching(rank, at_least=24),
    )
    after = trained(*objects)

    applied_to = accelerator, model, optimizer, loader, scheduler = made(how)
    new, applied = adapter.apply(report, accelerator, loader, optimizer, scheduler)
    batch = next(iter(new))[0]
    seed(1)
    trained(accelerator, model, optimizer, new, scheduler)
    whole = report.batch_size * (2 if "split" in how else 1)
    rate = 1e-3 * (report.rate_factor or 1.0)
    typed = made(how, size=whole, steps=report.accumulation_steps, rate=rate)
    next(iter(typed[3]))
    seed(1)
    trained(*typed)
    pairs = zip(model.parameters(), typed[1].parameters(), strict=True)
    return {
        "report": report,
        "with": after,
        "without": without,
        "applied": [str(each) for each in applied],
        "first": batch.tolist(),
        # factor x (rate x share) is rounded otherwise
        "as typed": all(torch.allclose(one, other, rtol=1e-5) for one, other in pairs),
        "kept": any(each is new for each in applied_to[0]._dataloaders),
    }


def check(ways: Sequence[str]) -> None:
    ranks = all_well(on_processes(found, ways, seconds=300))
    for how, *every in zip(ways, *ranks, strict=True):
        report = one_report(every)
        per_rank = 8 if "split" in how else 16
        assert report.base_batch_size == 2 * per_rank
        assert report.batch_size == 24
        assert report.global_batch_size == 48 * report.accumulation_steps
        one, other = (each["first"] for each in every)
        assert len(one) == len(other) == 24
        assert not any(image in other for image in one)
        assert all(each["as typed"] and each["kept"] for each in every), how
        assert f"{per_rank} -> 24" in every[0]["applied"][0]


def test_one_report_and_training_as_before() -> None:
    check(["plain"])


@pytest.mark.slow
def test_every_way_of_sharing_a_loader() -> None:
    check(["split", "dispatch", "split, dispatch", "stream", "split, stream"])
