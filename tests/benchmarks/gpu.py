"""On one GPU, in at most eight minutes: is what is found what trains, and what does it cost?

Three trainings (a ResNet-50 and a GPT-2 small by their sizes, a denoising UNet) under 16 and 24 GB
and the whole card, with and without expandable segments. For each: the size found and its seconds,
the failures met, the size that trains by bisection with plain steps outside of the library, and
whether 100 further steps run at the recommended size. Beside it, under the same cap of the
allocator: Lightning's two modes and Accelerate. And one whole call, stage by stage, with joules per
sample. It reports and asserts nothing; what fails is a row that says so::

    python tests/benchmarks/gpu.py            on a GPU; also saves gpu_results.json
    python tests/benchmarks/gpu.py --tiny     the same in small, on a CPU, to try the script
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gpu_maxima import Case, Language, Made, image, next_word_loss, residual_network, text
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

import batchfinder
from batchfinder.run.memory import backend_for, memory_limit
from batchfinder.run.oom import Verdict, classify

SECONDS = 480.0
STEPS, TRUTH_STEPS, RIVAL_STEPS = 100, 5, 3
EXPANDABLE = "expandable_segments:True"
_STARTED = time.monotonic()


class Denoiser(nn.Module):
    """A UNet of three levels that takes noise off pictures; about 20 M parameters at width 128."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(
            self._block(a, b) for a, b in itertools.pairwise((width, *widths))
        )
        self.up = nn.ModuleList(
            self._block(a + b, b)
            for a, b in zip((widths[2], widths[1]), (widths[1], widths[0]), strict=True)
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
        )

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        values, kept = self.first(noisy), []
        for block in self.down:
            values = block(values)
            kept.append(values)
            values = functional.avg_pool2d(values, 2)
        values = functional.interpolate(values, scale_factor=2.0)
        for block, beside in zip(self.up, (kept[1], kept[0]), strict=True):
            values = functional.interpolate(values, size=beside.shape[-2:])
            values = block(torch.cat((values, beside), 1))
        return self.last(values)


def picture(side: int) -> Any:
    return torch.zeros(3, side, side), torch.zeros(3, side, side)


def cases(tiny: bool) -> tuple[Case, ...]:
    limits = ("48MiB",) if tiny else ("16GB", "24GB", "")
    network = (
        functools.partial(residual_network, (1, 1), 8)
        if tiny
        else functools.partial(residual_network, (3, 4, 6, 3), 64)
    )
    size = (500, 32, 2, 2, 64) if tiny else (50257, 768, 12, 12, 1024)
    language = functools.partial(Language, *size)
    half = torch.bfloat16
    return (
        Case(
            "resnet50",
            network,
            functools.partial(image, 32 if tiny else 224),
            limits,
            functional.cross_entropy,
            half,
        ),
        Case(
            "gpt2",
            language,
            functools.partial(text, 64 if tiny else 1024),
            limits,
            next_word_loss,
            half,
        ),
        Case(
            "unet",
            functools.partial(Denoiser, 8 if tiny else 128),
            functools.partial(picture, 16 if tiny else 64),
            limits,
            functional.mse_loss,
            half,
        ),
    )


@dataclasses.dataclass
class Training:
    """One case on the device, as somebody would write it."""

    case: Case
    device: torch.device

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = self.case.model().to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.loader = DataLoader(Made(self.case.sample, 1 << 16), batch_size=8)

    def step(self, size: int) -> None:
        parts = [part.to(self.device) for part in self.case.sample()]
        inputs, target = (part.expand(size, *part.shape).contiguous() for part in parts)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.case.autocast):
            loss = self.case.loss(self.model(inputs), target)
        loss.backward()
        self.optimizer.step()


