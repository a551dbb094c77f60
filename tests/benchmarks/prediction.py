"""Predicted peaks compared with those of real steps, and what cannot be predicted.

Of real steps there are two peaks: the ledger's, which counts every tensor that an operator gives or
takes, and torch's profiler's, which sees the temporaries inside of operators too. And against what
was measured on a GPU: the sizes that were found and the peaks of every trial (``gpu.py``).

    python tests/benchmarks/prediction.py

Writes docs/tables/prediction.md and asserts nothing.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from batchfinder.protocols import Setup

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from gpu_trainings import Training, cases
from predict_cases import EXACT, LSTM, Case, loader_of
from torch import nn
from torch.nn import functional

from batchfinder.errors import CannotPredict
from batchfinder.predict import estimate_memory, first_guess, predict_max_batch_size
from batchfinder.predict.allowances import CONTEXT_BYTES, WORKSPACE_BYTES
from batchfinder.predict.rehearsal import rehearsing
from batchfinder.run.batches import source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.step import step_from
from batchfinder.run.trial import run_trial

LIMIT = "96MiB"
MEASURED = Path(__file__).parent.parent / "support" / "peaks_on_an_h200.json"
TABLE = Path(__file__).parent.parent.parent / "docs" / "tables" / "prediction.md"


def measured(case: Case) -> dict[str, Any]:
    """Errors at small sizes and at the maximum, and the seconds that a prediction takes there."""
    model, loader, optimizer = case.build()
    source = source_from(loader)
    step = step_from(model, optimizer=optimizer, sample_batch=source.take(2), **case.options)
    step.prime()
    memory, roomy = backend_for(step.device, LIMIT), backend_for(step.device, 2**34)
    started = time.perf_counter()
    guess = first_guess(Setup(step, source, memory), seconds=math.inf)
    guessing = time.perf_counter() - started
    largest = guess or 32
    errors = []
    with rehearsing(step, source) as rehearsal:
        footprints = {size: rehearsal.at(size) for size in (2, 8, 32, largest)}
        started = time.perf_counter()
        rehearsal.at(largest)
        predicting = time.perf_counter() - started
    for size, footprint in footprints.items():
        trial = run_trial(Setup(step, source, roomy), size, steps=2)
        errors.append(footprint.peak_bytes / trial.peak_bytes - 1)
    footprint = footprints[32]
    held = footprint.at_rest_bytes + footprint.batch_bytes
    inside = footprint.peak_bytes / profiled(step, source.take(32), held) - 1
    return {
        "model": case.name,
        "guess": guess,
        "fits": guess and run_trial(Setup(step, source, memory), guess).fits,
        "next": guess and run_trial(Setup(step, source, memory), guess + 1).fits,
        "error": max(errors, key=abs),
        "profiler": inside,
        "predicting": predicting,
        "guessing": guessing,
        "step": trial.seconds / 2,
    }


def profiled(step: Any, batch: Any, held: int) -> int:
    """The peak of one step by torch's profiler: what it allocates, and ``held`` before it."""
    step.zero_grad()
    gc.collect()
    with torch.profiler.profile(profile_memory=True) as seen:
        step.forward_backward(batch, 1.0)
        step.update()
    step.zero_grad()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return held + max(itertools.accumulate(changes))


def row(found: dict[str, Any]) -> str:
    guess = "none" if found["guess"] is None else str(found["guess"])
    right = {None: "", True: "fits"}.get(found["fits"], "does not fit")
    after = {None: "", True: "fits too"}.get(found["next"], "does not")
    return (
        f"| {found['model']} | {100 * found['error']:+.2f}% | "
        f"{100 * found['profiler']:+.1f}% | {guess} | {right} | {after} | "
        f"{found['predicting']:.2f} s | {found['guessing']:.2f} s | {found['step']:.2f} s |"
    )


# What cannot be followed ------------------------------------------------------------------------


