"""The precision and the settings that a training runs with, as they are seen while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from batchfinder.run.torch_internals.compiler import uses_cuda_graphs

__all__ = ["SeenPrecision", "settings_of"]


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
