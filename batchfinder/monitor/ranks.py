"""Micro-batches on other devices: what ranks must share, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch


class Exchange(Protocol):
    """What a monitor needs of other ranks, to count their micro-batches with its own.

    Every rank looks at micro-batches of its own samples, with its own gradients: where the model
    is wrapped for data-parallel training, the hooks see them before they are averaged. All ranks
    must hold the same weights and be given the same number of micro-batches. Only sketches and
    sizes travel (about 4 KiB per micro-batch, whatever the model), so that the mean gradient is
    taken from the sketches too, and is known to some √(2 / sketch size).
    """

    @property
    def alone(self) -> bool:
        """Whether there is no other rank; the exact norms are then used."""
        ...

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows (n, width) of every rank, one below the other, the same on all ranks."""
        ...


class Alone:
    """No other rank."""

    alone = True

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return rows


class AllGather:
    """Rows of all ranks of ``torch.distributed``, over the default process group."""

    alone = False

    def gather(self, rows: np.ndarray) -> np.ndarray:
        from torch import distributed

        parts: list[np.ndarray] = [rows] * distributed.get_world_size()
        distributed.all_gather_object(parts, rows)
        return np.concatenate(parts)


ALONE = Alone()


def is_sharded(parameters: Sequence[torch.Tensor]) -> bool:
    """Whether parameters are distributed tensors; asked only where ranks have been started."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in parameters)
