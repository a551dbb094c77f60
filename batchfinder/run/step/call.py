"""How a model is called with a batch, and which part of the batch is the target."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.run.oom import Verdict, classify
from batchfinder.run.torch_internals.compiler import inside_compiled
from batchfinder.run.tree import describe

__all__ = ["Call", "call_for", "check_loss_takes"]

_TARGET_NAMES = ("labels", "label", "targets", "target", "y")
_WHOLE_NAMES = ("batch", "data_batch", "batch_data")


@dataclass(frozen=True)
class Call:
    """Arguments for the model, and the target that is left for a loss; ``None`` without one."""

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None

    def __call__(self, model: Any) -> Any:
        return model(*self.positional, **self.named)

    def check(self, model: torch.nn.Module, batch: Any, *, step: str = "train_step") -> None:
        """Refuse a call that ``forward`` cannot take, before it is made.

        ``step`` is the argument that is the way out.

        Raises:
            InvalidArgument: with what it takes, and what the batch holds.
        """
        inner = _unwrapped(model)
        _check_takes(
            inner.forward,
            self.positional,
            self.named,
            expected="a model that can be called with the contents of the batch",
            found=f"{type(inner).__name__}.forward",
            beside=f" and a batch of {describe(batch)}",
            step=step,
            way_out="which calls the model" + " and returns the loss" * (step == "train_step"),
        )

    def note(
        self, error: Exception, model: torch.nn.Module, batch: Any, *, step: str = "train_step"
    ) -> None:
        """Add to an error of the user's model with which part of the batch it was called.

        A model that unpacks its batch by itself is given the first part alone, and fails there.
        """
        is_plain = isinstance(error, (TypeError, ValueError, LookupError, AttributeError))
        if not is_plain and (
            not isinstance(error, RuntimeError) or classify(error) is not Verdict.OTHER
        ):
            return
        parts = (*self.positional, *self.named.values())
        said = f"forward was called with ({', '.join(map(describe, parts))})"
        said += f" of a batch of {describe(batch)}"
        if is_plain and isinstance(batch, (tuple, list)) and len(batch) > 1:
            said += f"; if it takes the whole batch, pass {step}=lambda model, batch: model(batch)"
        elif other := _other_types(model, parts):
            said += other
        error.add_note(f"batchfinder: {said}")


def check_loss_takes(loss_fn: Any, output: Any, target: Any) -> None:
    """Refuse a loss that wants more than output and target, such as ``CTCLoss``.

    Raises:
        InvalidArgument: with what it takes.
    """
    is_module = isinstance(loss_fn, torch.nn.Module)
    _check_takes(
        loss_fn.forward if is_module else loss_fn,
        (output, target),
        {},
        expected="a loss that is called with (output, target)",
        found=type(loss_fn).__name__ if is_module else getattr(loss_fn, "__name__", "loss_fn"),
        step="train_step",
        way_out="which calls the model and this loss",
    )


def _other_types(model: torch.nn.Module, parts: Iterable[Any]) -> str:
    """Floating inputs of another type than the model's weights, and the way out."""
    weights = {p.dtype for p in model.parameters() if p.is_floating_point()}
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    given = {p.dtype for p in tensors if p.is_floating_point() or p.dtype is torch.uint8}
    if len(weights) != 1 or not given or weights & given:
        return ""
    name = str(*weights).removeprefix("torch.")
    return f"; the model's weights are {name}: let the data set give {name} too"


def _check_takes(
    function: Any,
    positional: tuple[Any, ...],
    named: Mapping[str, Any],
    *,
    expected: str,
    found: str,
    step: str,
    way_out: str,
    beside: str = "",
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # what it takes cannot be seen
        return
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        raise InvalidArgument(
            f"expected {expected}; found {found}({', '.join(signature.parameters)}){beside} "
            f"({error}): pass {step}=lambda model, batch: ..., {way_out}"
        ) from None


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
    if isinstance(batch, (tuple, list)):
        if signature.takes_all:
            return Call((batch,), target=batch[-1] if keep_target and len(batch) else None)
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

    @property
    def takes_all(self) -> bool:
        """Whether the one argument that is asked for is named as a whole batch."""
        return self.required == 1 and self.names[0] in _WHOLE_NAMES

    def target_name(self) -> str | None:
        """The optional parameter that takes a target, if there is one."""
        return next((name for name in self.names[self.required :] if name in _TARGET_NAMES), None)


def _unwrapped(model: Any) -> Any:
    """The module whose ``forward`` says what it takes: inside compile and DDP wrappers."""
    for inner in (inside_compiled(model), getattr(model, "module", None)):
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
        room = len(signature.names) - (name is not None)  # its target left out
        inputs = max(1, min(inputs, room))
    return Call(batch[:inputs], target=batch[inputs])
