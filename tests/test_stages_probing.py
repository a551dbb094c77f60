"""The search as a stage: a cache, disturbed trials, child processes, and what ended it."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_stages import loader, network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.probe import runner, stage
from batchfinder.probe.stage import probe_sizes
from batchfinder.progress import silent
from batchfinder.results import Limit, TrialStarted
from batchfinder.run.trial import run_trial
from batchfinder.session import opened
from batchfinder.training import Search, Training
from batchfinder.wording import Caveat


def test_a_cache_is_believed_after_one_trial_and_only_for_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"

    def probe(model: nn.Module) -> bf.ProbeResult:
        return bf.max_batch_size(
            model, loader(), memory_limit="200KiB", search=Search(resolution=0, cache=path)
        )

    first, again = probe(network()), probe(network())
    assert len(again.trials) == 1 < len(first.trials)
    assert again.max_batch_size == first.max_batch_size
    assert (again.memory, again.limited_by) == (first.memory, first.limited_by)
    assert again.memory.per_sample_bytes > 0
    assert "was re-verified with one trial" in again.caveats[-1]
    other = probe(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)))
    assert len(other.trials) > 1


@pytest.mark.parametrize(("seconds", "guesses"), [(None, 1), (10.0, 0)])
def test_no_step_is_rehearsed_where_sizes_are_approached_by_their_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None, guesses: int
) -> None:
    asked = []
    monkeypatch.setattr(stage, "first_guess", lambda *given, **more: asked.append(given))
    with opened(Training(network(), loader()), memory_limit="200KiB", observe=silent) as call:
        found = probe_sizes(call, Search(), step_seconds=seconds)
    assert found.max_batch_size > 64
    assert len(asked) == guesses


def test_only_what_was_made_lately_is_looked_through_for_a_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collected: list[int] = []
    with opened(Training(network(), loader()), memory_limit="200KiB", observe=silent) as call:
        monkeypatch.setattr(gc, "collect", lambda generation=2: collected.append(generation))
        call.bench.fresh()
    assert collected == [1]


def test_what_ended_the_search_is_remembered_too(tmp_path: Path) -> None:
    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 40:
                raise RuntimeError("integer out of range")
            return self.body(x)

    path = tmp_path / "sizes.json"
    first, again = (
        bf.max_batch_size(
            Indexed(), loader(), memory_limit="16MiB", search=Search(resolution=0, cache=path)
        )
        for _ in range(2)
    )
    assert len(again.trials) == 1
    assert first.limited_by is again.limited_by is bf.Limit.INDEX


def test_a_search_cut_short_is_said_with_a_cache_too(tmp_path: Path) -> None:
    report = bf.find_batch_size(
        network(),
        loader(),
        base_learning_rate=0.01,
        memory_limit="16MiB",
        budget_seconds=0.01,
        search=Search(cache=tmp_path / "sizes.json"),
        observe=lambda event: None,
    )
    own = loader().batch_size
    assert [trial.batch_size for trial in report.trials] == [1, own]
    assert report.probe.limited_by is bf.Limit.TIME
    assert any("were not tried" in caveat for caveat in report.caveats)


def test_larger_batches_that_time_forbids_are_said_to_be_limited_by_time() -> None:
    training = Training(network(), loader())
    events: list[Any] = []
    with opened(training, memory_limit="16MiB", observe=events.append) as call:
        found = probe_sizes(call, Search(), step_seconds=1e-9)
    assert found.limited_by is Limit.TIME
    (said,) = found.caveats
    assert isinstance(said, Caveat) and said.code == "probe.time"
    assert said.startswith("larger batches were not tried: a step at ")
    assert [event.batch_size for event in events if isinstance(event, TrialStarted)] == [1, 16]


def test_a_search_that_a_budget_ended_is_limited_by_time() -> None:
    found = bf.max_batch_size(network(), loader(), memory_limit="16MiB", budget_seconds=1e-9)
    assert found.limited_by is Limit.TIME


def test_every_trial_is_announced() -> None:
    events: list[Any] = []
    found = bf.max_batch_size(network(), loader(), memory_limit="200KiB", observe=events.append)
    announced = [event for event in events if isinstance(event, TrialStarted)]
    assert [event.batch_size for event in announced] == [t.batch_size for t in found.trials]
    assert announced[0].expected_seconds is None
    assert all(event.expected_seconds is not None for event in announced[1:])


class Disturbed:
    """Trials of which those at ``size`` are disturbed and end as told, one after the other."""

    def __init__(self, size: int, *outcomes: bf.Outcome, disturbed: int = 1) -> None:
        self.size, self.outcomes, self.disturbed = size, list(outcomes), disturbed

    def __call__(self, *arguments: Any, **options: Any) -> bf.Trial:
        trial = run_trial(*arguments, **options)
        if trial.batch_size != self.size or not self.outcomes:
            return trial
        self.disturbed -= 1
        return replace(trial, outcome=self.outcomes.pop(0), disturbed=self.disturbed >= 0)


@pytest.mark.parametrize(
    ("outcomes", "limit"),
    [
        ((bf.Outcome.FITS, bf.Outcome.OUT_OF_MEMORY), bf.Limit.MEMORY),
        ((bf.Outcome.OUT_OF_MEMORY, bf.Outcome.FITS), bf.Limit.USER),
    ],
)
def test_only_the_repetition_of_a_disturbed_trial_counts(
    outcomes: tuple[bf.Outcome, ...], limit: bf.Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_trial", Disturbed(64, *outcomes))
    found = bf.max_batch_size(network(), loader(), memory_limit="16MiB", at_most=64)
    assert found.limited_by is limit
    assert (found.max_batch_size == 64) is (limit is bf.Limit.USER)
    assert not any("another process" in caveat for caveat in found.caveats)


def test_nothing_fits_where_the_only_success_was_disturbed_and_failed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = (bf.Outcome.FITS, bf.Outcome.OUT_OF_MEMORY)
    monkeypatch.setattr(runner, "run_trial", Disturbed(1, *outcomes))
    with pytest.raises(bf.NothingFits, match="not even a micro-batch of 1"):
        bf.max_batch_size(network(), loader(), memory_limit="16MiB", at_most=1)


def test_a_trial_disturbed_twice_counts_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = (bf.Outcome.OUT_OF_MEMORY, bf.Outcome.OUT_OF_MEMORY)
    monkeypatch.setattr(runner, "run_trial", Disturbed(64, *outcomes, disturbed=2))
    found = bf.max_batch_size(network(), loader(), memory_limit="16MiB", at_most=64)
    assert found.max_batch_size < 64
    assert any("during the trial of batch size 64" in caveat for caveat in found.caveats)


@pytest.mark.slow
def test_isolated_trials_give_the_same_answer() -> None:
    from test_stages import made as importable

    arguments = {"memory_limit": "200KiB", "at_most": 48}
    apart = bf.max_batch_size(network(), loader(), search=Search(isolate=importable), **arguments)
    here = bf.max_batch_size(network(), loader(), **arguments)
    assert apart.max_batch_size == here.max_batch_size


def test_isolation_asks_for_a_function_that_a_child_can_import() -> None:
    with pytest.raises(bf.NotPicklable, match="top level"):
        bf.max_batch_size(
            network(), loader(), search=Search(isolate=lambda: {}), memory_limit="1MiB"
        )


@pytest.mark.parametrize(
    ("limits", "largest", "limit"),
    [
        ({"at_most": 50}, 50, Limit.USER),
        ({"at_most": 50, "multiple_of": 8}, 48, Limit.USER),
        ({"powers_of_two": True}, 64, Limit.DATASET),
    ],
)
def test_a_ceiling_between_the_sizes_that_may_be_tried_is_what_ended_the_search(
    limits: dict[str, Any], largest: int, limit: Limit
) -> None:
    data = TensorDataset(torch.randn(100, 4), torch.randn(100, 1))
    found = bf.max_batch_size(
        nn.Linear(4, 1),
        DataLoader(data, batch_size=4),
        loss_fn=nn.functional.mse_loss,
        memory_limit="256MiB",
        **limits,
    )
    assert (found.max_batch_size, found.limited_by) == (largest, limit)


def test_a_remembered_search_tells_what_an_own_step_takes(tmp_path: Path) -> None:
    search = Search(resolution=0, cache=tmp_path / "sizes.json")
    for trials in (2, 1):
        with opened(
            Training(network(), loader()), memory_limit="200KiB", observe=lambda event: None
        ) as call:
            found = probe_sizes(call, search)
            assert (len(found.trials) == 1) == (trials == 1)
            assert call.budget.own_step_seconds > 0


def made() -> dict[str, Any]:
    """What a child process would build."""
    return {"model": network(), "loader": loader()}


@pytest.mark.parametrize("isolate", [None, made])
def test_sizes_that_ran_in_child_processes_are_tried_here_before_they_are_timed(
    isolate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Timed(Exception):
        """What the timing knew is known."""

    def timing(*arguments: Any, known: dict[int, bf.Trial], **options: Any) -> None:
        sizes.extend(known)
        raise Timed

    def elsewhere(*arguments: Any, **options: Any) -> Any:
        return lambda size: bf.Trial(size, bf.Outcome.FITS, peak_bytes=100_000, step_seconds=0.01)

    sizes: list[int] = []
    monkeypatch.setattr("batchfinder.measure.stage.measure", timing)
    monkeypatch.setattr("batchfinder.probe.stage.IsolatedTrials", elsewhere)
    with pytest.raises(Timed):
        bf.find_batch_size(
            network(),
            loader(),
            base_learning_rate=0.01,
            memory_limit="16MiB",
            at_most=32,
            search=Search(isolate=isolate),
            observe=lambda event: None,
        )
    assert bool(sizes) == (isolate is None)
