"""Two processes that train together on a CPU, and search together.

``python examples/several_processes.py`` starts both; so does
``torchrun --nproc-per-node 2 examples/several_processes.py``. For GPUs, choose the NCCL backend and
move the model to ``cuda:LOCAL_RANK``.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from batchfinder import find_batch_size
from batchfinder.demo import digits


def main() -> None:
    distributed.init_process_group("gloo")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    model = DistributedDataParallel(network)
    dataset = digits()
    loader = DataLoader(dataset, batch_size=16, sampler=DistributedSampler(dataset))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    report = find_batch_size(
        model,
        loader,
        loss_fn=nn.functional.cross_entropy,
        optimizer=optimizer,
        memory_limit="64MiB",  # of this example, to be quick: leave it out
        budget_seconds=30,
    )
    if distributed.get_rank() == 0:
        print(report)
    loader = report.make_loader(loader)
    report.apply_rate(optimizer)
    images, labels = next(iter(loader))
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    print(f"rank {distributed.get_rank()}: a step of {len(labels)} of {report.global_batch_size}")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        main()
    else:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        sys.exit(subprocess.run([*launch, "--standalone", __file__], check=False).returncode)
