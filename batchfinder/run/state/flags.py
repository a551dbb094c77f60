"""Process-wide settings of torch that a training step may change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["BackendFlags"]

_Flag = tuple[str, Callable[[], Any], Callable[[Any], Any]]


class BackendFlags:
    """The flags, as far as this torch and machine let them be read; set back only if changed."""

    def __init__(self) -> None:
        self._saved = [
            (flag, value) for flag in _flags() if (value := _read(flag)) is not _UNREADABLE
        ]

    def restore(self) -> None:
        for flag, value in self._saved:
            if _read(flag) != value:
                flag[2](value)

    def items(self) -> Iterator[tuple[str, Any]]:
        for flag, _ in self._saved:
            yield f"flags/{flag[0]}", _read(flag)


_UNREADABLE = object()


def _read(flag: _Flag) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of older flags even when they are only read
        try:
            return flag[1]()
        except (RuntimeError, AttributeError):  # a flag of another version, or mixed old and new
            return _UNREADABLE


def _attribute(holder: Any, name: str) -> _Flag:
    return name, lambda: getattr(holder, name), lambda value: setattr(holder, name, value)


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _flags() -> list[_Flag]:
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    precision = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    return [
        _attribute(cudnn, "enabled"),
        _attribute(cudnn, "benchmark"),
        _attribute(cudnn, "deterministic"),
        _attribute(cudnn, precision),
        _attribute(matmul, precision),
        (
            "matmul precision",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        (
            "deterministic algorithms",
            _deterministic,
            lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
        ),
        ("gradients on", torch.is_grad_enabled, torch.set_grad_enabled),
        ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
        ("threads", torch.get_num_threads, torch.set_num_threads),
        ("anomaly mode", torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    ]