def released(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@contextmanager
def cap(limit: str, device: torch.device) -> Iterator[None]:
    """The same for everybody: of the process, what it holds outside of the allocator included."""
    if not limit:
        yield
        return
    with memory_limit(limit, device):
        yield


def runs(training: Training, limit: str, size: int, steps: int) -> bool:
    """Whether plain steps at ``size`` run, from a released cache."""
    failed = False
    released(training.device)
    try:
        with cap(limit, training.device):
            for _ in range(steps):
                training.step(size)
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
    """The largest size that trains, by bisection around ``near``, to half a per cent."""
    low, high = near, max(near + 1, round(1.06 * near))
    if not runs(training, limit, low, TRUTH_STEPS):
        low, high = max(1, round(0.7 * near)), near
    while runs(training, limit, high, TRUTH_STEPS):
        low, high = high, max(high + 1, round(1.1 * high))
    while high - low > max(1, low // 200):
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
        loss_fn=case.loss,
        optimizer=training.optimizer,
        autocast=case.autocast,
        memory_limit=limit or None,
        observe=lambda event: None,
    )
    seconds = time.perf_counter() - started
    largest, memory = result.max_batch_size, result.memory
    room = (1 - 0.05) * memory.limit_bytes - memory.fixed_bytes
    recommended = max(1, min(largest, int(room / max(memory.per_sample_bytes, 1))))
    backend_for(device, limit or None).release()
    said = {
        "found": largest,
        "seconds": round(seconds, 1),
        "trials": [
            (t.batch_size, t.outcome.name, t.retries, t.peak_bytes, t.reserved_bytes)
            for t in result.trials
        ],
        "with_ddp": result.max_batch_size_with_ddp,
        "caveats": list(map(str, result.caveats)),
        "recommended": recommended,
        "held": runs(training, limit, recommended, STEPS if device.type == "cuda" else 3),
    }
    said["truth"] = truth(training, limit, largest)
    said["found/true"] = round(largest / said["truth"], 3)
    return said


def lightning(mode: str, case: Case, device: torch.device, limit: str) -> dict[str, Any]:
    import lightning.pytorch as pl
    from lightning.pytorch.tuner import Tuner

    training = Training(case, device)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.batch_size = training.model, 2

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            inputs, target = batch
            with torch.autocast(device.type, case.autocast):
                return case.loss(self.net(inputs), target)

        def configure_optimizers(self) -> Any:
            return training.optimizer

        def train_dataloader(self) -> Any:
            return DataLoader(Made(case.sample, 1 << 16), batch_size=self.batch_size)

    module = Module()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, cap(limit, device):
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        Tuner(trainer).scale_batch_size(
            module, mode=mode, steps_per_trial=RIVAL_STEPS, max_trials=8 if limit == "48MiB" else 25
        )
    return {"found": module.batch_size, "seconds": round(time.perf_counter() - started, 1)}


def accelerate(case: Case, device: torch.device, limit: str) -> dict[str, Any]:
    from accelerate.utils import find_executable_batch_size

    training = Training(case, device)
    started = time.perf_counter()

    @find_executable_batch_size(starting_batch_size=1024)
    def train(batch_size: int) -> int:
        for _ in range(RIVAL_STEPS):
            training.step(batch_size)
        return batch_size

    with cap(limit, device):
        size = train()
    return {"found": size, "seconds": round(time.perf_counter() - started, 1)}


def whole_call(case: Case, device: torch.device, limit: str) -> dict[str, Any]:
    training = Training(case, device)
    started = time.perf_counter()
    report = batchfinder.find_batch_size(
        training.model,
        training.loader,
        loss_fn=case.loss,
        optimizer=training.optimizer,
        autocast=case.autocast,
        memory_limit=limit or None,
        budget_seconds=20 if device.type == "cpu" else None,
        observe=lambda event: None,
    )
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "stages": {name: round(taken, 1) for name, taken in report.seconds},
        "batch_size": report.batch_size,
        "max_batch_size": report.max_batch_size,
        "timed": [
            (m.batch_size, round(m.samples_per_second), m.energy and m.energy.joules_per_sample)
            for m in report.measurements
        ],
        "restored": report.state_restored,
        "caveats": list(map(str, report.caveats)),
    }


def cell(name: str, work: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """One cell of the table; what failed is recorded, and what there is no time for."""
    if time.monotonic() - _STARTED > SECONDS:
        row: dict[str, Any] = {"cell": name, "skipped": "no time left"}
    else:
        try:
            row = {"cell": name, **work()}
        except Exception as error:  # noqa: BLE001  # a benchmark goes on
            last = traceback.format_exc().splitlines()[-6:]
            row = {"cell": name, "failed": f"{type(error).__name__}: {error}"[:300], "at": last}
    try:
        released(device)
    except RuntimeError as error:
        row["after"] = str(error)[:200]
    short = {key: value for key, value in row.items() if key not in ("trials", "at", "caveats")}
    print(json.dumps(short, default=str), flush=True)
    return row


def rows(device: torch.device, tiny: bool, only_found: bool) -> Iterator[dict[str, Any]]:
    if only_found:  # in the process whose allocator has other settings
        label = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
        for case in cases(tiny):
            work = functools.partial(found, case, device, "24GB")
            yield cell(f"{case.name} 24GB {label}", work, device)
        return
    for case in cases(tiny):
        for limit in case.limits:
            work = functools.partial(found, case, device, limit)
            yield cell(f"{case.name} {limit or 'whole card'}", work, device)
    limit = "48MiB" if tiny else "24GB"
    for case in cases(tiny)[:1]:
        call = functools.partial(whole_call, case, device, limit)
        yield cell(f"{case.name} {limit} whole call", call, device)
        for name, rival in (
            ("Accelerate", accelerate),
            ("Lightning binsearch", functools.partial(lightning, "binsearch")),
            ("Lightning power", functools.partial(lightning, "power")),
        ):
            work = functools.partial(rival, case, device, limit)
            yield cell(f"{case.name} {limit} {name}", work, device)


def expandable(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """The same searches in a process whose allocator has expandable segments."""
    path = folder / "expandable.json"
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": EXPANDABLE}
    command = [sys.executable, __file__, "--only-found", "--seconds", str(seconds)]
    subprocess.run([*command, "--save", str(path)], env=environment, check=False)
    return json.loads(path.read_text())["rows"] if path.exists() else []


def main() -> None:
    global SECONDS  # noqa: PLW0603  # set once, by the command line
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only-found", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--save", type=Path, default=Path("gpu_results.json"))
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available() and not options.tiny
    device = torch.device("cuda" if on_gpu else "cpu")
    name = torch.cuda.get_device_name() if on_gpu else platform.machine()
    print(f"{name}, torch {torch.__version__}{', in small' if options.tiny else ''}", flush=True)
    # a quarter of the time is for the process with expandable segments
    SECONDS = options.seconds * (0.75 if on_gpu and not options.only_found else 1.0)
    done: list[dict[str, Any]] = []

    def save() -> None:
        done_so_far = {"device": name, "torch": torch.__version__, "rows": done}
        options.save.write_text(json.dumps(done_so_far, indent=1, default=str))

    for row in rows(device, options.tiny, options.only_found):
        done.append(row)
        save()
    if on_gpu and not options.only_found:
        with tempfile.TemporaryDirectory() as folder:
            left = options.seconds - (time.monotonic() - _STARTED) - 10
            if left > 20:
                done.extend(expandable(Path(folder), left))
    save()
    print(f"saved {options.save}; {time.monotonic() - _STARTED:.0f} s in all")


if __name__ == "__main__":
    main()
