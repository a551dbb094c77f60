"""Micro-batches of other ranks count with one's own."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from noise_cases import PlainStep, Population, blobs, cross_entropy, exact_noise_scale, perceptron
from torch import nn

from batchfinder.noise import MicroBatchVariance
from batchfinder.noise.ranks import Exchange, TorchRanks
from batchfinder.noise.sampling import FreshBatches
from batchfinder.results import BatchPlan, NoiseScale

RANKS = 2


class Threads:
    """Ranks that are threads of one process."""

    alone = False
    barrier = threading.Barrier(RANKS, timeout=60)

    def __init__(self, rank: int, shelf: dict[int, np.ndarray]) -> None:
        self.rank, self.shelf = rank, shelf

    def gather(self, rows: np.ndarray) -> np.ndarray:
        self.shelf[self.rank] = rows
        self.barrier.wait()
        together = np.concatenate([self.shelf[rank] for rank in range(RANKS)])
        self.barrier.wait()
        return together


def one_rank(rank: int, exchange: Exchange, model: nn.Module) -> NoiseScale:
    """Rank r looks at every second micro-batch, from the r-th on."""
    source = Population(*blobs(1024))
    source.rewind(3)
    batches = [source.draw(16) for _ in range(64)][rank::RANKS]
    step = PlainStep(model, cross_entropy)
    estimator = MicroBatchVariance(samples=512, narrow_enough=1.2, exchange=exchange)
    return estimator.estimate(step, FreshBatches(batches, 16), BatchPlan(16))


def check(found: list[NoiseScale]) -> None:
    truth, _ = exact_noise_scale(perceptron(), cross_entropy, blobs(1024))
    assert found[0] == found[1]
    assert found[0].samples in range(512, 1025)
    assert found[0].value == pytest.approx(truth, rel=0.25)
    assert found[0].low <= truth * 1.05
    assert math.isfinite(found[0].high)


def test_ranks_agree_and_count_each_others_micro_batches() -> None:
    shelf: dict[int, np.ndarray] = {}
    found: dict[int, NoiseScale] = {}
    models = [perceptron() for _ in range(RANKS)]

    def run(rank: int) -> None:
        found[rank] = one_rank(rank, Threads(rank, shelf), models[rank])

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check([found[rank] for rank in range(RANKS)])


def _process(rank: int, address: str, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{address}", None, RANKS, rank)
    queue.put((rank, one_rank(rank, TorchRanks(), perceptron())))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_over_gloo_agree(tmp_path: Any) -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    address = str(tmp_path / "meeting")
    processes = [
        context.Process(target=_process, args=(rank, address, queue)) for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    check([found[rank] for rank in range(RANKS)])
