"""Mixed precision as in the real training: the autocast context and the gradient scaler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.wording import Caveat

__all__ = ["Context", "context_for", "precision_of", "scaler_caveat"]

Context: TypeAlias = Callable[[], AbstractContextManager[Any]]


def context_for(autocast: Any, device: torch.device, scaler: Any) -> Context:
    """What opens the autocast context around a forward pass.

    Args:
        autocast: ``None`` or ``False`` (none), ``True`` (float16 beside a scaler, else bfloat16),
            a dtype, a context manager that can be entered again, or a function that makes one.
        device: where the model is.
        scaler: the gradient scaler, if any.

    Raises:
        InvalidArgument: for anything else.
    """
    if autocast is None or autocast is False:
        return nullcontext
    if autocast is True:
        autocast = torch.float16 if _is_enabled(scaler) else torch.bfloat16
    if isinstance(autocast, torch.dtype):
        dtype = autocast
        return lambda: torch.autocast(device.type, dtype=dtype)
    if isinstance(autocast, AbstractContextManager):
        return lambda: autocast
    if callable(autocast):
        given: Context = autocast
        return given
    raise InvalidArgument(
        "expected autocast to be True, a torch.dtype or a function that makes a context manager; "
        f"found {autocast!r}: pass torch.bfloat16, or leave it out for full precision"
    )


def _is_enabled(scaler: Any) -> bool:
    return scaler is not None and bool(getattr(scaler, "is_enabled", lambda: True)())


def _autocast_dtype(context: Context, device: torch.device) -> torch.dtype | None:
    with context():
        if not torch.is_autocast_enabled(device.type):
            return None
        return torch.get_autocast_dtype(device.type)


def precision_of(
    parameters: Iterable[torch.Tensor],
    context: Context,
    device: torch.device,
    scaler: Any,
    seen: torch.dtype | None = None,
) -> str:
    """``"float32"``, ``"bfloat16 autocast over float32"``, … as the environment says it.

    ``seen`` is the autocast dtype that was in force in a forward pass, whoever entered it.
    """
    dtypes = Counter(str(p.dtype).removeprefix("torch.") for p in parameters)
    stored = " and ".join(name for name, _ in dtypes.most_common())
    dtype = seen or _autocast_dtype(context, device)
    if dtype is None:
        return stored
    scaled = ", scaled" if _is_enabled(scaler) else ""
    return f"{str(dtype).removeprefix('torch.')} autocast over {stored}{scaled}"


def scaler_caveat(context: Context, device: torch.device, scaler: Any) -> tuple[Caveat, ...]:
    """A caveat where float16 runs without a scaler."""
    if _autocast_dtype(context, device) is not torch.float16 or _is_enabled(scaler):
        return ()
    return (Caveat("step.no_scaler"),)
