"""Prepared objects go in, a prepared loader comes out, and the training is the same afterwards."""

from __future__ import annotations

import itertools

import pytest
import torch
from framework_cases import PROBE, SHORT, WHOLE, Noted, digest, digits, seed
from torch.nn import functional
from torch.utils.data import BatchSampler, RandomSampler

accelerate = pytest.importorskip("accelerate")

from accelerate.data_loader import BatchSamplerShard
from accelerate.state import GradientState
from accelerate_cases import fresh_accelerator, prepared, train

from batchfinder import InvalidArgument, Search, memory_limit
from batchfinder.integrations import accelerate as adapter
from batchfinder.run.batches import samplers


@pytest.mark.parametrize(
    ("precision", "search"),
    [("no", SHORT), ("bf16", SHORT), pytest.param("bf16", WHOLE, marks=pytest.mark.slow)],
)
def test_training_afterwards_is_that_without_a_search(precision, search) -> None:
    ends = []
    for searched in (False, True):
        fresh_accelerator()
        accelerator, model, optimizer, loader, scheduler = prepared(precision=precision)
        if searched:
            report = adapter.find_batch_size(
                accelerator,
                model,
                optimizer,
                loader,
                scheduler=scheduler,
                max_grad_norm=1.0,
                loss_fn=functional.cross_entropy,
                **search,
            )
            assert report.base_batch_size == 32
            is_bf16 = precision == "bf16"
            expected = "bfloat16 autocast over float32" if is_bf16 else "float32"
            assert report.environment.precision == expected
            assert dict(report.environment.extra)["precision"] == precision
            assert report.base_learning_rate == pytest.approx(1e-3)
        train(accelerator, model, optimizer, loader, scheduler)
        ends.append(digest(model, optimizer.optimizer, scheduler.scheduler))
    assert ends[0] == ends[1]


def test_between_two_micro_batches_every_step_is_real() -> None:
    accelerator, model, optimizer, loader, scheduler = prepared()
    train(accelerator, model, optimizer, loader, scheduler, steps=1)
    assert not accelerator.sync_gradients
    found = adapter.max_batch_size(
        accelerator,
        model,
        optimizer,
        loader,
        loss_fn=functional.cross_entropy,
        **PROBE,
    )
    assert found.memory.optimizer_bytes > 0
    assert not accelerator.sync_gradients


def test_what_is_applied_is_prepared_and_takes_the_old_loaders_place() -> None:
    accelerator, model, optimizer, loader, scheduler = prepared()
    report = adapter.find_batch_size(
        accelerator, model, optimizer, loader, loss_fn=functional.cross_entropy, **SHORT
    )
    new, applied = adapter.apply(report, accelerator, loader, optimizer, scheduler)
    assert any(kept is new for kept in accelerator._dataloaders)
    assert all(kept is not loader for kept in accelerator._dataloaders)
    images, _ = next(iter(new))
    assert len(images) == report.batch_size
    assert accelerator.gradient_accumulation_steps == report.accumulation_steps
    assert "->" in str(applied[0])
    train(accelerator, model, optimizer, new, scheduler, steps=2)


@pytest.mark.parametrize("name", ["optimizer_", "autocast", "grad_scaler", "backward"])
def test_what_the_objects_answer_is_refused(name: str) -> None:
    accelerator, model, optimizer, loader, _ = prepared()
    if name == "optimizer_":
        with pytest.raises(TypeError):
            adapter.find_batch_size(accelerator, model, loader)
        return
    with pytest.raises(InvalidArgument, match=name):
        adapter.find_batch_size(accelerator, model, optimizer, loader, **{name: torch.bfloat16})


