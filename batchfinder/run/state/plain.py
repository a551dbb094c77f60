"""Python values of the plain kinds: which they are, how to copy them, how to put them back."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

__all__ = ["copied", "is_plain", "put_back"]

_ATOMS = (type(None), bool, int, float, complex, str, bytes)


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a number, text or tensor, or a list, tuple, dict or set of such."""
    if type(value) in _ATOMS or _is_plain_tensor(value):
        return True
    if type(value) in (list, tuple, set, deque):
        return all(is_plain(each) for each in value)
    if type(value) is dict:
        return all(is_plain(key) and is_plain(each) for key, each in value.items())
    return False


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.requires_grad


def copied(value: Any) -> Any:
    """A deep copy of a plain value; tensors go to host memory."""
    if isinstance(value, torch.Tensor):
        # a meta tensor has a shape and no data: there is nothing to copy
        return value if value.is_meta else value.detach().to("cpu", copy=True)
    if isinstance(value, deque):
        return deque((copied(each) for each in value), value.maxlen)
    if isinstance(value, list | tuple | set):
        return type(value)(copied(each) for each in value)
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return value


def put_back(original: Any, saved: Any) -> Any:
    """``original`` with the contents of ``saved``: the same object where it can be changed."""
    if isinstance(original, torch.Tensor):
        with torch.no_grad():
            if original.shape == saved.shape:
                original.copy_(saved)
            else:
                original.set_(saved.to(original.device))
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
    return copied(saved)
