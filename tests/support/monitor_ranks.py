"""One of several processes that train together and are watched; run by a test of the monitor."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from monitor_cases import batches, loss_of, mlp
from torch import distributed

from batchfinder import TrainingMonitor


def main(rank: int, world: int, store: str, out: str, accumulated: int) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world
    )
    model = torch.nn.parallel.DistributedDataParallel(mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = TrainingMonitor(model, optimizer, batch_size=32 * accumulated, every=1, window=100)
    stream = batches(32, seed=rank + 10)
    pieces = set()
    for _ in range(100):
        optimizer.zero_grad()
        for number in range(accumulated):
            batch = next(stream)
            model.require_backward_grad_sync = number == accumulated - 1  # what no_sync() sets
            for part, share in monitor.parts(batch):
                pieces.add(len(part[0]))
                loss = loss_of(model, part)
                (loss * share / accumulated).backward()
        optimizer.step()
        monitor.step(loss)
    noise = monitor.noise_scale
    found = {
        "noise": None if noise is None else [noise.value, noise.low, noise.high],
        "gradient_squared": noise and noise.gradient_squared,
        "noise_trace": noise and noise.noise_trace,
        "pieces": sorted(pieces),
    }
    Path(out).write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
