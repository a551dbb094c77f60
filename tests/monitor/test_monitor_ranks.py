"""Two processes that train together: their micro-batches are counted together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from monitor_cases import exact_moments, mlp

SUPPORT = Path(__file__).parent.parent / "support"


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_ranks_are_the_micro_batches(tmp_path: Path, accumulated: int) -> None:
    root = SUPPORT.parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{root}:{SUPPORT}", "OMP_NUM_THREADS": "1"}
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                str(SUPPORT / "monitor_ranks.py"),
                *(str(rank), "2", str(tmp_path / "store"), str(file), str(accumulated)),
            ],
            env=environment,
        )
        for rank, file in enumerate(files)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    first, second = (json.loads(file.read_text()) for file in files)
    assert first == second, "every rank knows the same"
    signal, trace = exact_moments(mlp())
    assert first["pieces"] == [32], "nothing is split where ranks already differ"
    assert first["noise_trace"] == pytest.approx(trace, rel=0.15)
    assert first["gradient_squared"] == pytest.approx(signal, rel=0.35)
