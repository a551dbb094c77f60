"""The public assertion, and the plugin for pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from memory_cases import FLOAT
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import testing
from batchfinder.errors import InvalidArgument
from batchfinder.results import Outcome, Trial
from batchfinder.run import trial as trials
from batchfinder.run.memory import memory_limit
from batchfinder.testing import assert_fits

ROOT = Path(__file__).parent.parent
WIDTH = 64


def training() -> tuple[torch.nn.Module, DataLoader[tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(512, WIDTH), torch.randint(0, 4, (512,)))
    return torch.nn.Linear(WIDTH, 4), DataLoader(data, batch_size=8, shuffle=True)


def test_what_fits_passes_and_says_its_peak() -> None:
    model, loader = training()
    trial = assert_fits(model, loader, batch_size=64, memory="1MB")
    least = 4 * (WIDTH * 4 + 4) * FLOAT + 64 * WIDTH * FLOAT  # AdamW's state is in it
    assert trial.fits and trial.batch_size == 64
    assert trial.peak_bytes is not None and least < trial.peak_bytes < 10**6


def test_what_does_not_fit_fails_with_the_bytes() -> None:
    model, loader = training()
    with pytest.raises(AssertionError) as raised:
        assert_fits(model, loader, batch_size=512, memory=100_000)
    said = str(raised.value)
    assert said.startswith("expected batch size 512 to fit in 97.7 KiB; found that it ran out of")
    assert re.search(r"it needs \d+\.?\d* KiB or more", said)
    assert "Lower batch_size" in said and "activation checkpointing" in said


def test_what_more_memory_would_not_help_says_so() -> None:
    trial = Trial(2048, Outcome.INDEX_LIMIT, note="grid too large")
    said = testing._message(trial, 2**30)
    assert "expected batch size 2,048 to fit in 1.00 GiB; found that it exceeded an index" in said
    assert "(grid too large). Lower batch_size" in said
    assert "more memory would not help" in said and "checkpointing" not in said


def test_exactly_the_peak_is_enough_and_a_byte_less_is_not() -> None:
    model, loader = training()
    peak = assert_fits(model, loader, batch_size=64, memory="1MB").peak_bytes
    assert peak is not None
    assert_fits(model, loader, batch_size=64, memory=peak)
    with pytest.raises(AssertionError):
        assert_fits(model, loader, batch_size=64, memory=peak - 1)


def test_it_leaves_no_trace() -> None:
    model, loader = training()
    optimizer = torch.optim.Adam(model.parameters())
    before = [parameter.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    assert_fits(model, loader, batch_size=8, memory="1MB", optimizer=optimizer)
    with pytest.raises(AssertionError):
        assert_fits(model, loader, batch_size=512, memory=50_000, optimizer=optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not optimizer.state and torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inside_another_limit_its_own_counts() -> None:
    model, loader = training()
    with memory_limit("10MB"):
        assert_fits(model, loader, batch_size=8, memory="1MB")


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_that_cannot_be_meant(size: int) -> None:
    model, loader = training()
    with pytest.raises(InvalidArgument, match="at least 1"):
        assert_fits(model, loader, batch_size=size, memory="1MB")


def test_a_bug_in_the_model_is_raised_as_itself() -> None:
    _, loader = training()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        assert_fits(torch.nn.Linear(3, 4), loader, batch_size=8, memory="1MB")
    assert any("batch size 8" in note for note in caught.value.__notes__)


def test_another_process_that_took_memory_meanwhile_fails_no_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def run(*arguments: object, **options: object) -> Trial:
        calls.append(1)
        outcome = Outcome.FITS if len(calls) > 1 else Outcome.OUT_OF_MEMORY
        return Trial(8, outcome, disturbed=len(calls) == 1)

    monkeypatch.setattr(trials, "run_trial", run)
    model, loader = training()
    assert assert_fits(model, loader, batch_size=8, memory="1MB").fits
    assert len(calls) == 2


OWN_TESTS = """
import pytest, torch
from torch.utils.data import DataLoader, TensorDataset

def test_fits(assert_fits):
    data = TensorDataset(torch.randn(64, 8), torch.randint(0, 4, (64,)))
    assert_fits(torch.nn.Linear(8, 4), DataLoader(data), batch_size=16, memory="1MB")

def test_fixture(memory_limit):
    with memory_limit("1KiB"), pytest.raises(torch.OutOfMemoryError):
        torch.zeros(1000)

@pytest.mark.memory_limit("1KiB")
def test_marked_too_small():
    torch.zeros(1000)

@pytest.mark.memory_limit("8KiB")
def test_marked_large_enough():
    torch.zeros(1000)

def test_outside():
    torch.zeros(1000)
"""


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    plugins = ("-p", "batchfinder.pytest_plugin", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugins]
    return subprocess.run(
        [*command, *options, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_plugin_in_a_session_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_own.py").write_text(OWN_TESTS)
    done = run_pytest(
        tmp_path,
        "-q",
        "--strict-markers",
        f"--rootdir={tmp_path}",
        "-c",
        str(tmp_path / "pytest.ini"),
    )
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED" in done.stdout and "test_marked_too_small" in done.stdout
    assert "torch.OutOfMemoryError" in done.stdout


@pytest.mark.slow
def test_the_plugin_alone_imports_no_torch_and_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_none.py").write_text(
        "import sys\ndef test_none():\n    assert 'torch' not in sys.modules\n"
    )
    done = run_pytest(tmp_path, "-q", "-c", str(tmp_path / "pytest.ini"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "batchfinder" not in done.stdout and done.stderr == ""
