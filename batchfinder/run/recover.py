"""Clean-up after a step that failed, so that nothing of it is alive while the next one runs."""

from __future__ import annotations

import gc
from typing import Any

import torch

from batchfinder.protocols import MemoryBackend, TrainStep

__all__ = ["empty_cache", "flush_autograd", "recover"]


def recover(step: TrainStep, memory: MemoryBackend | None = None) -> None:
    """Free what a failed step left: gradients, its graph, cycles, cached blocks; in this order.

    To be called outside ``except``: inside, the exception's traceback keeps the frames of the
    failed step alive with all their tensors. Weights and optimizer state that the step changed
    are the caller's to put back. Without ``memory`` the cache of the step's device is emptied.
    """
    step.zero_grad()
    flush_autograd(step.device)
    gc.collect()
    if memory is None:
        empty_cache(step.device)
        return
    memory.synchronize()
    memory.release()


def flush_autograd(device: torch.device) -> None:
    """Let autograd drop what a failed backward left in its queue.

    The engine's thread keeps the graph of the task that failed until its next one
    (https://github.com/pytorch/pytorch/issues/82218): a backward of one number is enough.
    """
    with torch.inference_mode(False), torch.enable_grad():
        torch.autograd.backward(torch.zeros((), device=device, requires_grad=True).sum())


def empty_cache(device: torch.device) -> None:
    """Hand cached blocks back to the driver, on a device whose allocator keeps any."""
    module: Any = getattr(torch, device.type, None)
    if device.type in ("cpu", "meta") or not hasattr(module, "empty_cache"):
        return
    if device.type != "mps" and not module.is_initialized():
        return
    module.synchronize()
    module.empty_cache()
