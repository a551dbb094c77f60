"""A study on engines of other processes: the same cells, bit for bit, as in turn."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest
import torch
from compare_cases import data
from torch import nn
from torch.utils.data import DataLoader

from batchfinder.compare import Comparison, Ending, compare_batch_sizes
from batchfinder.errors import InvalidArgument, TrainingFailed
from batchfinder.training import Training


def loader(size: int) -> DataLoader:
    return DataLoader(data(), batch_size=size, shuffle=True)


def linear(rate: float = 0.05) -> Training:
    model = nn.Linear(3, 1)
    return Training(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate))


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def study(executor=None, sizes=(8, 32), make_training=linear, **changed) -> Comparison:
    options = {
        "loss_fn": nn.functional.mse_loss,
        "seeds": 2,
        "epochs": 2,
        "looks": 4,
        "base_batch_size": 8,
        **changed,
    }
    return compare_batch_sizes(make_training, loader, sizes, executor=executor, **options)


def learned(found: Comparison) -> list:
    """Everything but the seconds."""
    return [
        (
            *(cell.batch_size, cell.learning_rate, cell.seed, cell.ending, cell.peak_bytes),
            *((look.step, look.samples, look.train_loss) for look in cell.curve),
        )
        for cell in found.cells
    ]


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.mark.slow
def test_processes_give_the_cells_of_a_study_in_turn(pool) -> None:
    assert learned(study(pool)) == learned(study())
    assert all(cell.host for cell in study(pool, seeds=1).cells)


@pytest.mark.slow
def test_loky_takes_lambdas() -> None:
    loky = pytest.importorskip("loky")
    with loky.ProcessPoolExecutor(2) as executor:
        found = study(executor, make_training=lambda: linear(0.05), seeds=1)
    assert learned(found) == learned(study(seeds=1))


@pytest.mark.slow
def test_dask_on_loopback() -> None:
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),  # it holds frames' tensors
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor(pure=False) as executor,
    ):
        found = study(executor, seeds=1)
    assert learned(found) == learned(study(seeds=1))


def test_threads_of_this_process_are_refused() -> None:
    with ThreadPoolExecutor(2) as executor, pytest.raises(InvalidArgument, match="share random"):
        study(executor)


def broken() -> Training:
    if os.getpid() != CALLER:
        raise ValueError("mine")
    return linear()


CALLER = int(os.environ.setdefault("BATCHFINDER_TEST_CALLER", str(os.getpid())))


@pytest.mark.slow
def test_the_users_error_comes_with_its_traceback(pool) -> None:
    with pytest.raises(TrainingFailed, match="ValueError: mine") as caught:
        study(pool, make_training=broken)
    assert "in broken" in str(caught.value)


def dies(path: str) -> Training:
    if os.getpid() != CALLER and torch.initial_seed() == 1:
        os._exit(1)
    return linear()


@pytest.mark.slow
def test_a_dead_worker_is_a_lost_training_and_not_a_lost_study(tmp_path) -> None:
    results = tmp_path / "cells.jsonl"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        found = study(executor, make_training=partial(dies, ""), results=results)
    assert {cell.ending for cell in found.cells if cell.seed == 1} == {Ending.LOST}
    assert any("lost with their workers" in caveat for caveat in found.caveats)
    kept = len(results.read_text().splitlines())
    assert kept == sum(cell.ending is not Ending.LOST for cell in found.cells)
    again = study(results=results)
    assert all(cell.ending is Ending.FINISHED for cell in again.cells)


@pytest.mark.slow
def test_what_the_budget_left_out_is_not_handed_in(pool) -> None:
    found = study(pool, budget_seconds=1e-9)
    assert found.cells == ()
    assert any("no time was left" in caveat for caveat in found.caveats)
