"""What every kind of state is to a snapshot, and the digest that is taken over it."""

from __future__ import annotations

import ctypes
import hashlib
import pickle
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from batchfinder.run.state.plain import copied, is_generator, is_without_data
from batchfinder.run.torch_internals.tensors import inner_tensors

__all__ = ["Part", "digest"]


class Part(ABC):
    """One kind of state: saved when built, put back by ``restore``, named by ``items``."""

    modules: Iterable[torch.nn.Module] = ()
    """The modules whose state this is."""
    is_optimizer = False
    """Whether this is the state of an optimizer."""

    @abstractmethod
    def restore(self) -> None: ...

    @abstractmethod
    def items(self) -> Iterator[tuple[str, Any]]:
        """What it is now, each under a name; what stands before a slash is the kind."""

    def restore_carried(self) -> None:
        """Put back what one batch leaves for the next; parameters are not part of it."""
        return

    def left(self) -> tuple[str, ...]:
        """Names of logs and counters that a step has changed, and that are not put back."""
        return ()

    def left_in_data(self) -> tuple[str, ...]:
        """Names of what data sets count for themselves, and what reading has changed of it."""
        return ()


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
