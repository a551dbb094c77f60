"""Out of memory along the warm-up: smaller micro-batches, or no noise scale, never the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from noise_cases import PlainStep, Population, blobs, cross_entropy, perceptron
from torch import Tensor

from batchfinder.noise import MicroBatchVariance, NoiseFindings, noise_along_warmup


class Crowded(PlainStep):
    """Memory for ``most`` samples beside gradients that are alive, and ``alone`` without."""

    def __init__(
        self, most: int, *, alone: int = 10**6, error: Exception | None = None, **model: Any
    ) -> None:
        model = perceptron(**model)
        super().__init__(model, cross_entropy, torch.optim.SGD(model.parameters(), 0.1, 0.9))
        self.most, self.alone = most, alone
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.sizes: list[int] = []

    def forward_backward(self, batch: tuple[Tensor, ...], scale: float = 1.0) -> Tensor:
        alive = any(parameter.grad is not None for parameter in self.parameters())
        if len(batch[0]) > (self.most if alive else self.alone):
            raise self.error
        self.sizes.append(len(batch[0]))
        return super().forward_backward(batch, scale)


def look(step: PlainStep, **chosen: Any) -> NoiseFindings:
    given = {"base_batch": 32, "micro_batch": 32, "warmup_steps": 40}
    estimator = chosen.pop("estimator", MicroBatchVariance(samples=512))
    return noise_along_warmup(step, Population(*blobs(4096)), estimator=estimator, **given | chosen)


def test_a_walk_that_runs_out_goes_on_with_smaller_micro_batches() -> None:
    step = Crowded(5)
    found = look(step)
    assert found.training is not None
    assert (step.updates, max(step.sizes[-20:])) == (40, 4)
    said = [each for each in found.caveats if "memory ran out" in each]
    assert [each.split(";")[0] for each in said] == [
        "memory ran out with a micro-batch of 16 after 20 warm-up steps",
        "memory ran out with a micro-batch of 8 after 20 warm-up steps",
    ]


def test_every_step_still_trains_on_the_whole_batch() -> None:
    """Up to the samples of the step that failed, which are not drawn again."""
    step = Crowded(5)
    look(step)
    assert sum(step.sizes[-8:]) == 32


def test_a_walk_for_which_one_sample_is_too_much_gives_none() -> None:
    found = look(Crowded(0))
    assert (found.training, found.points, len(found.caveats)) == (None, (), 1)
    assert "a micro-batch of 1, which cannot be made smaller" in found.caveats[0]


def test_an_update_for_which_memory_ends_gives_none() -> None:
    step = Crowded(64)

    def update() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    step.update = update
    found = look(step)
    assert found.training is None
    assert "in the optimizer's update" in found.caveats[0]
    assert all(parameter.grad is None for parameter in step.parameters())


def test_single_sizes_without_room_are_skipped_and_said() -> None:
    longer = {"warmup_steps": 200, "estimator": MicroBatchVariance(samples=2048)}
    found = look(Crowded(32), sizes=(8, 32, 128), **longer)
    assert [each.micro_batch for each in found.per_size] == [8, 32]
    assert found.training is not None
    assert any(
        "at micro-batch size 128: memory ran out with a micro-batch of 128" in each
        for each in found.caveats
    )


def test_single_sizes_take_no_more_than_half_of_the_samples_trained_on() -> None:
    step = Crowded(4096)
    found = look(step, sizes=(8, 32, 1024), warmup_steps=100)
    assert [each.micro_batch for each in found.per_size] == [8, 32]
    assert sum(step.sizes[-sum(each.samples // each.micro_batch for each in found.per_size) :]) <= (
        100 * 32 // 2
    )
    assert max(step.sizes) < 1024


def test_a_look_without_room_is_skipped_and_the_next_is_smaller() -> None:
    step = Crowded(3)
    found = look(step, base_batch=4, micro_batch=4, estimator=MicroBatchVariance(samples=2048))
    assert found.training is not None
    said = [each for each in found.caveats if "memory ran out" in each]
    assert len(said) == 1
    assert "no noise scale after 22 warm-up steps: memory ran out" in said[0]
    assert step.updates == 40


class Whole:
    """An estimator of the user's own, which looks at batches as large as it is given."""

    name = "whole"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def estimate(self, step: Any, batches: Any, plan: Any) -> Any:
        self.sizes.append(plan.micro_batch)
        for batch, _ in zip(batches, range(4), strict=False):
            step.forward_backward(batch)
        return MicroBatchVariance(micro_batches=4, samples=64).estimate(step, batches, plan)


def test_looks_shrink_while_the_training_stays() -> None:
    estimator = Whole()
    found = look(Crowded(16), estimator=estimator)
    assert estimator.sizes == [32, *[16] * 7]
    assert found.training is not None
    assert [each for each in found.caveats if "memory ran out" in each] == [
        "no noise scale after 22 warm-up steps: memory ran out with a micro-batch of 32"
    ]


@pytest.mark.parametrize(("most", "size"), [(5, 4), (0, None)])
def test_without_a_warm_up_the_looks_shrink_too(most: int, size: int | None) -> None:
    found = look(Crowded(most), warmup_steps=0)
    assert (found.training and found.training.micro_batch) == size
    assert any("memory ran out" in each for each in found.caveats)


def test_the_look_at_the_loss_takes_what_there_is() -> None:
    found = look(Crowded(4, alone=4))
    assert found.training is not None


def test_other_errors_are_raised_as_they_are() -> None:
    mistake = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    for chosen in ({}, {"warmup_steps": 0}):
        with pytest.raises(RuntimeError, match="mat1") as caught:
            look(Crowded(4, error=mistake), **chosen)
        assert caught.value is mistake


def test_what_may_be_a_mistake_is_one_at_a_single_sample() -> None:
    doubtful = RuntimeError("Unable to find a valid cuDNN algorithm to run convolution")
    with pytest.raises(RuntimeError, match="cuDNN"):
        look(Crowded(0, error=doubtful))
    assert look(Crowded(4, error=doubtful)).training is not None
