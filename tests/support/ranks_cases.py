"""Trainings on several ranks, with faults planted on one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

WIDTH, CLASSES = 16, 4


def perceptron(layers: int = 3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [part for _ in range(layers) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))


def wrapped(model: nn.Module, how: str) -> nn.Module:
    """``model`` bare, under DistributedDataParallel, or sharded in groups of two layers.

    And under what else changes how ranks exchange: see ``_OPTIONS``; ``"hook"``, ``"compiled"``;
    ``"hsdp"`` (a mesh of 2 x 2), ``"kept"`` (parameters stay whole between forward and backward),
    ``"clipped"``.
    """
    if how == "ddp" or how in _OPTIONS:
        return DistributedDataParallel(model, bucket_cap_mb=0.001, **_OPTIONS.get(how, {}))
    if how == "hook":
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        ddp = DistributedDataParallel(model, bucket_cap_mb=0.001)
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return ddp
    if how == "compiled":
        return torch.compile(DistributedDataParallel(model), backend="aot_eager", dynamic=True)
    if how in {"fsdp", "hsdp", "kept", "clipped"}:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        names = ("replicate", "shard")
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=names) if how == "hsdp" else None
        options = {"mesh": mesh, "reshard_after_forward": how != "kept"}
        parts = list(model)
        for at in range(0, len(parts) - 1, 4):
            fully_shard(parts[at : at + 4], **options)
        fully_shard(model, **options)
    return model


_OPTIONS: dict[str, dict[str, Any]] = {
    "bucket view": {"gradient_as_bucket_view": True},
    "static graph": {"static_graph": True},
    "unused": {"find_unused_parameters": True},
}


def data(samples: int = 512, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, WIDTH, generator=generator)
    y = torch.randint(CLASSES, (samples,), generator=generator)
    return TensorDataset(x, y)


def loader(samples: int = 512, batch: int = 16, seed: int = 0) -> DataLoader[Any]:
    return DataLoader(data(samples, seed), batch_size=batch, shuffle=True)


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor._local_tensor if hasattr(tensor, "_local_tensor") else tensor


def state_of(model: nn.Module, optimizer: Any) -> Iterator[torch.Tensor]:
    for parameter in model.parameters():
        yield local(parameter.detach())
        if parameter.grad is not None:
            yield local(parameter.grad)
    yield from model.buffers()
    for inner in getattr(optimizer, "optim", optimizer).state.values():
        yield from (local(value) for value in inner.values() if isinstance(value, torch.Tensor))


def fingerprint(model: nn.Module, optimizer: Any) -> str:
    """A digest of weights, gradients, buffers, optimizer state and the generator."""
    total = hashlib.sha256(torch.get_rng_state().numpy().tobytes())
    for tensor in state_of(model, optimizer):
        total.update(repr(tensor.tolist()).encode())
    return total.hexdigest()
