"""A batch of any size, as shapes: two small real batches show which dimensions grow.

The loader's own code is never run on fake tensors: a collate function that pads to
``int(lengths.max())`` would read an invented length there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch

from batchfinder.errors import CannotPredict
from batchfinder.protocols import Batch


@dataclass(frozen=True)
class BatchShape:
    """How a batch grows, seen in one of ``small_size`` and one of ``large_size`` samples."""

    small: Batch
    large: Batch
    small_size: int
    large_size: int

    def at(self, size: int) -> Batch:
        """A batch of ``size`` samples; its tensors are empty. Call it inside a fake mode.

        Raises:
            CannotPredict: where the two batches differ in more than their size.
        """
        return _Growth(self.small_size, self.large_size, size).of(self.small, self.large)


class _Growth:
    """From batches of ``a`` and ``b`` samples to one of ``size``; shared tensors stay shared."""

    def __init__(self, a: int, b: int, size: int) -> None:
        self.small_size = a
        self.large_size = b
        self.size = size
        self._made: dict[tuple[int, int], torch.Tensor] = {}

    def of(self, small: Any, large: Any) -> Any:
        if isinstance(small, torch.Tensor) and isinstance(large, torch.Tensor):
            pair = (id(small), id(large))
            if pair not in self._made:
                self._made[pair] = self._tensor(small, large)
            return self._made[pair]
        if type(small) is not type(large):
            raise CannotPredict(
                f"expected batches of the same structure; found {type(small).__name__} in a "
                "batch of "
                f"{self.small_size} and {type(large).__name__} in one of {self.large_size}"
            )
        if isinstance(small, Mapping):
            return self._mapping(small, large)
        if isinstance(small, list | tuple):
            return self._sequence(small, large)
        if is_dataclass(small) and not isinstance(small, type):
            names = [each.name for each in fields(small)]
            grown = {n: self.of(getattr(small, n), getattr(large, n)) for n in names}
            return replace(small, **grown)
        is_count = isinstance(small, int) and not isinstance(small, bool)
        return self._length(small, large) if is_count else large

    def _tensor(self, small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
        if small.dim() != large.dim() or small.layout is not torch.strided:
            raise CannotPredict(
                "expected dense tensors with the same number of dimensions; found "
                f"{tuple(small.shape)} "
                f"({small.layout}) and {tuple(large.shape)} ({large.layout})"
            )
        pairs = zip(small.shape, large.shape, strict=True)
        shape = [self._length(one, other) for one, other in pairs]
        return torch.empty(shape, dtype=small.dtype, device=small.device)

    def _length(self, small: int, large: int) -> int:
        """A dimension that grows in proportion is the batch's; of others the longer one counts."""
        if small != large and small * self.large_size == large * self.small_size:
            return small * self.size // self.small_size
        return max(small, large)

    def _mapping(self, small: Mapping[Any, Any], large: Mapping[Any, Any]) -> Any:
        if small.keys() != large.keys():
            raise CannotPredict(
                f"expected the same keys in every batch; found {list(small)} and {list(large)}"
            )
        grown = {key: self.of(small[key], large[key]) for key in small}
        if type(small) is dict:
            return grown
        kind: Any = type(small)  # such as transformers' BatchEncoding
        try:
            return kind(grown)
        except TypeError as error:
            raise CannotPredict(f"expected dicts; found {type(small).__name__}") from error

    def _sequence(self, small: Any, large: Any) -> Any:
        if len(small) == len(large):
            pairs = zip(small, large, strict=True)
            parts = [self.of(one, other) for one, other in pairs]
        elif len(small) * self.large_size == len(large) * self.small_size:
            count = len(small) * self.size // self.small_size
            parts = [_empty_like(large[index % len(large)]) for index in range(count)]
        else:
            raise CannotPredict(
                f"expected lists that grow with the batch; found {len(small)} items for "
                f"{self.small_size} samples and {len(large)} for {self.large_size}"
            )
        return type(small)(*parts) if hasattr(small, "_fields") else type(small)(parts)


def _empty_like(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device=value.device)
    if isinstance(value, Mapping):
        return {key: _empty_like(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_empty_like(inner) for inner in value)
    return value
