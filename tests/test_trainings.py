"""Trainings that are not the tutorial's: the whole call runs, answers, and leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import training_cases as cases

import batchfinder as bf
from batchfinder.noise import MicroBatchVariance
from batchfinder.run.step import step_from
from batchfinder.training import as_list

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "memory_limit": "8MiB",
    "at_most": 32,
    "budget_seconds": 2.0,
    "noise": MicroBatchVariance(warmup_steps=6),
    "observe": lambda event: None,
}


def find(case: dict[str, Any], **options: Any) -> bf.Report:
    arguments = {name: part for name, part in case.items() if name not in ("model", "loader")}
    return bf.find_batch_size(case["model"], case["loader"], **arguments, **{**QUICK, **options})


def weights(case: dict[str, Any]) -> list[Any]:
    states = [model.state_dict() for model in as_list(case["model"])]
    kept = [*as_list(case.get("optimizer")), *case.get("preserve", ())]
    if case.get("grad_scaler") is not None:
        kept.append(case["grad_scaler"])
    return copy.deepcopy([*states, *(each.state_dict() for each in kept)])


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("make", cases.TRAININGS, ids=lambda make: make.__name__)
def test_it_runs_answers_and_leaves_no_trace(make: Callable[[], dict[str, Any]]) -> None:
    torch.manual_seed(0)
    case = make()
    before, numbers = weights(case), torch.get_rng_state()
    report = find(case, noise=None)
    assert report.state_restored
    assert same(weights(case), before)
    assert torch.equal(torch.get_rng_state(), numbers)
    ran = {trial.batch_size for trial in report.trials if trial.fits}
    assert report.max_batch_size in ran
    assert 1 <= report.batch_size <= report.max_batch_size <= 32


@pytest.mark.parametrize("make", [cases.gan, cases.clipped], ids=lambda make: make.__name__)
def test_a_step_with_its_own_updates_has_no_noise_scale_and_says_so(
    make: Callable[[], dict[str, Any]],
) -> None:
    report = find(make())
    assert report.noise_scale is None
    assert any("its own backward and update" in said for said in report.caveats)
    assert all(measured.step_seconds > 0 for measured in report.measurements)


def test_the_noise_scale_says_that_it_does_not_apply_to_a_contrastive_loss() -> None:
    report = find(cases.contrastive())
    assert report.noise_scale is None
    assert any("contrastive" in said for said in report.caveats)


def test_a_loss_that_is_random_in_itself_is_not_taken_for_a_contrastive_one() -> None:
    report = find(cases.diffusion(), noise=MicroBatchVariance(warmup_steps=40), budget_seconds=10)
    assert not any("contrastive" in said for said in report.caveats)


def test_a_batch_norm_is_never_run_on_one_sample() -> None:
    report = find(cases.normalised(), noise=None)
    assert min(trial.batch_size for trial in report.trials) >= 2


def test_a_compiled_transformer() -> None:
    torch._dynamo.reset()
    case = cases.compiled_transformer()
    before = weights(case)
    graphs = torch._dynamo.utils.counters["stats"]
    started = graphs["unique_graphs"]
    report = find(case, noise=None, at_most=8, budget_seconds=20)
    # size 1 is a kind of its own, and the second size makes the dimension dynamic
    assert graphs["unique_graphs"] - started <= 4
    assert report.state_restored
    assert same(weights(case), before)
    assert not any("recompile limit" in said for said in report.caveats)
    torch._dynamo.reset()


def test_activation_checkpointing_is_seen_to_save_memory() -> None:
    def largest(again: bool) -> int:
        case = cases.checkpointed(again)
        loader, model = case.pop("loader"), case.pop("model")
        return bf.max_batch_size(model, loader, memory_limit="3MiB", **case).max_batch_size

    assert largest(True) > 1.5 * largest(False)


def test_only_the_adapters_are_trained() -> None:
    case = cases.adapters()
    step = step_from(case["model"], optimizer=case["optimizer"])
    assert sum(p.numel() for p in step.parameters()) == 2 * (16 + 32) + 2 * (32 + 2)
    assert "bfloat16" not in step.precision
