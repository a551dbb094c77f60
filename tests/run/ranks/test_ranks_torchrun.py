"""The command line under ``torchrun``: one report, printed once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import batchfinder as bf

MAKE = """
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

def make():
    distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4)))
    data = TensorDataset(torch.randn(256, 8), torch.randint(4, (256,)))
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    return model, loader, {"loss_fn": nn.functional.cross_entropy}
"""


@pytest.mark.slow
def test_run_under_torchrun_prints_one_report(tmp_path: Path) -> None:
    (tmp_path / "training.py").write_text(MAKE)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "batchfinder", "run", "training:make", "--at-most", "32", "--no-noise"]
    paths = f"{Path(bf.__file__).parent.parent}{os.pathsep}{tmp_path}"
    done = subprocess.run(
        [sys.executable, *launch, *command, "--json", "--budget-seconds", "5"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "BATCHFINDER_QUIET": "0",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    report = bf.Report.from_json(done.stdout)
    assert report.world_size == 2
    assert [each.rank for each in report.ranks] == [0, 1]
    assert done.stderr.count("2 ranks search together (DistributedDataParallel)") == 1
