"""The state of modules and of optimizers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import TensorWeakRef

from batchfinder.errors import InvalidArgument
from batchfinder.run.state.part import Part
from batchfinder.run.state.plain import copied, fresh_tensor, is_plain, put_back
from batchfinder.run.torch_internals.objects import (
    SUBMODULES,
    TENSOR_TABLES,
    buffers_of,
    parameters_of,
)

__all__ = ["ModuleState", "OptimizerState", "is_optimizer"]


_HOLDERS = (*TENSOR_TABLES, SUBMODULES)


@dataclass(frozen=True)
class _SavedGradient:
    """The values, and the tensor itself as long as somebody else keeps it alive.

    Held by us it would take the device's memory beside the gradients of every trial.
    """

    tensor: TensorWeakRef
    value: Any

    def on(self, device: torch.device) -> torch.Tensor:
        original: torch.Tensor | None = self.tensor()
        if original is not None:
            put_back(original, self.value)
            return original
        return fresh_tensor(self.value, device)


@dataclass(frozen=True)
class _SavedParameter:
    parameter: torch.nn.Parameter
    alias: torch.Tensor  # shares the storage, so that even a swapped `.data` comes back
    value: Any
    gradient: _SavedGradient | None
    requires_grad: bool

    def restore(self) -> None:
        if self.parameter.data_ptr() != self.alias.data_ptr():
            self.parameter.data = self.alias
        put_back(self.parameter, self.value)
        self.parameter.requires_grad_(self.requires_grad)
        self.parameter.grad = None
        if self.gradient is not None:
            self.parameter.grad = self.gradient.on(self.parameter.device)


@dataclass(frozen=True)
class _SavedBuffer:
    owner: torch.nn.Module
    name: str
    tensor: torch.Tensor | None
    value: torch.Tensor | None

    def restore(self) -> None:
        if self.tensor is not None:
            put_back(self.tensor, self.value)
        buffers_of(self.owner)[self.name] = self.tensor


@dataclass(frozen=True)
class _SavedAttributes:
    module: torch.nn.Module
    names: frozenset[str]
    saved: dict[str, tuple[Any, Any]]  # name -> (the object itself, its contents)

    def restore(self, *, carried: bool) -> None:
        """``carried``: all but the mode, which no batch leaves for the next."""
        attributes = self.module.__dict__
        for name in [name for name in attributes if name not in self.names]:
            if "dynamo" not in name:  # the compiler's own marks are a cache, not the user's state
                del attributes[name]
        for name, (original, contents) in self.saved.items():
            if not (carried and name == "training"):
                attributes[name] = put_back(original, contents)


class ModuleState(Part):
    """All of the given modules and what is below them, shared parts saved once.

    ``others`` are parameters that may belong to none of them, as an optimizer's may.
    """

    def __init__(
        self, modules: Iterable[torch.nn.Module], others: Iterable[torch.nn.Parameter] = ()
    ) -> None:
        self.modules = _each_once(module for root in modules for module in root.modules())
        owned = [each for module in self.modules for each in parameters_of(module).values()]
        self._parameters = [
            _save_parameter(each)
            for each in _each_once(p for p in [*owned, *others] if p is not None)
        ]
        self._buffers = [
            _SavedBuffer(module, name, tensor, None if tensor is None else copied(tensor))
            for module in self.modules
            for name, tensor in buffers_of(module).items()
        ]
        self._attributes = [_save_attributes(module) for module in self.modules]

    def restore(self) -> None:
        for parameter in self._parameters:
            parameter.restore()
        self._restore_attributes(carried=False)

    def restore_carried(self) -> None:
        """Buffers and plain attributes alone: what one batch leaves for the next."""
        self._restore_attributes(carried=True)

    def _restore_attributes(self, *, carried: bool) -> None:
        for attributes in self._attributes:
            attributes.restore(carried=carried)
        for buffer in self._buffers:
            buffer.restore()

    def items(self) -> Iterator[tuple[str, Any]]:
        for position, saved in enumerate(self._parameters):
            yield f"parameters/{position}", saved.parameter
            yield f"requires_grad/{position}", saved.parameter.requires_grad
            yield f"gradients/{position}", saved.parameter.grad
        for position, module in enumerate(self.modules):
            for name, tensor in buffers_of(module).items():
                yield f"buffers/{position}.{name}", tensor
            for name in sorted(module.__dict__):
                value = module.__dict__[name]
                if is_plain(value) and name not in _HOLDERS:
                    kind = "modes" if name == "training" else "attributes"
                    yield f"{kind}/{position}.{name}", value


def _save_parameter(parameter: torch.nn.Parameter) -> _SavedParameter:
    if torch.nn.parameter.is_lazy(parameter):
        raise InvalidArgument(
            "expected a model whose parameters have a shape; found an uninitialized lazy module. "
            "Run one batch through the model before the call."
        )
    grad = parameter.grad
    return _SavedParameter(
        parameter,
        parameter.data,
        copied(parameter),
        None if grad is None else _SavedGradient(TensorWeakRef(grad), copied(grad)),
        parameter.requires_grad,
    )


def _save_attributes(module: torch.nn.Module) -> _SavedAttributes:
    attributes = module.__dict__
    saved = {
        name: (value, copied(value))
        for name, value in attributes.items()
        if is_plain(value) and name not in _HOLDERS
    }
    return _SavedAttributes(module, frozenset(attributes), saved)


def _each_once(things: Iterable[Any]) -> list[Any]:
    return list({id(thing): thing for thing in things}.values())


class OptimizerState(Part):
    """One optimizer, put back into the very tensors and containers that it held before.

    The state of a fresh optimizer is empty, and is empty again afterwards: a zero-filled state
    would change the bias correction of Adam's first step. A wrapper may share the containers of the
    optimizer that it wraps, which ``load_state_dict`` would replace.

    Args:
        optimizer: a ``torch.optim.Optimizer``, or anything that ``is_optimizer``.
        index: its place among several.
    """

    is_optimizer = True

    def __init__(self, optimizer: Any, index: int = 0) -> None:
        self._optimizer = optimizer
        self._index = index
        self._containers = (optimizer.state, optimizer.param_groups, [*optimizer.param_groups])
        self._state = {
            parameter: (inner, {key: _save(value) for key, value in inner.items()})
            for parameter, inner in optimizer.state.items()
        }
        self._groups = [
            {key: _save(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self._members = [list(group["params"]) for group in optimizer.param_groups]
        self._attributes = {
            name: (value, copied(value))
            for name, value in _attributes(optimizer).items()
            if name not in ("state", "param_groups") and is_plain(value)
        }
        self._names = frozenset(_attributes(optimizer))

    def restore(self) -> None:
        optimizer = self._optimizer
        state, groups, own_groups = self._containers
        for name, container in (("state", state), ("param_groups", groups)):
            if getattr(optimizer, name) is not container:
                setattr(optimizer, name, container)
        groups[:] = own_groups
        optimizer.state.clear()
        for parameter, (inner, saved) in self._state.items():
            inner.clear()
            inner.update({key: _load(original, value) for key, (original, value) in saved.items()})
            optimizer.state[parameter] = inner
        for group, saved_group, members in zip(
            optimizer.param_groups, self._groups, self._members, strict=True
        ):
            for key in [key for key in group if key != "params" and key not in saved_group]:
                del group[key]
            for key, (original, value) in saved_group.items():
                group[key] = _load(original, value)
            group["params"][:] = members
        for name in [name for name in _attributes(optimizer) if name not in self._names]:
            if "dynamo" not in name:  # the compiler's own marks are a cache, not the user's state
                delattr(optimizer, name)
        for name, (original, value) in self._attributes.items():
            setattr(optimizer, name, put_back(original, value))

    def items(self) -> Iterator[tuple[str, Any]]:
        kind = f"optimizer {self._index}" if self._index else "optimizer"
        for place, group in enumerate(self._optimizer.param_groups):
            yield f"{kind}/group {place}", {k: v for k, v in group.items() if k != "params"}
            for number, parameter in enumerate(group["params"]):
                if parameter in self._optimizer.state:
                    yield f"{kind}/state {place}.{number}", self._optimizer.state[parameter]


def is_optimizer(thing: Any) -> bool:
    """Whether ``thing`` has an optimizer's state and parameter groups, of torch or not."""
    groups = getattr(thing, "param_groups", None)
    return (
        isinstance(getattr(thing, "state", None), MutableMapping)
        and isinstance(groups, list)
        and all(isinstance(each, dict) and "params" in each for each in groups)
    )


def _attributes(optimizer: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(optimizer, "__dict__", {})
    return found


def _save(value: Any) -> tuple[Any, Any]:
    """The object itself and a copy of its contents, in host memory where it is a tensor."""
    return value, copied(value) if is_plain(value) else copy.deepcopy(value)


def _load(original: Any, saved: Any) -> Any:
    return put_back(original, saved) if is_plain(original) else copy.deepcopy(saved)
