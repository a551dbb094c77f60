"""Sketches of many tensors, small neighbours taken as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch

from batchfinder.noise import Sketch

__all__ = ["SIZE", "SMALL", "Numbered", "add_joined", "in_groups"]

SIZE = 1024
"""Numbers of one sketch."""
SMALL = 2**16
"""Numbers that are put side by side at most."""

Numbered: TypeAlias = tuple[int, torch.Tensor]
"""A tensor with its index in the sketch."""


def in_groups(numbered: Iterable[Numbered]) -> list[list[Numbered]]:
    """Tensors in the order of their indices, with small neighbours in one group.

    A sketch takes a group as the numbers of its first tensor and of those that follow it: of one
    dtype and device, with no index left out, together at most ``SMALL`` numbers.
    """
    groups: list[list[Numbered]] = []
    last, kind, total = -2, None, 0
    for index, tensor in numbered:
        same = (tensor.dtype, tensor.device)
        count = tensor.numel()
        if index == last + 1 and same == kind and total + count <= SMALL:
            groups[-1].append((index, tensor))
            total += count
        else:
            groups.append([(index, tensor)])
            kind, total = same, count
        last = index
    return groups


def add_joined(sketch: Sketch, groups: Sequence[Sequence[Numbered]]) -> None:
    """Add each group of ``in_groups`` to ``sketch``."""
    for group in groups:
        first, tensor = group[0]
        if len(group) > 1:
            tensor = torch.cat([each.reshape(-1) for _, each in group])
        sketch.add(first, tensor)