def stepping(body: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def train_step(model: nn.Module, batch: Any) -> torch.Tensor:
        return body(model(batch[0]), batch[1])

    return train_step


HARD: dict[str, Callable[..., torch.Tensor]] = {
    "loss.item()": lambda y, t: y.square().mean() * (1 if y.mean().item() < 9 else 2),
    "if torch.isnan(loss)": lambda y, t: y.sum() if not torch.isnan(y).any() else y.mean(),
    "y[mask]": lambda y, t: y[y > 0].sum(),
    "masked_select": lambda y, t: y.masked_select(y > 0).sum(),
    "nonzero": lambda y, t: y[(t > 0).nonzero().squeeze(1)].sum(),
    "unique": lambda y, t: y.sum() * t.unique().numel(),
    "bincount": lambda y, t: y.sum() * t.bincount().float().mean(),
    "one_hot without classes": lambda y, t: (functional.one_hot(t).sum() * y).sum(),
    "repeat_interleave(tensor)": lambda y, t: y.repeat_interleave(t + 1, 0).sum(),
    "tolist": lambda y, t: y.sum() * sum(t.tolist()),
    "numpy()": lambda y, t: y.sum() * float(t.numpy().mean()),
    "ctc_loss": lambda y, t: functional.ctc_loss(
        y.log_softmax(-1).unsqueeze(0).expand(20, -1, -1),
        t.clamp(min=1).unsqueeze(1),
        torch.full((len(t),), 20),
        torch.ones(len(t), dtype=torch.long),
    ),
    "pack_padded_sequence": lambda y, t: nn.utils.rnn.pack_padded_sequence(
        y.unsqueeze(1).expand(-1, 5, -1), t.clamp(1, 5).cpu(), True, False
    ).data.sum(),
    "torch.linalg.svd": lambda y, t: torch.linalg.svd(y)[1].sum(),
    "torch.fft": lambda y, t: torch.fft.rfft(y).abs().sum(),
}


def hard(name: str) -> str:
    torch.manual_seed(0)
    model = nn.Linear(16, 10)
    loader = loader_of(torch.randn(64, 16), torch.randint(10, (64,)))
    try:
        found = estimate_memory(model, loader, 64, train_step=stepping(HARD[name]))
    except CannotPredict as reason:
        said = str(reason).removeprefix("the training step cannot be traced without real data: ")
        return f"| `{name}` | no | {said[:140].replace('|', '/')} |"
    assumed = "; ".join(found.assumed)
    return f"| `{name}` | {'assumed' if assumed else 'yes'} | {assumed} |"


# Against a GPU ----------------------------------------------------------------------------------


def on_a_gpu() -> str:
    """Predicted from this machine, against what ``gpu.py`` found on the device."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = []
    for each in measured["rows"]:
        case = cases(tiny=False)[each["training"]]
        training = Training(case, torch.device("cpu"))
        given = {"train_step": training.loss, "optimizer": training.optimizer}
        found = predict_max_batch_size(
            training.model, training.loader, memory=each["limit"], **given
        )
        errors = []
        for size, peak in each["peaks"][:: max(1, len(each["peaks"]) - 1)]:
            estimate = estimate_memory(
                training.model, training.loader, size, device="H200", **given
            )
            errors.append((estimate.peak_bytes + CONTEXT_BYTES + WORKSPACE_BYTES) / peak - 1)
        lines.append(
            f"| {each['training']} | {each['limit']} | {each['trains']} | {found.batch_size} "
            f"({found.low}–{found.high}) | {100 * max(errors, key=abs):+.1f}% |"
        )
    return (
        f"Predicted on this CPU machine, against one {measured['device']} (torch "
        f"{measured['torch']}, `python tests/benchmarks/gpu.py`). The last column is the error of "
        "the predicted peak,\ncontext and workspaces included, at the smallest and the "
        "largest size that ran; the worse of the two.\nThe allowance for fragmentation was chosen "
        'on these trainings; none was held out. For the UNet and the character GPT, "trains" is '
        "the largest\nsize that ran in a search, not a bisection; a later search ran the UNet at "
        "163.\n\n"
        "| training | limit | trains | predicted | error of the peak |\n|---|---|--:|--:|--:|\n"
        + "\n".join(lines)
    )


def main() -> None:
    torch.set_num_threads(1)
    estimate_memory(nn.Linear(4, 1), loader_of(torch.randn(8, 4), torch.randn(8, 1)), 2,
                    loss_fn=functional.mse_loss)  # fmt: skip  # loads what torch loads late
    found = [measured(case) for case in (*EXACT, LSTM)]
    errors = [abs(each["error"]) for each in found[: len(EXACT)]]
    lines = "\n".join(map(row, found))
    page = f"""# Predicted memory

Written by `python tests/benchmarks/prediction.py` (torch {torch.__version__}, one thread of a
2-core CPU machine, other work going on). Predicted peak of one step, update included, against the
ledger's of a real one, at batch sizes 2, 8, 32 and the largest in {LIMIT}; the worst of the four.
The ledger is also what a simulated `memory_limit` goes by. It counts every tensor that an operator
takes or gives, and not what a kernel allocates inside of itself; torch's profiler sees that too,
and the third column says how far the prediction is from it at a batch of 32.

| model | ledger | profiler | guess | it | one more | one prediction | guess | one real step |
|---|---|---|---|---|---|---|---|---|
{lines}

Against the ledger the median error is {100 * statistics.median(errors):.3f}%, at most
{100 * max(errors):.3f}%, the LSTM aside: the workspace of the CPU's recurrent kernel has no known
size before it runs, so that no guess is made there.

## Against a GPU

{on_a_gpu()}

## What cannot be followed

| in the training step | followed | what is assumed, or stands in the way |
|---|---|---|
{chr(10).join(map(hard, HARD))}
"""
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
