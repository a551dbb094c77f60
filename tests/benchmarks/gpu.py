"""On one GPU, in at most eight minutes: is what is found what trains, and what does it cost?

Three trainings (ResNet-50, GPT-2 small, a denoising UNet) under 16 and 24 GB and on the whole card,
with and without expandable segments: the size found and its seconds, the failures met, and the size
that trains, by bisection with plain steps outside of the library. Whole calls on these and on a
small GPT, stage by stage, with joules per sample, and 100 further plain steps at the recommended
size. Beside it, under the same cap of the allocator: Lightning's two modes and Accelerate. It
asserts nothing; what fails is a row that says so::

    python tests/benchmarks/gpu.py            on a GPU; also saves gpu_results.json
    python tests/benchmarks/gpu.py --tiny     the same in small, on a CPU, to try the script
    python tests/benchmarks/gpu.py --quick    whole calls, and what is found under 24 GB
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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from gpu_rivals import accelerate, lightning
from gpu_trainings import Case, Training, cases

import batchfinder
from batchfinder.run.memory import backend_for, memory_limit
from batchfinder.run.oom import Verdict, classify

SECONDS = 480.0
STEPS, TRUTH_STEPS = 100, 4
EXPANDABLE = "expandable_segments:True"
_STARTED = time.monotonic()


def released(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def cap(limit: str, device: torch.device) -> AbstractContextManager[Any]:
    """The same for everybody: of the process, what it holds outside of the allocator included."""
    return memory_limit(limit, device) if limit else nullcontext()


def runs(training: Training, limit: str, size: int, steps: int, accumulated: int = 1) -> bool:
    """Whether plain steps at ``size`` run, from a released cache."""
    failed = False
    released(training.device)
    try:
        with cap(limit, training.device):
            batch = training.batch(size)
            for _ in range(steps * accumulated):
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


def found(case: Case, device: torch.device, limit: str, with_truth: bool) -> dict[str, Any]:
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
    if with_truth:
        said["truth"] = truth(training, limit, largest)
        said["found/true"] = round(largest / said["truth"], 3)
    return said


def whole_call(case: Case, device: torch.device, limit: str) -> dict[str, Any]:
    training = Training(case, device)
    started = time.perf_counter()
    report = batchfinder.find_batch_size(
        training.model,
        training.loader,
        train_step=training.loss,
        optimizer=training.optimizer,
        memory_limit=limit or None,
        budget_seconds=20 if device.type == "cpu" else None,
        observe=lambda event: None,
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
    unsaid = ("trials", "at", "caveats", "report", "explained")
    short = {key: value for key, value in row.items() if key not in unsaid}
    print(json.dumps(short, default=str), flush=True)
    return row


def limits(tiny: bool, quick: bool = False) -> tuple[str, ...]:
    if tiny:
        return ("48MiB",)
    return ("24GB",) if quick else ("24GB", "16GB", "")


def searches(device: torch.device, tiny: bool, quick: bool) -> Iterator[dict[str, Any]]:
    label = " ".join(filter(None, [os.environ.get("PYTORCH_CUDA_ALLOC_CONF")]))
    for limit in limits(tiny, quick):
        for name in ("ResNet-50", "GPT-2 small", "UNet"):
            work = functools.partial(found, cases(tiny)[name], device, limit, not quick)
            yield cell(f"{name}, {limit or 'whole card'} {label}".strip(), work, device)


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


def expandable(folder: Path, seconds: float, quick: bool) -> list[dict[str, Any]]:
    """The same searches in a process whose allocator has expandable segments."""
    path = folder / "expandable.json"
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE}
    command = [sys.executable, __file__, "--only-found", "--seconds", str(seconds)]
    command += ["--quick"] if quick else []
    subprocess.run([*command, "--save", str(path)], env=environment, check=False)
    return json.loads(path.read_text())["rows"] if path.exists() else []


def main() -> None:
    global SECONDS  # noqa: PLW0603  # set once, by the command line
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only-found", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--save", type=Path, default=Path("gpu_results.json"))
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available() and not options.tiny
    device = torch.device("cuda" if on_gpu else "cpu")
    name = torch.cuda.get_device_name() if on_gpu else platform.machine()
    print(f"{name}, torch {torch.__version__}{', in small' if options.tiny else ''}", flush=True)
    # a third of the time is for the process with expandable segments
    whole = options.only_found or not on_gpu
    SECONDS = options.seconds * (1.0 if whole else 0.67)
    done: list[dict[str, Any]] = []

    def save() -> None:
        done_so_far = {"device": name, "torch": torch.__version__, "rows": done}
        options.save.write_text(json.dumps(done_so_far, indent=1, default=str))

    def add(rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            done.append(row)
            save()

    if not options.only_found:
        add(calls(device, options.tiny))
    add(searches(device, options.tiny, options.quick))
    if not options.only_found and not options.quick:
        add(rivals(device, options.tiny))
    if on_gpu and not options.only_found:
        with tempfile.TemporaryDirectory() as folder:
            left = options.seconds - (time.monotonic() - _STARTED) - 10
            if left > 20:
                done.extend(expandable(Path(folder), left, options.quick))
    save()
    print(f"saved {options.save}; {time.monotonic() - _STARTED:.0f} s in all")


if __name__ == "__main__":
    main()
