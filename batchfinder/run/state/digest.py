"""Digests of tensors and objects, and counters that reading a data set moves."""

from __future__ import annotations

import cmath
import ctypes
import hashlib
import pickle
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from batchfinder.run.state.plain import copied, is_generator, is_without_data
from batchfinder.run.torch_internals import inner_tensors

__all__ = ["ReadData", "digest"]


def digest(items: Iterable[tuple[str, Any]]) -> str:
    """The BLAKE2 digest of named values, bytes for tensors and arrays."""
    total = hashlib.blake2b(digest_size=16)
    for name, value in items:
        total.update(name.encode())
        _feed(total, value)
    return total.hexdigest()


def _feed(total: hashlib.blake2b, value: Any) -> None:
    if is_generator(value):
        _feed(total, copied(value))
    elif isinstance(value, torch.Tensor):
        _feed_tensor(total, value)
    elif isinstance(value, np.ndarray):
        total.update(f"{value.dtype}{value.shape}".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            total.update(repr(key).encode())
            _feed(total, value[key])
    elif isinstance(value, list | tuple):
        total.update(f"{type(value).__name__}{len(value)}".encode())
        for each in value:
            _feed(total, each)
    elif isinstance(value, deque):
        _feed(total, list(value))
    elif isinstance(value, set | frozenset):
        _feed(total, sorted(map(repr, value)))
    else:
        total.update(_plain_bytes(value))


def _feed_tensor(total: hashlib.blake2b, tensor: torch.Tensor) -> None:
    total.update(f"{tensor.dtype}{tuple(tensor.shape)}{tensor.device}".encode())
    inner = inner_tensors(tensor)
    if not inner and is_without_data(tensor):
        return
    for name, part in inner.items():
        total.update(name.encode())
        _feed_tensor(total, part)
    if inner:
        return
    plain = tensor.detach()
    if plain.layout is not torch.strided or plain.is_quantized:
        plain = plain.dequantize() if plain.is_quantized else plain.to_dense()
    plain = plain.cpu().resolve_conj().resolve_neg().contiguous()
    size = plain.numel() * plain.element_size()
    if size:
        # not .numpy(), after which a storage can never be resized again
        total.update((ctypes.c_char * size).from_address(plain.data_ptr()))


def _plain_bytes(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:  # noqa: BLE001 - pickling runs the user's code, which may fail in any way
        return type(value).__qualname__.encode()


_NUMBERS = (bool, int, float)
_ABSENT = object()
_DEEPEST = 4


class ReadData:
    """The data sets of a loader, and those that they wrap, as they were.

    Args:
        loader: a ``DataLoader``, a data set, or an iterable.
        kept: ids of what others put back.
    """

    def __init__(self, loader: Any, kept: Container[int] = ()) -> None:
        sets = {id(each): each for each in _data_sets(loader) if id(each) not in kept}
        self._before = [(each, _counted(each)) for each in sets.values()]

    def restore(self) -> None:
        """Nothing is put back."""

    def items(self) -> Iterator[tuple[str, Any]]:
        return iter(())

    def left(self) -> tuple[str, ...]:
        """``"Class.attribute"`` of numbers that have changed, and of what has grown or shrunk."""
        changed = (
            f"{type(each).__name__}.{name}"
            for each, before in self._before
            for name, value in _counted(each).items()
            if name in before and _differ(value, before[name])
        )
        return tuple(dict.fromkeys(changed))


def _differ(value: Any, before: Any) -> bool:
    """Whether two counts differ; NaN is equal to NaN."""
    if all(isinstance(each, float | complex) and cmath.isnan(each) for each in (value, before)):
        return False
    return bool(value != before)


def _data_sets(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, Dataset):
        yield value
    if depth == _DEEPEST:
        return
    inner = getattr(value, "dataset", None)
    for each in (inner, *(getattr(value, "datasets", None) or ())):
        if isinstance(each, Dataset):
            yield from _data_sets(each, depth + 1)


def _counted(data: Any) -> dict[str, Any]:
    """Numbers by their values, containers by their lengths, tensors by their versions."""
    found = {name: _count(value) for name, value in getattr(data, "__dict__", {}).items()}
    return {name: count for name, count in found.items() if count is not _ABSENT}


def _count(value: Any) -> Any:
    if isinstance(value, _NUMBERS):
        return value
    if isinstance(value, list | dict | set | deque):
        return len(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value.item()
    return value._version if isinstance(value, torch.Tensor) else _ABSENT
