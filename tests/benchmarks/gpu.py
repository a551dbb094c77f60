"""Found and true maxima on one GPU and the cost of a call, in at most eight minutes.

Three trainings (ResNet-50, GPT-2 small, a denoising UNet) under 16 and 24 GB and on the whole card,
with and without expandable segments: the size found and its seconds, the failures met, and the size
that trains, by bisection with plain steps outside of the library. Whole calls on these and on a
small GPT, stage by stage, with joules per sample, and 100 further plain steps at the recommended
size. Beside it, under the same cap of the allocator: Lightning's two modes and Accelerate. It
asserts nothing; what fails is a row that says so::

    python tests/benchmarks/gpu.py            on a GPU; also saves gpu_results.json
    python tests/benchmarks/gpu.py --tiny     the same in small, on a CPU, to try the script
    python tests/benchmarks/gpu.py --parts calls,rivals --limits 24GB     some of it
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from gpu_rivals import accelerate, lightning
from gpu_trainings import Case, Training, cases

import batchfinder
from batchfinder.run.memory import backend_for, memory_limit
from batchfinder.run.oom import Verdict, classify

SECONDS = 480.0
STEPS, TRUTH_STEPS = 100, 4
SETTINGS, EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"
WHOLE = "whole card"
_STARTED = time.monotonic()


def released(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def cap(limit: str, device: torch.device) -> AbstractContextManager[Any]:
    """The same for everybody: of the process, what it holds outside of the allocator included."""
    return memory_limit(limit, device) if limit else nullcontext()


def runs(training: Training, limit: str, size: int, steps: int) -> bool:
    """Whether plain steps at ``size`` run, from a released cache."""
    failed = False
    released(training.device)
    try:
        with cap(limit, training.device):
            batch = training.batch(size)
            for _ in range(steps):
                training.step(batch)
            if training.device.type == "cuda":
                torch.cuda.synchronize()
    except RuntimeError as error:
        if classify(error) is Verdict.OTHER:
            raise
        failed = True
    training.optimizer.zero_grad()
    released(training.device)
    return not failed


def truth(training: Training, limit: str, near: int) -> int:
    """The largest size that trains, by bisection around ``near``, to 1%."""
    low, high = near, max(near + 1, round(1.03 * near))
    if not runs(training, limit, low, TRUTH_STEPS):
        low, high = max(1, round(0.8 * near)), near
    while runs(training, limit, high, TRUTH_STEPS):
        low, high = high, max(high + 1, round(1.06 * high))
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        fits = runs(training, limit, middle, TRUTH_STEPS)
        low, high = (middle, high) if fits else (low, middle)
    return low


def found(case: Case, device: torch.device, limit: str) -> dict[str, Any]:
    training = Training(case, device)
    started = time.perf_counter()
    result = batchfinder.max_batch_size(
        training.model,
        training.loader,
        train_step=training.loss,
        optimizer=training.optimizer,
        memory_limit=limit or None,
        observe=lambda event: None,
    )
    seconds = time.perf_counter() - started
    backend_for(device, limit or None).release()
    largest = result.max_batch_size
    said = {
        "found": largest,
        "seconds": round(seconds, 1),
        "out_of_memory": sum(t.outcome.name == "OUT_OF_MEMORY" for t in result.trials),
        "trials": [
            (t.batch_size, t.outcome.name, t.retries, t.peak_bytes, t.reserved_bytes)
            for t in result.trials
        ],
        "with_ddp": result.max_batch_size_with_ddp,
        "caveats": list(map(str, result.caveats)),
    }
    said["truth"] = truth(training, limit, largest)
    said["found/true"] = round(largest / said["truth"], 3)
    return said


def whole_call(case: Case, device: torch.device, limit: str) -> dict[str, Any]:
    training, events = Training(case, device), []
    started = time.perf_counter()
    report = batchfinder.find_batch_size(
        training.model,
        training.loader,
        train_step=training.loss,
        optimizer=training.optimizer,
        memory_limit=limit or None,
        budget_seconds=20 if device.type == "cpu" else None,
        observe=lambda event: events.append((time.perf_counter() - started, event)),
    )
    seconds = time.perf_counter() - started
    steps = STEPS if device.type == "cuda" else 3
    noise = report.noise_scale
    return {
        "seconds": round(seconds, 1),
        "stages": {name: round(taken, 1) for name, taken in report.seconds},
        "batch_size": report.batch_size,
        "accumulation_steps": report.accumulation_steps,
        "learning_rate": report.learning_rate,
        "max_batch_size": report.max_batch_size,
        "noise_scale": noise and [round(each, 1) for each in (noise.value, noise.low, noise.high)],
        "joules_per_sample": {
            m.batch_size: m.energy and float(f"{m.energy.joules_per_sample:.3g}")
            for m in report.measurements
        },
        "samples_per_second": {
            m.batch_size: round(m.samples_per_second) for m in report.measurements
        },
        f"{steps} further steps": runs(training, limit, report.batch_size, steps),
        "restored": report.state_restored,
        "precision": report.environment.precision,
        "caveats": list(map(str, report.caveats)),
        "report": report.text(100),
        "explained": report.explain(100),
        "events": [(round(at, 2), str(event)[:120]) for at, event in events],
    }


def cell(name: str, work: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """One cell of the table; what failed is recorded, and what there is no time for."""
    if time.monotonic() - _STARTED > SECONDS:
        row: dict[str, Any] = {"cell": name, "skipped": "no time left"}
    else:
        started = time.monotonic()
        try:
            row = {"cell": name, **work(), "in_all": 0.0}
        except Exception as error:  # noqa: BLE001  # a benchmark goes on
            last = traceback.format_exc().splitlines()[-6:]
            row = {"cell": name, "failed": f"{type(error).__name__}: {error}"[:300], "at": last}
        row["in_all"] = round(time.monotonic() - started, 1)
    try:
        released(device)
    except RuntimeError as error:
        row["after"] = str(error)[:200]
    unsaid = ("trials", "at", "caveats", "report", "explained", "events")
    short = {key: value for key, value in row.items() if key not in unsaid}
    print(json.dumps(short, default=str), flush=True)
    return row


def searches(
    device: torch.device, tiny: bool, limits: Sequence[str], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    label = ", expandable segments" if EXPANDABLE in os.environ.get(SETTINGS, "") else ""
    for limit in ("48MiB",) if tiny else limits:
        for name in names:
            given = "" if limit == WHOLE else limit
            work = functools.partial(found, cases(tiny)[name], device, given)
            yield cell(f"{name}, {limit}{label}", work, device)


def calls(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    under = {"ResNet-50": "24GB", "GPT-2 small": "24GB", "UNet": "16GB", "character GPT": "40GB"}
    for name, full in under.items():
        limit = "48MiB" if tiny else full
        work = functools.partial(whole_call, cases(tiny)[name], device, limit)
        yield cell(f"{name}, {limit}, whole call", work, device)


def rivals(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    limit, case = "48MiB" if tiny else "24GB", cases(tiny)["ResNet-50"]
    for name, rival in (
        ("Accelerate", accelerate),
        ("Lightning, binsearch", functools.partial(lightning, "binsearch")),
        ("Lightning, power", functools.partial(lightning, "power")),
    ):

        def work(rival: Any = rival) -> dict[str, Any]:
            with cap(limit, device):
                return rival(case, device)

        yield cell(f"{case.name}, {limit}, {name}", work, device)


def expandable(
    limits: Sequence[str], names: Sequence[str], seconds: float
) -> Iterator[dict[str, Any]]:
    """The same searches in a process whose allocator has expandable segments."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "expandable.json"
        environment = {**os.environ, SETTINGS: EXPANDABLE}
        command = [sys.executable, __file__, "--parts", "searches", "--seconds", str(seconds)]
        command += ["--limits", ",".join(limits), "--trainings", ",".join(names)]
        command += ["--save", str(path)]
        subprocess.run(command, env=environment, check=False)
        if path.exists():
            yield from json.loads(path.read_text())["rows"]


