"""The state of modules: parameters, buffers, gradients, modes and plain attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import TensorWeakRef

from batchfinder.errors import InvalidArgument
from batchfinder.run.state.part import Part
from batchfinder.run.state.plain import copied, fresh_tensor, is_plain, put_back
from batchfinder.run.torch_internals.modules import (
    SUBMODULES,
    TENSOR_TABLES,
    buffers_of,
    parameters_of,
)

__all__ = ["ModuleState"]

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
