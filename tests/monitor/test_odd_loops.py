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


def nested(every: int, other: int | None, optimizers: int = 1) -> list[TrainingMonitor]:
    """A training with one monitor, or with a second one whose ``parts`` cut those of the first."""
    torch.manual_seed(0)
    model = mlp()
    held = list(model.parameters())
    groups = [held] if optimizers == 1 else [held[:2], held[2:]]
    updates = [torch.optim.SGD(group, lr=0.05) for group in groups]
    first = TrainingMonitor(model, updates[0], batch_size=8, every=every)
    monitors = [first]
    if other is not None:
        monitors.append(TrainingMonitor(model, updates[-1], batch_size=8, every=other))
    for batch in batches(8, count=90):
        model.zero_grad()
        for part, share in first.parts(batch):
            for piece, fraction in monitors[1].parts(part) if other else [(part, 1.0)]:
                loss = loss_of(model, piece)
                (share * (fraction * loss)).backward()
        for optimizer in updates:
            optimizer.step()
        for monitor in monitors:
            monitor.step(loss)
    return monitors


@pytest.mark.parametrize("other", [5, 6, 7, 10])
def test_a_monitor_within_the_parts_of_another_changes_nothing_for_it(other: int) -> None:
    (alone,) = nested(5, None)
    first, second = nested(5, other)
    assert first.caveats == ()
    assert first.noise_scale is not None and alone.noise_scale is not None
    assert first.noise_scale.value == pytest.approx(alone.noise_scale.value, rel=1e-3)
    assert second.noise_scale is not None
    assert {each.code for each in second.caveats} <= {"monitor.irregular"}
    assert first.samples == second.samples == 90 * 8


def test_two_optimizers_of_one_model_have_a_monitor_each() -> None:
    for monitor in nested(5, 5, optimizers=2):
        assert monitor.noise_scale is not None
        assert monitor.caveats == ()


def test_a_part_with_two_backward_passes_is_one_micro_batch() -> None:
    def watched(apart: bool) -> TrainingMonitor:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        monitor = TrainingMonitor(model, optimizer, batch_size=8, every=5)
        for batch in batches(8, count=60):
            optimizer.zero_grad()
            for part, share in monitor.parts(batch):
                losses = [loss_of(model, part), model(part[0]).square().mean()]
                for loss in losses if apart else [losses[0] + losses[1]]:
                    if apart:
                        model(part[0])  # a forward pass between the two
                    (share * loss).backward()
            optimizer.step()
            monitor.step(loss)
        return monitor

    one, two = watched(False), watched(True)
    assert two.caveats == ()
    assert one.noise_scale is not None and two.noise_scale is not None
    assert two.noise_scale.value == pytest.approx(one.noise_scale.value, rel=1e-3)


def test_a_step_of_one_batch_amid_accumulation_is_named_as_that() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = TrainingMonitor(model, optimizer, batch_size=8, every=2)
    stream = batches(8, count=60)
    for step in range(1, 41):
        optimizer.zero_grad()
        for _ in range(1 + step % 2):
            for part, share in monitor.parts(next(stream)):
                loss = loss_of(model, part)
                (share * loss).backward()
        optimizer.step()
        monitor.step(loss)
    assert monitor.noise_scale is None
    (said,) = monitor.caveats
    assert said.code == "monitor.irregular"
    assert "step before had 2 backward passes, this one had one" in str(said)


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
