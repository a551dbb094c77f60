"""What is remembered, when it is believed, and when not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from predict_cases import EXACT, PERCEPTRON
from torch import nn

from batchfinder.cache import Recalled, described, probe_remembering, recheck
from batchfinder.errors import InvalidArgument
from batchfinder.probe import SearchSpace, guided, latest, memory_line
from batchfinder.protocols import Setup
from batchfinder.results import Outcome, Trial
from batchfinder.run.batches import source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.step import step_from

SPACE = SearchSpace(limit_bytes=100_000, resolution=0)
WHO = {"model": "a"}


def running(largest: int):
    def run(size: int) -> Trial:
        outcome = Outcome.FITS if size <= largest else Outcome.OUT_OF_MEMORY
        return Trial(size, outcome, min(1000 + size * 99_000 // largest, 100_000))

    return run


def sizes(found: Recalled) -> list[int]:
    """Of the trials that were run now."""
    return [trial.batch_size for trial in found.trials]


def test_a_remembered_size_is_the_answer_after_one_trial(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.json"
    first = probe_remembering(running(300), SPACE, path=path, described=WHO)
    assert len(first.trials) > 3
    assert sizes(probe_remembering(running(300), SPACE, path=path, described=WHO)) == [300]
    assert sizes(probe_remembering(running(300), SPACE, path=path, described=WHO)) == [300]


def test_what_is_said_of_the_memory_rests_on_the_remembered_trials_too(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    first = probe_remembering(running(300), SPACE, path=path, described=WHO)
    again = probe_remembering(running(300), SPACE, path=path, described=WHO)
    assert (first.is_confirmed, again.is_confirmed) == (False, True)
    assert memory_line(again.evidence) == memory_line(first.evidence)
    assert {t.batch_size: t.outcome for t in again.evidence} == {
        t.batch_size: t.outcome for t in first.trials
    }
    assert latest(again.evidence) == again.evidence


def test_the_trial_of_now_outweighs_the_remembered_one(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    probe_remembering(running(300), SPACE, path=path, described=WHO)

    def run(size: int) -> Trial:
        return Trial(size, Outcome.FITS, 77)

    again = probe_remembering(run, SPACE, path=path, described=WHO)
    assert [t.peak_bytes for t in again.evidence if t.batch_size == 300] == [77]


def test_what_no_longer_holds_is_no_evidence(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    probe_remembering(running(300), SPACE, path=path, described=WHO)
    again = probe_remembering(running(200), SPACE, path=path, described=WHO)
    assert again.evidence == again.trials


def test_a_remembered_size_is_believed_only_after_a_trial_that_nothing_disturbed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cache.json"
    probe_remembering(running(300), SPACE, path=path, described=WHO)
    calls: list[int] = []

    def run(size: int) -> Trial:
        calls.append(size)
        first = len(calls) == 1
        return replace(running(300 if first else 200)(size), disturbed=first)

    again = probe_remembering(run, SPACE, path=path, described=WHO)
    assert calls[:2] == [300, 300]
    assert max(t.batch_size for t in latest(again.trials) if t.fits) == 200

    def calm(size: int) -> Trial:
        return replace(running(200)(size), disturbed=True)

    assert sizes(probe_remembering(calm, SPACE, path=path, described=WHO)) == [200, 200]


def test_a_remembered_size_that_no_longer_fits_is_searched_anew_and_replaced(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cache.json"
    probe_remembering(running(300), SPACE, path=path, described=WHO)
    again = probe_remembering(running(200), SPACE, path=path, described=WHO)
    assert sizes(again)[0] == 300
    assert max(trial.batch_size for trial in again.trials if trial.fits) == 200
    assert sizes(probe_remembering(running(200), SPACE, path=path, described=WHO)) == [200]


@pytest.mark.parametrize(
    ("who", "space"),
    [
        ({"model": "b"}, SPACE),
        (WHO, replace(SPACE, limit_bytes=99_999)),
        (WHO, replace(SPACE, ceiling=1000)),
        (WHO, replace(SPACE, resolution=0.02)),
        (WHO, replace(SPACE, multiple_of=2)),
    ],
)
def test_whatever_differs_is_searched(tmp_path: Path, who, space: SearchSpace) -> None:
    path = tmp_path / "cache.json"
    probe_remembering(running(300), SPACE, path=path, described=WHO)
    assert len(sizes(probe_remembering(running(300), space, path=path, described=who))) > 2
    assert sizes(probe_remembering(running(300), SPACE, path=path, described=WHO)) == [300]


def test_a_first_guess_is_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    probe_remembering(running(300), SPACE, path=path, described=WHO)
    guessed = replace(SPACE, first_guess=17)
    assert sizes(probe_remembering(running(300), guessed, path=path, described=WHO)) == [300]


def test_a_search_cut_short_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    cut = probe_remembering(running(300), SPACE, path=path, described=WHO, enough=lambda: True)
    assert sizes(cut) == [1]
    assert not cut.ended
    assert not path.exists()


def test_nothing_fits_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"

    def run(size: int) -> Trial:
        return Trial(size, Outcome.OUT_OF_MEMORY)

    probe_remembering(run, SPACE, path=path, described=WHO)
    assert not path.exists()


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    for text in ('{"mine": 1}', "not JSON", "[]"):
        path.write_text(text)
        with pytest.raises(InvalidArgument, match="choose another path for cache="):
            probe_remembering(running(3), SPACE, path=path, described=WHO)
        assert path.read_text() == text


def test_the_file_says_what_it_remembers(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    probe_remembering(running(3), SPACE, path=path, described=WHO)
    (entry,) = json.loads(path.read_text())["entries"].values()
    assert entry["described"] == WHO
    assert [3, "FITS", 100_000, None] in entry["trials"]
    assert [each.name for each in tmp_path.iterdir()] == ["cache.json"]


def test_recheck_never_passes_the_ceiling() -> None:
    assert recheck(500)([], SearchSpace(ceiling=100)) == 100
    assert recheck(500, then=guided)([Trial(100, Outcome.FITS)], SearchSpace(ceiling=100)) is None


# What must agree --------------------------------------------------------------------------------


def description(model: nn.Module, loader, optimizer, *, limit="64MiB", **options) -> dict[str, str]:
    source = source_from(loader)
    step = step_from(model, optimizer=optimizer, sample_batch=source.take(2), **options)
    memory = backend_for(step.device, limit)
    return described(
        Setup(step, source, memory), functions=[options.get("loss_fn")], versions={"torch": "2"}
    )


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_the_same_twice_is_the_same() -> None:
    assert description(*EXACT[3].build()) == description(*EXACT[3].build())


def test_values_and_rates_do_not_matter() -> None:
    model, loader, optimizer = PERCEPTRON.build()
    before = description(model, loader, optimizer)
    optimizer.param_groups[0]["lr"] = 0.5
    with torch.no_grad():
        model[0].weight.add_(1)
    assert description(model, loader, optimizer) == before


def test_what_decides_memory_does_matter() -> None:
    model, loader, optimizer = PERCEPTRON.build()
    before = description(model, loader, optimizer)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    assert changed(before, description(model, loader, sgd)) == {"optimizer"}
    assert changed(before, description(model, loader, optimizer, limit="32MiB")) == {
        "device",
        "limit",
    }
    half = description(model, loader, optimizer, autocast=torch.bfloat16)
    assert changed(before, half) == {"precision"}
    loss = description(model, loader, optimizer, loss_fn=nn.functional.cross_entropy)
    assert changed(before, loss) == {"code"}
    model[0].weight.requires_grad_(False)
    assert changed(before, description(model, loader, optimizer)) == {"model"}
