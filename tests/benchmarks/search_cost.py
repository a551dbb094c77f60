"""Cost of a search on recorded memory curves, with and without a prediction.

    python tests/benchmarks/search_cost.py            # on the recorded curves
    python tests/benchmarks/search_cost.py --record   # record them anew (minutes)

The curves are peaks of one training step, forward to update, of the models in predict_cases and
of two losses over all pairs, from fake tensors; between recorded sizes they are taken as straight.
Writes docs/tables/search_cost.md and asserts nothing.
"""

from __future__ import annotations

import argparse
import bisect
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from predict_cases import EXACT, Case, adamw, loader_of
from probe_cases import Search, run_on, true_maximum
from torch import nn

from batchfinder.predict.rehearsal import rehearsing
from batchfinder.probe import SearchSpace
from batchfinder.run.batches import source_from
from batchfinder.run.step import step_from

HERE = Path(__file__).parent
CURVES = HERE / "curves.json"
TABLE = HERE.parent.parent / "docs" / "tables" / "search_cost.md"
LIMITS = {"256 MiB": 2**28, "2 GiB": 2**31, "24 GiB": 24 * 2**30}


class Pairs(nn.Module):
    """A loss over all pairs of the batch, whose memory has a square in it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 32))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        points = nn.functional.normalize(self.body(x), dim=1)
        return nn.functional.cross_entropy(points @ points.T, torch.arange(len(x)))


def _pairs() -> tuple[nn.Module, Any, Any]:
    model = Pairs(256)
    return model, loader_of(torch.randn(64, 64), torch.zeros(64)), adamw(model)


def _wide() -> tuple[nn.Module, Any, Any]:
    model = nn.Sequential(nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 512))
    data = torch.randn(64, 512)
    return model, loader_of(data, data), adamw(model)


RECORDED = (*EXACT[:6], Case("MLP with large parameters", _wide), Case("all pairs", _pairs))


def record() -> None:
    curves = {}
    for case in RECORDED:
        model, loader, optimizer = case.build()
        source = source_from(loader)
        step = step_from(model, optimizer=optimizer, sample_batch=source.take(2), **case.options)
        step.prime()
        with rehearsing(step, source) as rehearsal:
            curves[case.name] = list(points(lambda size, r=rehearsal: r.at(size).peak_bytes))
        print(case.name, curves[case.name][-1], file=sys.stderr)
        CURVES.write_text(json.dumps(curves) + "\n")


def points(peak_of: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Sizes a ratio of 1.6 apart, until the largest limit is passed."""
    size, peak = 1, 0
    while peak <= max(LIMITS.values()):
        size = max(size + 1, int(1.6 * size))
        peak = peak_of(size)
        yield size, peak


def curve_through(known: list[tuple[int, int]]) -> Callable[[int], int]:
    sizes = [size for size, _ in known]

    def curve(size: int) -> int:
        place = min(max(bisect.bisect_left(sizes, size), 1), len(known) - 1)
        (left, low), (right, high) = known[place - 1], known[place]
        return max(0, round(low + (high - low) * (size - left) / (right - left)))

    return curve


VARIANTS: dict[str, tuple[float, float | None]] = {
    "no prediction": (0.02, None),
    "no prediction, exact": (0.0, None),
    "prediction right": (0.02, 1.0),
    "prediction right, exact": (0.0, 1.0),
    "prediction 10% too low": (0.02, 0.9),
    "prediction 12% too high": (0.02, 1.12),
    "prediction 25% too high": (0.02, 1.25),
}


def search(curve: Callable[[int], int], limit: int, variant: tuple[float, float | None]) -> Any:
    resolution, error = variant
    largest = true_maximum(curve, limit)
    guess = None if error is None else max(1, int(error * largest))
    space = SearchSpace(limit_bytes=limit, resolution=resolution, first_guess=guess)
    return largest, run_on(curve, space)


def line(name: str, done: list[tuple[int, Search]]) -> str:
    trials = [len(each.trials) for _, each in done]
    failures = [each.failures for _, each in done]
    cost = [each.cost(largest) for largest, each in done]
    found = [each.found / largest for largest, each in done]
    return (
        f"| {name} | {statistics.median(trials):g} ({max(trials)}) | "
        f"{statistics.median(failures):g} ({max(failures)}) | "
        f"{statistics.median(cost):.2f} ({max(cost):.2f}) | {min(found):.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--show", action="store_true", help="every search, size by size")
    chosen = parser.parse_args()
    if chosen.record:
        record()
    curves = {
        n: curve_through([tuple(p) for p in k]) for n, k in json.loads(CURVES.read_text()).items()
    }
    rows = []
    for name, variant in VARIANTS.items():
        done = []
        for model, curve in curves.items():
            for limit_name, limit in LIMITS.items():
                if curve(1) <= limit:
                    done.append(search(curve, limit, variant))
                    if chosen.show:
                        largest, found = done[-1]
                        print(name, model, limit_name, largest, found.failures,
                              f"{found.cost(largest):.2f}", found.sizes)  # fmt: skip
        rows.append(line(name, done))
    head = (
        "| search | trials | out-of-memory trials | cost | least found |\n|---|---|---|---|---|\n"
    )
    page = f"""# What a search costs

Written by `python tests/benchmarks/search_cost.py`: {len(curves)} recorded memory curves
({", ".join(curves)}) × limits of {", ".join(LIMITS)}. Median and, in brackets, the worst.
*Cost*: rows of all trials, failed ones whole, in units of the true maximum; a trial is two steps,
so that in full-size steps it is twice that. *Least found*: the smallest share of the true maximum.

{head}{chr(10).join(rows)}
"""
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
