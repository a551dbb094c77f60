"""Answers for operators whose result depends on the data, which fake tensors do not have.

Memory does not depend on most of them (``loss.item()`` for a log line). Where a size does, the
largest possible is taken; of a size made from a number that the step reads, none is known. Each
kind of answer given is kept, so that it can be reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from batchfinder.run.torch_internals.tensors import (
    INDEX_PUTS,
    READ_A_NUMBER,
    UNIQUE,
    TorchDispatchMode,
    makes_a_tensor,
)

_aten = torch.ops.aten

Answer: TypeAlias = Callable[..., Any]


class Assumed(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Enter it inside the fake mode and the ledger. ``sentences`` says what was assumed.

    Args:
        before: called before every operator that makes a tensor; it may raise.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._before = before
        self.sentences: dict[str, None] = {}
        self.recording = True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _makes_new_tensor(func):
            self._before()
        if func in _UNSIZED:
            self._say(_UNSIZED[func])
        if func is _aten.index.Tensor and _by_mask(args[1]):
            self._say("indexing with a mask keeps every element")
            return _masked_index(args[0], args[1])
        # the backward of indexing with a mask writes through one, which takes no memory
        if func in INDEX_PUTS and _by_mask(args[1]):
            return args[0]
        if func in _KEEP_THEIR_BUFFER and _is_reduced(func, args, kwargs):
            return _scalar_in_a_buffer(args[0], args[1])
        if func in _ANSWERS:
            sentence, answer = _ANSWERS[func]
            self._say(_WHOLE if func is READ_A_NUMBER and _is_whole(args[0]) else sentence)
            return answer(*args, **kwargs)
        return func(*args, **kwargs)

    def _say(self, sentence: str) -> None:
        if self.recording:
            self.sentences[sentence] = None


def _value(tensor: torch.Tensor) -> bool | int | float | complex:
    """What ``.item()`` gives: no (is it NaN? are all equal?), or one."""
    if tensor.dtype is torch.bool:
        return False
    return 1.0 if tensor.dtype.is_floating_point else 1


def _makes_new_tensor(func: Any) -> bool:
    """Torch asks for a device or a size where C++ allows no exception: one there ends the process.

    Views are left out for the same reason.
    """
    if getattr(func, "is_view", False):
        return False
    return makes_a_tensor(func)


def _is_whole(tensor: torch.Tensor) -> bool:
    return not (tensor.dtype is torch.bool or tensor.is_floating_point() or tensor.is_complex())


def _nonzero(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.numel(), tensor.dim(), dtype=torch.int64, device=tensor.device)


def _masked_select(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty((tensor.to(torch.bool) & mask).numel())


def _unique(tensor: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
    def counts() -> torch.Tensor:
        return torch.empty(tensor.numel(), dtype=torch.int64, device=tensor.device)

    return tensor.new_empty(tensor.numel()), counts().reshape(tensor.shape), counts()


def _is_reduced(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    place = _KEEP_THEIR_BUFFER[func]
    reduction = args[place] if len(args) > place else kwargs.get("reduction", 1)
    return bool(reduction != 0)


def _scalar_in_a_buffer(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    full = torch.empty_like(one) if one.shape == other.shape else one - other
    return full.as_strided((), ())


def _by_mask(indices: Any) -> bool:
    return any(
        isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
        for index in indices
    )


def _masked_index(tensor: torch.Tensor, indices: Any) -> torch.Tensor:
    """As if every mask were true, by indices instead of masks."""
    chosen: list[torch.Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            places = torch.empty(index.numel(), dtype=torch.int64, device=tensor.device)
            chosen += [places for _ in range(index.dim())]
        else:
            chosen.append(index)
    kept: torch.Tensor = _aten.index.Tensor(tensor, chosen)
    return kept


_WHOLE = (
    "integers read from tensors (.item(), int()) are 1, so a size derived from one (one_hot "
    "without num_classes, lengths.max()) is predicted too small"
)
"""No upper bound can be given: the number may be anything."""

_ANSWERS: dict[Any, tuple[str, Answer]] = {
    READ_A_NUMBER: (
        "numbers read from tensors (.item(), float()) are 1, and conditions on tensors are false",
        _value,
    ),
    _aten.nonzero.default: ("nonzero() finds every element", _nonzero),
    _aten.masked_select.default: ("masked_select() keeps every element", _masked_select),
    UNIQUE: ("unique() finds no duplicates", _unique),
}

_KEEP_THEIR_BUFFER = {
    _aten.mse_loss.default: 2,
    _aten.smooth_l1_loss.default: 2,
    _aten.soft_margin_loss.default: 2,
    _aten.binary_cross_entropy.default: 3,
}
"""Losses whose scalar shares the storage of the unreduced loss, and where ``reduction`` stands.

Their output is made at full size and then resized to a scalar, which keeps the storage. Fake
tensors run a decomposition that does not.
"""

_UNSIZED: dict[Any, str] = {
    _aten.mkldnn_rnn_layer.default: (
        "the workspace of recurrent layers on the CPU is excluded: its size is unknown before it "
        "runs"
    ),
}
"""Operators of which a part of the memory has no known size."""

UNSIZED = frozenset(_UNSIZED.values())
