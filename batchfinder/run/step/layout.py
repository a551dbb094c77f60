"""The optimizers' state, laid out before the first trial so that no trial is special."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from batchfinder.run.step.optimizers import still

__all__ = ["lay_out", "zero_gradient"]


def zero_gradient(parameter: torch.Tensor, sparse_dims: int) -> torch.Tensor:
    """A gradient of zeros; an empty one with ``sparse_dims`` where the true ones are sparse."""
    if not sparse_dims:
        return torch.zeros_like(parameter)
    shape = parameter.shape
    where = torch.empty(sparse_dims, 0, dtype=torch.long, device=parameter.device)
    values = parameter.new_empty((0, *shape[sparse_dims:]))
    return torch.sparse_coo_tensor(where, values, shape, check_invariants=True)


def lay_out(optimizers: Sequence[Any]) -> None:
    """One step at rate zero, so that each has the state that it has in training.

    One that wants more than gradients, such as a closure or gradients per sample, is left without
    state: the first trial lays it out.
    """
    with still(optimizers):
        for optimizer in optimizers:
            try:
                optimizer.step()
            except Exception:  # noqa: BLE001  # the trial's own step shows whether it is a mistake
                optimizer.state.clear()