def test_the_largest_size_trains_in_the_users_loop_and_two_percent_more_does_not() -> None:
    limit = "6MiB"
    digits()  # in memory before the limit is set
    accelerator, model, optimizer, loader, _ = prepared(steps=1)
    options = {**PROBE, "memory_limit": limit, "search": Search(resolution=0)}
    largest = adapter.max_batch_size(
        accelerator, model, optimizer, loader, loss_fn=functional.cross_entropy, **options
    ).max_batch_size

    def runs(size: int) -> bool:
        accelerator, model, optimizer, loader, scheduler = prepared(steps=1, size=size)
        ahead = list(itertools.islice(loader, 3))  # a GPU holds none but the present one
        batches = (ahead.pop() for _ in range(3))
        try:
            with memory_limit(limit):
                train(accelerator, model, optimizer, batches, scheduler)
        except torch.OutOfMemoryError:
            return False
        return True

    assert [runs(largest), runs(largest + max(1, -(-largest // 50)))] == [True, False]


def test_split_batches_and_a_saved_state_after_apply(tmp_path) -> None:
    accelerator, model, optimizer, loader, scheduler = prepared(steps=1, split_batches=True)
    report = adapter.find_batch_size(
        accelerator, model, optimizer, loader, loss_fn=functional.cross_entropy, **SHORT
    )
    assert report.base_batch_size == 16
    new, _ = adapter.apply(report, accelerator, loader, optimizer, scheduler)
    train(accelerator, model, optimizer, new, scheduler, steps=2)
    accelerator.save_state(str(tmp_path))
    accelerator.load_state(str(tmp_path))


def test_applied_equals_the_same_numbers_typed_in() -> None:
    accelerator, model, optimizer, loader, scheduler = prepared()
    report = adapter.find_batch_size(
        accelerator, model, optimizer, loader, loss_fn=functional.cross_entropy, **SHORT
    )
    new, _ = adapter.apply(report, accelerator, loader, optimizer, scheduler)
    steps, factor = report.accumulation_steps, report.rate_factor or 1.0
    fresh_accelerator()
    typed = prepared(steps=steps, size=report.batch_size, rate=1e-3 * factor)
    ends = []
    for objects in ((accelerator, model, optimizer, new, scheduler), typed):
        seed(1)
        objects[0].gradient_state.plugin_kwargs["num_steps"] = steps  # one state for all
        train(*objects)
        ends.append(list(objects[1].parameters()))
    torch.testing.assert_close(ends[0], ends[1])  # factor × (rate × share) is rounded otherwise


def test_sharded_training_is_refused_with_the_way_out() -> None:
    accelerator, model, optimizer, loader, _ = prepared()
    accelerator.state.distributed_type = accelerate.utils.DistributedType.FSDP
    with pytest.raises(InvalidArgument, match="found FSDP: search with one device"):
        adapter.max_batch_size(accelerator, model, optimizer, loader, **PROBE)


@pytest.mark.parametrize("split", [False, True], ids=["whole batches", "batches cut among ranks"])
def test_the_shard_of_a_rank_is_resized_per_rank(split: bool) -> None:
    data = digits()
    whole = BatchSampler(RandomSampler(data), 32, drop_last=False)
    shards = [BatchSamplerShard(whole, 2, rank, split_batches=split) for rank in range(2)]
    assert [samplers.batch_size_of(each) for each in shards] == [16 if split else 32] * 2
    for shard in shards:
        assert samplers.sampler_in(shard) is whole.sampler
        new = samplers.resized(shard, 24)
        assert {len(batch) for batch in new} == {24}
        assert len(list(new)) == -(-len(data) // 48)
        assert samplers.batch_size_of(shard) == (16 if split else 32)


def test_every_private_name_that_is_used_exists() -> None:
    accelerator, _, optimizer, loader, scheduler = prepared()
    assert accelerator._dataloaders == [loader]
    assert accelerator.step == 0
    assert callable(GradientState()._set_sync_gradients)
    assert isinstance(GradientState().dataloader_references, list)
    assert isinstance(optimizer.optimizer, torch.optim.Optimizer)
    assert scheduler.scheduler is not scheduler
    assert accelerator.scaler is None


def test_members_of_a_training_that_only_the_caller_knows_are_options() -> None:
    accelerator, model, optimizer, loader, _ = prepared()
    given, noted = (accelerator, model, optimizer, loader), Noted()
    adapter.max_batch_size(
        *given, loss_fn=functional.cross_entropy, **noted.members, memory_limit="24MiB", at_most=8
    )
    noted.assert_used()
    with pytest.raises(InvalidArgument, match="expected ranks to be"):
        adapter.find_batch_size(*given, loss_fn=functional.cross_entropy, ranks=2, **SHORT)
