"""What stands in for the user's batches, modules and optimizers: shapes instead of bytes.

The loader's own code is never run on fake tensors: a collate function that pads to
``int(lengths.max())`` would read an invented length there.

Parameters, buffers, plain tensor attributes and optimizer state are swapped in place, so that the
user's own closures run unchanged; nothing real is copied, and everything is put back on the way
out. (A fake tensor has a shape, a type and a device, and no bytes: ``FakeTensorMode``.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeAlias

import torch

from batchfinder.errors import CannotPredict
from batchfinder.protocols import Batch
from batchfinder.run.torch_internals.objects import SUBMODULES, TENSOR_TABLES
from batchfinder.run.torch_internals.tensors import FakeTensor, FakeTensorMode


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
