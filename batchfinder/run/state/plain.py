"""Python values of the plain kinds: which they are, how to copy them, how to put them back."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from batchfinder.run.torch_internals.tensors import inner_tensors, like_subclass

__all__ = ["copied", "fresh_tensor", "is_generator", "is_plain", "is_without_data", "put_back"]

_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a number, text, tensor, array or generator, or a container of such."""
    if (
        type(value) in _ATOMS
        or isinstance(value, np.ndarray)
        or (isinstance(value, torch.Tensor) and not value.requires_grad)
    ):
        return True
    if type(value) in (list, tuple, set, deque):
        return all(is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(is_plain(key) and is_plain(each) for key, each in value.items())
    return is_generator(value)


def is_generator(value: Any) -> bool:
    """Whether random numbers are drawn from ``value``."""
    return isinstance(value, _GENERATORS)


def copied(value: Any) -> Any:
    """A deep copy of a plain value; tensors go to host memory, of a generator it is the state."""
    if isinstance(value, torch.Tensor):
        return _copied_tensor(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, deque):
        return deque((copied(each) for each in value), value.maxlen)
    if isinstance(value, list | tuple | set):
        return type(value)(copied(each) for each in value)
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return _state_of(value) if is_generator(value) else value


@dataclass(frozen=True)
class _InParts:
    """A copy of a tensor subclass: of the tensors that it keeps its data in."""

    parts: dict[str, Any]
    make: Callable[[dict[str, torch.Tensor]], torch.Tensor]


def _copied_tensor(tensor: torch.Tensor) -> Any:
    inner = inner_tensors(tensor)
    if inner:
        parts = {name: _copied_tensor(part) for name, part in inner.items()}
        return _InParts(parts, like_subclass(tensor))
    # a shape without data, as of a meta tensor: there is nothing to copy
    return tensor if is_without_data(tensor) else tensor.detach().to("cpu", copy=True)


def is_without_data(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a shape alone: on the meta device, or with its storage freed.

    Sharded training frees the storage of whole parameters so; to read it would end the process.
    """
    if tensor.is_meta or tensor.layout is not torch.strided:
        return tensor.is_meta
    return bool(tensor.numel()) and not tensor.untyped_storage().nbytes()


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator | np.random.RandomState):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return copy.deepcopy(generator.bit_generator.state)


def put_back(original: Any, saved: Any) -> Any:
    """``original`` with the contents of ``saved``: the same object where it can be changed."""
    if isinstance(original, torch.Tensor):
        return _put_back_tensor(original, saved)
    if isinstance(original, np.ndarray):
        if original.shape == saved.shape and original.flags.writeable:
            np.copyto(original, saved)
        return original
    if isinstance(original, list | deque):
        fresh = copied(saved)
        original.clear()
        original.extend(fresh)
        return original
    if isinstance(original, dict | set):
        fresh = copied(saved)
        original.clear()
        original.update(fresh)
        return original
    if is_generator(original):
        _set_state(original, saved)
        return original
    return copied(saved)


def _put_back_tensor(original: torch.Tensor, saved: Any) -> torch.Tensor:
    if isinstance(saved, _InParts):
        for name, part in inner_tensors(original).items():
            _put_back_tensor(part, saved.parts[name])
        return original
    with torch.no_grad():
        if is_without_data(original):  # and had none to copy
            pass
        elif original.shape == saved.shape:
            original.copy_(saved)
        else:
            source = saved.to(original.device)
            original.set_(source.untyped_storage(), 0, source.shape, source.stride())
    return original


def fresh_tensor(saved: Any, device: torch.device) -> torch.Tensor:
    """A new tensor on ``device`` with the contents of what ``copied`` made."""
    if isinstance(saved, _InParts):
        return saved.make({name: fresh_tensor(part, device) for name, part in saved.parts.items()})
    tensor: torch.Tensor = saved.to(device, copy=True)
    return tensor


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = copy.deepcopy(state)