def main() -> None:
    global SECONDS  # noqa: PLW0603  # set once, by the command line
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--parts", default="calls,searches,expandable,rivals")
    parser.add_argument("--limits", default=f"24GB,16GB,{WHOLE}")
    parser.add_argument("--trainings", default="ResNet-50,GPT-2 small,UNet")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--save", type=Path, default=Path("gpu_results.json"))
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available() and not options.tiny
    device = torch.device("cuda" if on_gpu else "cpu")
    name = torch.cuda.get_device_name() if on_gpu else platform.machine()
    print(f"{name}, torch {torch.__version__}{', in small' if options.tiny else ''}", flush=True)
    SECONDS = options.seconds
    limits, names = options.limits.split(","), options.trainings.split(",")
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "calls": lambda: calls(device, options.tiny),
        "searches": lambda: searches(device, options.tiny, limits, names),
        "expandable": lambda: expandable(limits, names, SECONDS - (time.monotonic() - _STARTED)),
        "rivals": lambda: rivals(device, options.tiny),
    }
    done: list[dict[str, Any]] = []
    for part in options.parts.split(","):
        if part == "expandable" and not on_gpu:
            continue
        for row in parts[part]():
            done.append(row)
            saved = {"device": name, "torch": torch.__version__, "rows": done}
            options.save.write_text(json.dumps(saved, indent=1, default=str))
    print(f"saved {options.save}; {time.monotonic() - _STARTED:.0f} s in all")


if __name__ == "__main__":
    main()
