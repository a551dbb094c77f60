"""What the process holds: backend flags and random number generators."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from batchfinder.run.randomness import in_use
from batchfinder.run.state.part import Part
from batchfinder.run.state.plain import copied, is_generator, put_back

__all__ = ["BackendFlags", "GeneratorState", "RandomState", "generators_of"]


_Flag = tuple[str, Callable[[], Any], Callable[[Any], Any]]


class BackendFlags(Part):
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


class RandomState(Part):
    """The process's global generators. A device that was never used is left unused."""

    def __init__(self) -> None:
        self._saved = self._now()

    def _now(self) -> dict[str, Any]:
        now: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available() and in_use(torch.cuda):
            now["cuda"] = torch.cuda.get_rng_state_all()
        if torch.backends.mps.is_available():
            now["mps"] = torch.mps.get_rng_state()
        if hasattr(torch, "xpu") and torch.xpu.is_available() and in_use(torch.xpu):
            now["xpu"] = torch.xpu.get_rng_state_all()
        return now

    def restore(self) -> None:
        random.setstate(self._saved["python"])
        np.random.set_state(self._saved["numpy"])
        torch.set_rng_state(self._saved["torch"])
        if "cuda" in self._saved:
            torch.cuda.set_rng_state_all(self._saved["cuda"])
        if "mps" in self._saved:
            torch.mps.set_rng_state(self._saved["mps"])
        if "xpu" in self._saved:
            torch.xpu.set_rng_state_all(self._saved["xpu"])

    def items(self) -> Iterator[tuple[str, Any]]:
        now = self._now()
        for name in self._saved:
            yield f"random numbers/{name}", now[name]


class GeneratorState(Part):
    """Generators that the user's own objects hold, torch's, NumPy's and Python's."""

    def __init__(self, generators: Iterable[Any]) -> None:
        self._saved = [(each, copied(each)) for each in generators]

    def restore(self) -> None:
        for generator, state in self._saved:
            put_back(generator, state)

    def items(self) -> Iterator[tuple[str, Any]]:
        for number, (generator, _) in enumerate(self._saved):
            yield f"loader's generators/{number}", generator


def generators_of(loader: Any) -> list[Any]:
    """The generators of a loader, its samplers (however nested) and its dataset."""
    found: dict[int, Any] = {}
    queue, seen = [loader], set()
    while queue:
        thing = queue.pop()
        if thing is None or id(thing) in seen:
            continue
        seen.add(id(thing))
        held = list(getattr(thing, "__dict__", {}).values())
        found.update({id(each): each for each in held if is_generator(each)})
        queue += [getattr(thing, name, None) for name in ("sampler", "batch_sampler", "dataset")]
    return list(found.values())
