"""Fake twins: the user's modules and optimizers with shapes instead of bytes, for a while.

Parameters, buffers, plain tensor attributes and optimizer state are swapped in place, so that the
user's own closures run unchanged; nothing real is copied, and everything is put back on the way
out. (A fake tensor has a shape, a type and a device, and no bytes: ``FakeTensorMode``.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

from batchfinder.run.torch_internals.fakes import FakeTensor, FakeTensorMode
from batchfinder.run.torch_internals.modules import SUBMODULES, TENSOR_TABLES

Twin: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

_KEPT = (SUBMODULES, "training")


@contextmanager
def swapped(
    mode: FakeTensorMode, modules: Sequence[torch.nn.Module], optimizers: Sequence[Any]
) -> Iterator[None]:
    """Inside, ``modules`` and ``optimizers`` hold fakes; afterwards, what they held before."""
    every = list({id(inner): inner for module in modules for inner in module.modules()}.values())
    saved = [(owner, dict(vars(owner))) for owner in [*every, *optimizers]]
    twin = _twins(mode)
    try:
        for module in every:
            _swap_module(module, twin)
        for optimizer in optimizers:
            _swap_optimizer(optimizer, twin)
        yield
    finally:
        for owner, attributes in saved:
            vars(owner).clear()
            vars(owner).update(attributes)


@contextmanager
def kept_as_they_are(owners: Iterable[Any]) -> Iterator[None]:
    """Afterwards the attributes of ``owners`` are those of before."""
    saved = [(owner, dict(vars(owner))) for owner in owners]
    try:
        yield
    finally:
        for owner, attributes in saved:
            vars(owner).clear()
            vars(owner).update(attributes)


def _twins(mode: FakeTensorMode) -> Twin:
    """The fake of a tensor: the same at every call, so that shared tensors stay shared."""
    made: dict[int, torch.Tensor] = {}

    def twin(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in made:
            fake = mode.from_tensor(tensor)
            if fake.is_leaf:
                fake.grad = None
            made[id(tensor)] = fake
        return made[id(tensor)]

    return twin


def _swap_module(module: torch.nn.Module, twin: Twin) -> None:
    attributes = vars(module)
    for name, value in list(attributes.items()):
        if name in TENSOR_TABLES:
            attributes[name] = {key: _mapped(inner, twin) for key, inner in value.items()}
        elif name not in _KEPT and not name.endswith("_hooks"):
            attributes[name] = _mapped(value, twin)


def _swap_optimizer(optimizer: Any, twin: Twin) -> None:
    state: defaultdict[Any, Any] = defaultdict(dict)
    for parameter, inner in optimizer.state.items():
        state[_mapped(parameter, twin)] = _mapped(inner, twin)
    attributes = vars(optimizer)
    attributes["param_groups"] = [_mapped(group, twin) for group in optimizer.param_groups]
    attributes["state"] = state


def _mapped(value: Any, twin: Twin) -> Any:
    """``value`` with the tensors in it, and in plain containers in it, replaced by their twins.

    Anything without a tensor is returned as the same object.
    """
    if isinstance(value, torch.Tensor):
        return twin(value)
    if type(value) in (list, tuple):
        parts = [_mapped(part, twin) for part in value]
        same = all(new is old for new, old in zip(parts, value, strict=True))
        return value if same and type(value) is tuple else type(value)(parts)
    if type(value) is dict:
        return {key: _mapped(inner, twin) for key, inner in value.items()}
    return value
