"""Ranks that share a model's layers: memory and throughput, and no noise scale."""

from __future__ import annotations

import pytest
import torch
from processes import all_well, on_processes
from ranks_cases import fingerprint, loader, perceptron, wrapped
from torch import nn

import batchfinder as bf


def split(rank: int) -> tuple[bf.Report, bool]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
    from torch.distributed.tensor.placement_types import Replicate

    model = perceptron()
    plan = {"0": ColwiseParallel(output_layouts=Replicate())}
    parallelize_module(model, init_device_mesh("cpu", (2,)), plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    before = fingerprint(model, optimizer)
    report = bf.find_batch_size(
        model,
        loader(256),
        loss_fn=nn.functional.cross_entropy,
        optimizer=optimizer,
        at_most=32,
        budget_seconds=6,
    )
    return report, fingerprint(model, optimizer) == before


@pytest.mark.slow
def test_tensor_parallel_ranks_are_one_replica_without_a_noise_scale() -> None:
    (one, same), (other, also) = all_well(on_processes(split, seconds=60))
    assert one == other
    assert (one.world_size, one.noise_scale) == (1, None)
    codes = {each.code for each in one.caveats}
    assert {"noise.shared_samples", "ranks.replicas"} <= codes
    assert same
    assert also


def refused(rank: int) -> str:
    training = bf.Training(wrapped(perceptron(), "ddp"), loader(), ranks=bf.ALONE)
    with pytest.raises(bf.InvalidArgument) as error:
        bf.eval_batch_size(training)
    with pytest.raises(bf.InvalidArgument) as alone:
        bf.max_batch_size(training)
    assert str(error.value) == str(alone.value)
    return str(error.value)


@pytest.mark.slow
def test_a_wrapped_model_is_refused_where_one_rank_would_wait() -> None:
    said, _ = all_well(on_processes(refused))
    assert "DistributedDataParallel over 2 ranks" in said
    assert "model.module" in said
