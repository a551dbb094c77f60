"""Mixed precision and other settings, as they are given and as they are seen while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.run.torch_internals.compiler import uses_cuda_graphs
from batchfinder.wording import Caveat

__all__ = [
    "Context",
    "SeenPrecision",
    "context_for",
    "precision_of",
    "scaler_caveat",
    "settings_of",
]


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


class SeenPrecision:
    """The autocast dtype in force where modules with parameters run, in the first forward pass.

    A step may enter autocast by itself, or the model's forward may; both are seen from inside.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], device: torch.device) -> None:
        self.dtype: torch.dtype | None = None
        self._modules = list(modules)
        self._device = device
        self._has_looked = False

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look once, at the first pass inside; hooks are gone afterwards."""
        if self._has_looked:
            yield
            return
        self._has_looked = True
        handles = [
            module.register_forward_pre_hook(self._note)
            for each in self._modules
            for module in each.modules()
            if not isinstance(module, torch.jit.ScriptModule)
            and any(True for _ in module.parameters(recurse=False))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, module: torch.nn.Module, inputs: Any) -> None:
        del module, inputs
        if self.dtype is None and torch.is_autocast_enabled(self._device.type):
            self.dtype = torch.get_autocast_dtype(self._device.type)


def settings_of(
    modules: Iterable[torch.nn.Module], device: torch.device, *, is_compiled: bool
) -> tuple[tuple[str, str], ...]:
    """Settings that change times and memory, by name, where they are on."""
    found = []
    if is_compiled:
        found.append(("torch.compile", "on"))
        if uses_cuda_graphs():
            found.append(("CUDA graphs", "on"))
    if any(_is_channels_last(p) for module in modules for p in module.parameters()):
        found.append(("memory format", "channels_last"))
    if device.type == "cuda":
        if torch.backends.cudnn.benchmark:
            found.append(("cuDNN benchmark", "on"))
        if torch.get_float32_matmul_precision() != "highest":
            found.append(("TF32", "on"))
    return tuple(found)


def _is_channels_last(parameter: torch.Tensor) -> bool:
    if parameter.dim() != 4 or parameter.layout is not torch.strided:
        return False
    last = parameter.is_contiguous(memory_format=torch.channels_last)
    return last and not parameter.is_contiguous()
