"""Whether tensors have changed: one number each, computed where they are."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from batchfinder.run.torch_internals.tensors import dense_parts

__all__ = ["fingerprint"]

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AT_ONCE = 1 << 20
"""Elements summed at once: some kernels make a wide copy of what they sum."""


def fingerprint(tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
    """The sums of the tensors' bits, taken as whole numbers: another one says that bits changed.

    Two different tensors have the same sum by an accident of about one in 2^32.
    """
    sums = [_sum(part) for tensor in tensors for part in dense_parts(tensor.detach())]
    return tuple(int(each) for each in sums)


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta or not tensor.numel():
        return torch.zeros((), dtype=torch.int64)
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    words = plain.view(_WORDS[plain.element_size()]).reshape(-1)
    return torch.stack([part.sum(dtype=torch.int64) for part in torch.split(words, _AT_ONCE)]).sum()
