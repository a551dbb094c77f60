"""Precision and settings as they are, wherever they were switched on; no hook stays behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from batchfinder.run.step import step_from
from batchfinder.run.step.precision import settings_of


class Inside(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x)

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.inner = nn.Linear(4, 3)


def in_the_step(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return functional.cross_entropy(model(batch[0]), batch[1])


def plainly(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("model", "train_step", "expected"),
    [
        (nn.Linear(4, 3), plainly, "float32"),
        (nn.Linear(4, 3), in_the_step, "bfloat16 autocast over float32"),
        (Inside(), plainly, "bfloat16 autocast over float32"),
        (nn.Linear(4, 3).bfloat16(), in_the_step, "bfloat16 autocast over bfloat16"),
    ],
)
def test_autocast_is_seen_from_inside(model, train_step, expected) -> None:
    step = step_from(model, train_step=train_step)
    step.forward_backward((torch.randn(5, 4), torch.randint(3, (5,))))
    assert step.precision == expected
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_no_hook_stays_behind_a_step_that_fails() -> None:
    def fails(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        raise ValueError("planted")

    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="planted"):
        step_from(model, train_step=fails).forward_backward(torch.randn(2, 4))
    assert not model._forward_pre_hooks


def test_settings_that_are_on_are_named() -> None:
    cpu = torch.device("cpu")
    plain = nn.Conv2d(3, 8, 3)
    assert settings_of([plain], cpu, is_compiled=False) == ()
    last = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    assert settings_of([last], cpu, is_compiled=True) == (
        ("torch.compile", "on"),
        ("memory format", "channels_last"),
    )


def test_settings_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = settings_of([], torch.device("cuda"), is_compiled=False)
    finally:
        torch.set_float32_matmul_precision(before)
    assert found == (("cuDNN benchmark", "on"), ("TF32", "on"))


def test_what_was_kept_from_the_compiler_is_not_compiled() -> None:
    from batchfinder.run.torch_internals.compiler import compiled_from, is_compiled_function

    def plain(x: torch.Tensor) -> torch.Tensor:
        return x

    kept = torch.compiler.disable(plain)
    assert compiled_from(kept) is None
    assert not is_compiled_function(kept)
    assert compiled_from(torch.compile(plain, backend="eager")) is plain

    class Answering:
        def __getattr__(self, name: str) -> object:
            return plain

    assert not is_compiled_function(Answering())
