"""Prediction against the ledger of a real step, and nothing left behind."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import pytest
import torch
from predict_cases import EXACT, LSTM, PERCEPTRON, Case, loader_of
from torch import nn
from torch.nn import functional

from batchfinder.errors import CannotPredict, InvalidArgument
from batchfinder.predict import estimate_memory, first_guess, predict_max_batch_size
from batchfinder.predict.device_kernels import OTHER_KERNELS
from batchfinder.predict.rehearsal import rehearsing
from batchfinder.protocols import Setup
from batchfinder.run.batches import source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.state.part import digest
from batchfinder.run.step import step_from
from batchfinder.run.trial import run_trial
from batchfinder.units import format_bytes

GIB = 2**30


def set_up(case: Case):
    model, loader, optimizer = case.build()
    source = source_from(loader)
    step = step_from(model, optimizer=optimizer, sample_batch=source.take(2), **case.options)
    step.prime()
    return step, source


def peak_of_a_trial(step, source, size: int) -> int:
    trial = run_trial(Setup(step, source, backend_for(step.device, 8 * GIB)), size)
    assert trial.fits
    return trial.peak_bytes


# Against a real step ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_the_predicted_peak_is_the_ledgers(case: Case) -> None:
    step, source = set_up(case)
    with rehearsing(step, source) as rehearsal:
        predicted = {size: rehearsal.at(size).peak_bytes for size in (3, 24)}
    for size, peak in predicted.items():
        assert peak == pytest.approx(peak_of_a_trial(step, source, size), rel=5e-4)


@pytest.mark.parametrize("case", [EXACT[0], PERCEPTRON], ids=lambda case: case.name)
def test_the_first_guess_fits_and_one_per_cent_more_does_not(case: Case) -> None:
    step, source = set_up(case)
    memory = backend_for(step.device, "16MiB")
    guess = first_guess(Setup(step, source, memory))
    assert run_trial(Setup(step, source, memory), guess).fits
    if guess < source.ceiling:
        above = min(guess + max(guess // 100, 1), source.ceiling)
        assert not run_trial(Setup(step, source, memory), above).fits


def test_no_first_guess_where_a_workspace_is_unknown() -> None:
    step, source = set_up(LSTM)
    assert first_guess(Setup(step, source, backend_for(step.device, "64MiB"))) is None


def test_no_first_guess_and_no_error_where_the_step_cannot_be_followed() -> None:
    model = nn.Linear(4, 3)

    def through_numpy(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch[0]).sum() * float(batch[0].numpy().mean())).square()

    source = source_from(loader_of(torch.randn(64, 4), torch.zeros(64)))
    step = step_from(model, train_step=through_numpy)
    assert first_guess(Setup(step, source, backend_for(step.device, "64MiB"))) is None
    with pytest.raises(CannotPredict, match="without real data: RuntimeError"):
        estimate_memory(
            model, loader_of(torch.randn(64, 4), torch.zeros(64)), 8, train_step=through_numpy
        )


def test_a_limit_below_two_samples_gives_no_guess() -> None:
    step, source = set_up(EXACT[0])
    assert first_guess(Setup(step, source, backend_for(step.device, "600KiB"))) is None


# Nothing left behind ----------------------------------------------------------------------------


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    return {
        "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "identities": [id(p) for p in model.parameters()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "attributes": {n: list(vars(m)) for n, m in model.named_modules()},
        "modes": [module.training for module in model.modules()],
        "random": torch.get_rng_state(),
    }


TOUCHED = (EXACT[0], EXACT[3], LSTM)


@pytest.mark.parametrize("case", TOUCHED, ids=lambda case: case.name)
@pytest.mark.parametrize("trained", [False, True])
def test_everything_is_as_it_was(case: Case, trained: bool) -> None:
    model, loader, optimizer = case.build()
    source = source_from(loader)
    step = step_from(model, optimizer=optimizer, sample_batch=source.take(2), **case.options)
    if trained:
        step.forward_backward(source.take(4))
        step.update()
    before = everything(model, optimizer)
    first_guess(Setup(step, source, backend_for(step.device, "64MiB")))
    after = everything(model, optimizer)
    assert digest(after.items()) == digest(before.items())
    step.forward_backward(source.take(4))  # nothing fake is left in it
    step.update()


class Trainer:
    """A user's own loop, which holds what it was never asked to hand over."""

    def __init__(self, model: nn.Module) -> None:
        self.scaler = torch.amp.GradScaler("cpu")
        self.optimizer = torch.optim.Adam(model.parameters())

    def step(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(model(batch[0]).square().mean()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    __call__ = step


def as_method(trainer: Trainer):
    return trainer.step


def as_object(trainer: Trainer):
    return trainer


def as_partial(trainer: Trainer):
    return functools.partial(Trainer.step, trainer)


def as_closure(trainer: Trainer):
    scaler, optimizer = trainer.scaler, trainer.optimizer

    def train_step(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> None:
        optimizer.zero_grad()
        scaler.scale(model(batch[0]).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    return train_step


@pytest.mark.parametrize("wrapped", [as_method, as_object, as_partial, as_closure])
def test_a_scaler_that_only_the_users_function_knows_stays_unused(wrapped) -> None:
    model = nn.Linear(4, 1)
    trainer = Trainer(model)
    source = source_from(loader_of(torch.randn(64, 4), torch.zeros(64)))
    step = step_from(model, train_step=wrapped(trainer))
    assert first_guess(Setup(step, source, backend_for(step.device, "1MiB"))) is not None
    assert trainer.scaler._scale is None
    assert trainer.optimizer.state == {}
    step.forward_backward(source.take(4))
    assert float(trainer.optimizer.state[model.weight]["step"]) == 1


# What depends on data ---------------------------------------------------------------------------


def counting(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    output = model(batch[0])
    loss = output.square().mean()
    if torch.isnan(loss):
        raise ValueError("NaN")
    return loss * (1 if loss.item() >= 0 else 2)


def masked(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    output = model(batch[0])
    return output[output > -1e9].square().mean()


@pytest.mark.parametrize(
    ("train_step", "sentence"),
    [
        (counting, "numbers read from tensors (.item(), float()) are 1"),
        (masked, "indexing with a mask keeps every element"),
    ],
)
def test_what_depends_on_data_is_assumed_and_said(train_step, sentence: str) -> None:
    model = nn.Linear(32, 64)
    loader = loader_of(torch.randn(64, 32), torch.zeros(64))
    estimate = estimate_memory(model, loader, 50, train_step=train_step)
    assert any(sentence in said for said in estimate.assumed)
    step, source = step_from(model, train_step=train_step), source_from(loader)
    step.prime()
    real = peak_of_a_trial(step, source, 50)
    assert real <= estimate.peak_bytes * 1.001
    assert estimate.peak_bytes <= real * 1.3


def test_a_step_without_such_operators_assumes_nothing() -> None:
    model, loader, optimizer = EXACT[3].build()
    assert estimate_memory(model, loader, 8, optimizer=optimizer).assumed == ()


# The two questions ------------------------------------------------------------------------------


def test_the_parts_of_an_estimate_add_up() -> None:
    model = nn.Linear(100, 10)
    loader = loader_of(torch.randn(64, 100), torch.randint(10, (64,)))
    found = estimate_memory(model, loader, 1000, loss_fn=functional.cross_entropy)
    assert found.parameter_bytes == 4 * (100 * 10 + 10)
    assert found.gradient_bytes == found.parameter_bytes
    assert found.optimizer_bytes == 2 * found.parameter_bytes + 2 * 4  # Adam's means, two counts
    assert found.batch_bytes == 1000 * (100 * 4 + 8)
    at_rest = found.parameter_bytes + found.optimizer_bytes + found.batch_bytes
    assert found.peak_bytes == at_rest + found.working_bytes
    assert "predicted peak at batch size 1,000" in str(found)


def test_memory_for_a_size_that_no_machine_here_could_run() -> None:
    model, loader, optimizer = EXACT[0].build()
    small = estimate_memory(model, loader, 2**10, optimizer=optimizer)
    large = estimate_memory(model, loader, 2**20, optimizer=optimizer)
    assert large.peak_bytes == pytest.approx(2**10 * small.peak_bytes, rel=0.01)
    assert large.peak_bytes > 100 * GIB


@pytest.mark.slow
def test_the_largest_batch_of_an_absent_device() -> None:
    model, loader, optimizer = EXACT[0].build()
    found = predict_max_batch_size(model, loader, device="h200", optimizer=optimizer)
    assert found.memory_bytes == 141 * 10**9
    assert found.low < found.batch_size < found.high
    assert [each.name for each in found.allowances][-1] == "fragmentation"
    assert "Predicted, not run." in str(found)
    set_aside = sum(each.bytes for each in found.allowances)
    assert found.peak_bytes + set_aside == pytest.approx(found.memory_bytes, rel=0.005)
    half = predict_max_batch_size(model, loader, memory="70.5GB", optimizer=optimizer)
    assert half.batch_size == pytest.approx(found.batch_size / 2, rel=0.02)


def test_where_nothing_fits_it_says_so_and_why() -> None:
    model, loader, optimizer = PERCEPTRON.build()
    found = predict_max_batch_size(model, loader, memory="1KiB", optimizer=optimizer)
    one = estimate_memory(model, loader, 1, optimizer=optimizer, device="cuda")
    assert (found.batch_size, found.low, found.high, found.smallest) == (0, 0, 0, 1)
    assert found.peak_bytes == one.peak_bytes
    said = str(found)
    assert said.startswith("Not even a batch of 1 should fit on a device of 1.00 KiB: its step")
    assert format_bytes(one.peak_bytes) in said
    assert "activation checkpointing" in said
    assert "With nothing set aside" not in said
    roomy = str(predict_max_batch_size(model, loader, memory="768MiB", optimizer=optimizer))
    assert "Not even a batch of 1" in roomy and "With nothing set aside up to" in roomy


def test_one_sample_may_fit_where_two_do_not() -> None:
    model, loader, optimizer = PERCEPTRON.build()
    one, two = (
        estimate_memory(model, loader, size, optimizer=optimizer, device="cuda") for size in (1, 2)
    )
    needs = [each.peak_bytes + sum(part.bytes for part in each.unseen) for each in (one, two)]
    enough = sum(needs) // 2
    found = predict_max_batch_size(model, loader, memory=enough, optimizer=optimizer)
    assert found.batch_size == 1


def test_a_batch_norm_is_asked_about_two() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    loader = loader_of(torch.randn(64, 8), torch.randn(64, 1))
    found = predict_max_batch_size(model, loader, memory="1KiB", loss_fn=functional.mse_loss)
    assert found.smallest == 2
    assert "Not even a batch of 2" in str(found)


def test_what_the_dataset_cannot_fill_is_said() -> None:
    model, loader, optimizer = PERCEPTRON.build()
    found = predict_max_batch_size(model, loader, memory="80GB", optimizer=optimizer)
    assert found.dataset_samples == 500
    assert found.batch_size > 500
    assert "The dataset has only 500 samples" in str(found)
    small = replace(found, batch_size=400, low=390, high=1400)
    assert "dataset" not in str(small)
    assert str(small).startswith(
        "400 should fit on a device of 74.5 GiB; the range is 390 to 1,400."
    )
    assert "16,777,216 or more should fit" in str(replace(found, batch_size=1 << 24))


def test_on_a_gpu_dropouts_mask_is_smaller() -> None:
    model = nn.Sequential(nn.Linear(8, 512), nn.Dropout(0.5), nn.Linear(512, 1))
    loader = loader_of(torch.randn(64, 8), torch.randn(64, 1))
    here = estimate_memory(model, loader, 4096, loss_fn=functional.mse_loss)
    there = estimate_memory(model, loader, 4096, device="cuda", loss_fn=functional.mse_loss)
    assert here.peak_bytes - there.peak_bytes >= 3 * 4096 * 512 - 4096
    assert functional.dropout.__module__ == "torch.nn.functional"


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the context works where there is a GPU")
def test_autocast_for_an_absent_gpu_still_halves_what_it_halves() -> None:
    model, loader, optimizer = EXACT[0].build()
    cuda = torch.autocast("cuda", dtype=torch.bfloat16)
    plain, named, context = (
        estimate_memory(model, loader, 64, optimizer=optimizer, device="H200", autocast=autocast)
        for autocast in (None, torch.bfloat16, cuda)
    )
    assert context.peak_bytes == named.peak_bytes < 0.7 * plain.peak_bytes
    assert any(sentence == OTHER_KERNELS for sentence in context.assumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of memory"),
        ({"memory": "8GB", "device": "H200"}, "one of memory"),
        ({"device": "abacus"}, "found 'abacus'"),
        ({"device": "cuda"}, "expected a device among"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, str], message: str) -> None:
    model, loader, _ = PERCEPTRON.build()
    with pytest.raises(InvalidArgument, match=message):
        predict_max_batch_size(model, loader, **options)
