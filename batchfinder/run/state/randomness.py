"""Every source of random numbers: Python's, NumPy's, torch's, the devices', the loader's."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from batchfinder.run.randomness import in_use
from batchfinder.run.state.plain import copied, is_generator, put_back

__all__ = ["GeneratorState", "RandomState", "generators_of"]


class RandomState:
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


class GeneratorState:
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
