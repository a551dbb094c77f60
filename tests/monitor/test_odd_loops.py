"""Loops in which more happens than one backward pass over each batch."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from monitor_cases import batches, loss_of, mlp, train
from torch import nn

from batchfinder import TrainingMonitor
from batchfinder.monitor import Kind


def test_two_models_that_train_in_turn_are_both_measured() -> None:
    """The generator's loss goes through the discriminator: no update of that is made of it."""
    generator, discriminator = mlp(), nn.Linear(3, 1)
    of_generator = torch.optim.Adam(generator.parameters())
    of_discriminator = torch.optim.Adam(discriminator.parameters())
    first = TrainingMonitor(discriminator, of_discriminator, batch_size=8, every=4)
    second = TrainingMonitor(generator, of_generator, batch_size=8, every=4)
    for batch in batches(8, count=70):
        of_discriminator.zero_grad()
        for part, share in first.parts(batch):
            loss = (discriminator(generator(part[0]).detach()) - 1).square().mean()
            (loss * share).backward()
        of_discriminator.step()
        first.step(loss)
        of_generator.zero_grad()
        for part, share in second.parts(batch):
            loss = discriminator(generator(part[0])).square().mean()
            (loss * share).backward()
        of_generator.step()
        second.step(loss)
    for monitor in (first, second):
        assert monitor.noise_scale is not None
        assert monitor.caveats == ()


@pytest.mark.parametrize("handed_out", [False, True])
@pytest.mark.parametrize("to_none", [False, True])
def test_one_batch_taken_several_times_is_no_accumulation(handed_out: bool, to_none: bool) -> None:
    """LBFGS calls its closure again and again: the passes differ in the weights alone."""
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=4)
    monitor = TrainingMonitor(model, optimizer, batch_size=8, every=2)
    for batch in batches(8, count=30):

        def closure(batch: tuple[torch.Tensor, ...] = batch) -> torch.Tensor:
            optimizer.zero_grad(set_to_none=to_none)
            for part, share in monitor.parts(batch) if handed_out else [(batch, 1.0)]:
                loss = loss_of(model, part)
                (loss * share).backward()
            return loss

        monitor.step(optimizer.step(closure))
    assert monitor.noise_scale is None
    assert [each.code for each in monitor.caveats] == ["monitor.taken_anew"]


def test_accumulation_that_begins_with_a_gradient_of_zero_is_counted() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = TrainingMonitor(model, optimizer, batch_size=16, every=2)
    for batch in batches(16, count=30):
        optimizer.zero_grad(set_to_none=False)
        for part, factor in ((batch, 0.0), (batch, 1.0), (batch, 1.0)):
            (loss_of(model, part) * factor).backward()
        optimizer.step()
        monitor.step(1.0)
    assert monitor.noise_scale is not None
    assert monitor.caveats == ()


def test_everything_frozen_for_a_while_is_no_error_and_no_stall() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = TrainingMonitor(model, optimizer, batch_size=8, every=4)
    train(model, optimizer, monitor, batches(8, count=21))
    model.requires_grad_(False)
    for _ in range(21):
        monitor.step(1.0)
    model.requires_grad_(True)
    train(model, optimizer, monitor, batches(8, count=21))
    assert Kind.STALLED not in {event.kind for event in monitor.events}
    assert monitor.noise_scale is not None


def test_a_copy_of_the_model_made_at_a_look_holds_nothing_of_the_monitor() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = TrainingMonitor(model, optimizer, batch_size=8, every=4)
    train(model, optimizer, monitor, batches(8, count=7))  # the next step is looked at
    assert model._forward_pre_hooks
    file = io.BytesIO()
    torch.save(model, file)
    assert b"batchfinder" not in file.getvalue()
    (inputs, _), *_ = batches(8, count=1)
    for other in (
        copy.deepcopy(model),
        torch.load(io.BytesIO(file.getvalue()), weights_only=False),
    ):
        assert torch.equal(other(inputs), model(inputs))
        assert not any(parameter._backward_hooks for parameter in other.parameters())
