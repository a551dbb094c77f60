"""Only sizes that the caller allows reach the step, in every part of the noise stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from noise_cases import PlainStep, Population, blobs, cross_entropy, perceptron
from torch import Tensor, nn

from batchfinder.noise import MicroBatchVariance, NoiseFindings, noise_along_warmup, train_steps
from batchfinder.noise.sampling import cut, nearest_allowed

RULES = {
    "multiples of 4": lambda size: size % 4 == 0,
    "at least 8": lambda size: size >= 8,
    "multiples of 32": lambda size: size % 32 == 0,
    "powers of two": lambda size: size & (size - 1) == 0,
    "at most 32": lambda size: size <= 32,
}


class Picky(PlainStep):
    """Keeps the sizes that it is given; memory ends above ``room``."""

    def __init__(self, model: nn.Module, room: int = 10_000) -> None:
        super().__init__(model, cross_entropy, torch.optim.Adam(model.parameters(), 1e-3))
        self.sizes: set[int] = set()
        self.room = room

    def forward_backward(self, batch: tuple[Tensor, ...], scale: float = 1.0) -> Tensor:
        self.sizes.add(len(batch[0]))
        if len(batch[0]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return super().forward_backward(batch, scale)


def norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))


def look(step: PlainStep, **chosen: Any) -> NoiseFindings:
    given = {"base_batch": 32, "micro_batch": 32, "warmup_steps": 40}
    estimator = chosen.pop("estimator", MicroBatchVariance(samples=1024))
    return noise_along_warmup(step, Population(*blobs(4096)), estimator=estimator, **given | chosen)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [0, 40])
@pytest.mark.parametrize("model", [perceptron, norm])
def test_only_allowed_sizes_reach_the_step(rule: str, steps: int, model: Any) -> None:
    step, allowed = Picky(model()), RULES[rule]
    found = look(step, allowed=allowed, warmup_steps=steps)
    assert found.training is not None
    assert all(allowed(size) for size in step.sizes)


@pytest.mark.parametrize("rule", ["multiples of 4", "at least 8", "powers of two"])
def test_where_memory_runs_out_too(rule: str) -> None:
    step, allowed = Picky(perceptron(), room=12), RULES[rule]
    found = look(step, allowed=allowed, base_batch=48, micro_batch=48, sizes=(8,))
    assert found.training is not None
    assert all(allowed(size) for size in step.sizes - {48})


def test_a_step_that_no_allowed_size_fits_is_left_out_and_said() -> None:
    step = Picky(perceptron(), room=12)
    found = look(step, allowed=lambda size: size % 32 == 0)
    assert found.training is None
    assert "memory ran out with a micro-batch of 32" in found.caveats[0]
    assert step.sizes <= {32, 64}


def test_unmeasured_steps_too() -> None:
    step = Picky(perceptron(), room=12)
    used = train_steps(
        step,
        Population(*blobs(4096)),
        batch=32,
        micro_batch=32,
        steps=5,
        allowed=lambda size: size % 8 == 0,
    )
    assert (used, step.updates) == (8, 5)
    assert all(size % 8 == 0 for size in step.sizes)


def test_a_batch_is_cut_into_allowed_parts_where_it_can_be() -> None:
    assert cut(48, 32, 1, RULES["powers of two"]) == [16, 16, 16]
    assert cut(48, 48, 2, RULES["multiples of 4"]) == [24, 24]
    assert cut(32, 32, 2, RULES["multiples of 32"]) == [32]
    assert cut(100, 64, 1, RULES["multiples of 32"]) == [32, 32, 32]
    assert cut(10, 10, 1, lambda size: size % 16 == 0) == [10]


def test_the_nearest_allowed_size_is_below_where_there_is_one() -> None:
    assert nearest_allowed(30, RULES["multiples of 4"], 64) == 28
    assert nearest_allowed(3, RULES["at least 8"], 64) == 8
    assert nearest_allowed(3, RULES["at least 8"], 3) is None
