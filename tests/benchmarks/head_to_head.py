"""batchfinder and the other finders, on the same models, limits and machine.

    pip install '.[rivals]' && python tests/benchmarks/head_to_head.py

writes docs/tables/head_to_head.md and .json; with ``--finders`` only the rows of those finders are
made anew. It asserts nothing. The device is simulated on the
CPU, by a ledger of live bytes that raises torch.OutOfMemoryError, so that every finder meets the
same limit and the true maximum is known exactly.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from head_to_head_device import Device, Training, runs, true_maximum, watching
from head_to_head_finders import FINDERS, CannotRun, quiet, version_of
from predict_cases import EXACT, LSTM

LIMITS_MIB = (8, 12, 16)
ONLY_AT_MIB = {"Transformers": 12}
"""Its search is Accelerate's, and each failure costs it seconds: one limit shows it."""

CASES = (*EXACT[:5], LSTM)
FURTHER = 100
TABLES = Path(__file__).parent.parent.parent / "docs" / "tables"


def judge(name: str, case: Any, limit: int, largest: int) -> dict[str, Any]:
    """One finder on one model under one limit."""
    row: dict[str, Any] = {"finder": name, "model": case.name, "limit_mib": limit >> 20}
    row["largest"] = largest
    device = Device(limit)
    training = Training(case, device)
    torch.manual_seed(2)
    before, started = training.state(), time.perf_counter()
    try:
        with watching(training.model) as seen:
            found = FINDERS[name][1](training, device)
    except CannotRun as reason:
        return {**row, "absent": str(reason)}
    except Exception as error:  # noqa: BLE001 - how a finder ends is what is reported
        return {**row, "error": f"{type(error).__name__}: {str(error)[:100]}"}
    after = training.state()
    return {
        **row,
        "seconds": time.perf_counter() - started,
        "found": found,
        "was_run": found in seen.sizes,
        "failures": device.failures,
        "cost": seen.rows / largest,
        "changed": [kind for kind in before if before[kind] != after[kind]],
    }


def summary(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """One line of the table over all models and limits."""
    done = [row for row in rows if "found" in row]
    if not done:
        reasons = {row.get("absent") or row.get("error") for row in rows}
        return [name, version_of(FINDERS[name][0]), "; ".join(sorted(map(str, reasons)))] + [""] * 7
    ratios = [row["found"] / row["largest"] for row in done]
    changed = sorted({kind for row in done for kind in row["changed"]})
    return [
        name,
        version_of(FINDERS[name][0]),
        f"{len(done)}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        f"{sum(row['was_run'] for row in done)}/{len(done)}",
        f"{sum(row['survived'] for row in done)}/{len(done)}",
        _spread([row["failures"] for row in done], "g"),
        _spread([row["cost"] for row in done], ".1f"),
        _spread([row["seconds"] for row in done], ".1f"),
        "yes" if not changed else "no: " + ", ".join(changed),
    ]


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({max(values):{form}})"


HEAD = [
    "finder", "version", "cases", "found / true maximum", "was run",
    f"{FURTHER} further steps survived", "out-of-memory trials", "cost in full-size steps",
    "seconds", "state intact",
]  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    names = [name for name in FINDERS if any(row["finder"] == name for row in results)]
    lines = [summary(name, [r for r in results if r["finder"] == name]) for name in names]
    rows = [HEAD, ["---"] * len(HEAD), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def errors(results: list[dict[str, Any]]) -> str:
    """What ended in an error, or could not be asked, in words."""
    said = [
        f"- {r['finder']}, {r['model']}, {r['limit_mib']} MiB: {r.get('error') or r['absent']}"
        for r in results
        if "found" not in r
    ]
    return "\n".join(said) or "- none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finders", nargs="*", default=list(FINDERS))
    parser.add_argument("--models", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--limits", nargs="*", type=int, default=list(LIMITS_MIB))
    parser.add_argument("--out", type=Path, default=TABLES)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = kept(chosen.out / "head_to_head.json", chosen.finders)
    for mib in chosen.limits:
        for case in CASES:
            if case.name in chosen.models:
                results += compare(case, mib << 20, chosen.finders)
                (chosen.out / "head_to_head.json").write_text(json.dumps(results, indent=1) + "\n")
                (chosen.out / "head_to_head.md").write_text(page(results))
    print(table(results))


def kept(path: Path, again: list[str]) -> list[dict[str, Any]]:
    """The rows of earlier calls, but for those of the finders that are run again."""
    earlier = json.loads(path.read_text()) if path.exists() else []
    return [row for row in earlier if row["finder"] not in again]


def compare(case: Any, limit: int, names: list[str]) -> list[dict[str, Any]]:
    largest = true_maximum(case, limit)
    asked = [name for name in names if ONLY_AT_MIB.get(name, limit >> 20) == limit >> 20]
    rows = []
    for name in asked:
        rows.append(judge(name, case, limit, largest))
        print(rows[-1], file=sys.stderr)
    survived = survivors(case, limit, largest, {row["found"] for row in rows if "found" in row})
    return [{**row, "survived": survived[row["found"]]} if "found" in row else row for row in rows]


def survivors(case: Any, limit: int, largest: int, sizes: set[int]) -> dict[int, bool]:
    """Which sizes bear further steps: every one above the maximum, and the largest below it.

    If that one does, so do those smaller than it: memory rises with the size in these models.
    """
    survived: dict[int, bool] = {0: False}
    for size in sorted(sizes - {0}, reverse=True):
        below = [each for each in survived if size < each <= largest and survived[each]]
        survived[size] = bool(below) or runs(case, limit, size, FURTHER, longest=False)
    return survived


def page(results: list[dict[str, Any]]) -> str:
    models = ", ".join(dict.fromkeys(row["model"] for row in results))
    limits = ", ".join(str(mib) for mib in dict.fromkeys(row["limit_mib"] for row in results))
    sizes = sorted({row["largest"] for row in results})
    return f"""# Head to head

Written by `python tests/benchmarks/head_to_head.py` (torch {torch.__version__}, one thread of a
2-core CPU machine that other programs kept busy: the seconds compare with each other only).
Models: {models}. Limits: {limits} MiB, simulated; true maxima from
{sizes[0]} to {sizes[-1]}.

{table(results)}

Medians, with the range or the worst in brackets. *Was run*: the size was among those that the
finder ran. *Further steps*: ordinary shuffled batches at the size found, under the same limit.
*Cost*: rows pushed through the model, a failed trial with all its rows, in units of the true
maximum. *State*: weights, buffers, optimizer, gradients, modes and random numbers, bit for bit,
before and after. Accelerate, Transformers, torch-max-mem and toma are not searches beside the
training but wrappers around it: they start at 128 here, never grow, and a change of state is
their purpose. Transformers was run at one of the limits only, since its search is Accelerate's.
batchtune needs Python 3.13 and was not run.

Not in the table:

{errors(results)}
"""


if __name__ == "__main__":
    main()
