"""How a model is called with a batch, and which part of the batch is the target."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Call", "call_for"]

_TARGET_NAMES = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Call:
    """Arguments for the model, and the target that is left for a loss; ``None`` without one."""

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None

    def __call__(self, model: Any) -> Any:
        return model(*self.positional, **self.named)


def call_for(model: torch.nn.Module, batch: Any, *, keep_target: bool) -> Call:
    """The call that suits the signature of ``forward``.

    Args:
        model: the module to call.
        batch: a tensor, a mapping (its keys are matched with the parameters' names), or a tuple
            or list whose last entry is the target.
        keep_target: whether a loss function will want the target, so that the model must not
            compute the loss itself.
    """
    signature = _Signature.of(model)
    if isinstance(batch, Mapping):
        return _mapping_call(signature, batch, keep_target)
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        return _sequence_call(signature, tuple(batch), keep_target)
    if isinstance(batch, tuple):
        return _sequence_call(signature, tuple(batch), keep_target)
    return Call((batch,), target=batch if keep_target else None)


@dataclass(frozen=True)
class _Signature:
    """What ``forward`` takes: names of its positional parameters, and how many it must have."""

    names: tuple[str, ...]
    required: int
    any_positional: bool
    any_named: bool

    @classmethod
    def of(cls, model: torch.nn.Module) -> _Signature:
        inner = _unwrapped(model)
        try:
            parameters = list(inspect.signature(inner.forward).parameters.values())
        except (TypeError, ValueError):
            return cls((), 1, True, True)
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        only_named = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        return cls(
            names=tuple(p.name for p in plain) + only_named,
            required=sum(p.default is p.empty for p in plain),
            any_positional=any(p.kind is p.VAR_POSITIONAL for p in parameters),
            any_named=any(p.kind is p.VAR_KEYWORD for p in parameters),
        )

    def target_name(self) -> str | None:
        """The optional parameter that takes a target, if there is one."""
        return next((name for name in self.names[self.required :] if name in _TARGET_NAMES), None)


def _unwrapped(model: Any) -> Any:
    """The module whose ``forward`` says what it takes: inside compile and DDP wrappers."""
    for name in ("_orig_mod", "module"):
        inner = getattr(model, name, None)
        if isinstance(inner, torch.nn.Module) and not isinstance(model, torch.nn.Sequential):
            return _unwrapped(inner)
    return model


def _mapping_call(signature: _Signature, batch: Mapping[str, Any], keep_target: bool) -> Call:
    taken = {key: part for key, part in batch.items() if key in signature.names}
    if not taken and not signature.any_named:
        return Call((batch,), target=_target_of(batch))
    named = dict(batch) if signature.any_named else taken
    target = _target_of(batch)
    if keep_target and target is not None:
        required = signature.names[: signature.required]
        named = {k: v for k, v in named.items() if k not in _TARGET_NAMES or k in required}
    return Call(named=named, target=target)


def _target_of(batch: Mapping[str, Any]) -> Any:
    return next((batch[name] for name in _TARGET_NAMES if name in batch), None)


def _sequence_call(signature: _Signature, batch: tuple[Any, ...], keep_target: bool) -> Call:
    if len(batch) == 1:
        return Call(batch, target=batch[0] if keep_target else None)
    own_loss = signature.required >= len(batch)
    name = signature.target_name()
    if name is not None and not keep_target:
        return Call(batch[:-1], {name: batch[-1]}, batch[-1])
    if own_loss:
        return Call(batch, target=batch[-1] if keep_target else None)
    inputs = len(batch) - 1
    if not signature.any_positional:
        inputs = max(1, min(inputs, _positional_room(signature)))
    return Call(batch[:inputs], target=batch[inputs])


def _positional_room(signature: _Signature) -> int:
    """How many positional arguments ``forward`` takes, its target left out."""
    name = signature.target_name()
    return len(signature.names) - (name is not None)
