"""The picture of how_it_works.md, drawn anew by ``make docs-figures``."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
CRITICAL, KNEE = 256, 64
SIZES = [2 ** (step / 8) for step in range(8 * 13)]


def time_figure() -> Figure:
    """Steps, time per step and their product against the batch size."""
    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    ax = figure.subplots()
    steps = [1 + CRITICAL / size for size in SIZES]
    step_time = [1 + size / KNEE for size in SIZES]
    total = [a * b for a, b in zip(steps, step_time, strict=True)]
    ax.loglog(SIZES, steps, "--", color=BLUE, label="steps to the target: 1 + critical / batch")
    ax.loglog(SIZES, step_time, ":", color=GREEN, linewidth=2, label="time of a step: measured")
    ax.loglog(SIZES, total, "-", color=ORANGE, linewidth=2.5, label="time to the target: product")
    least = min(total)
    within = [size for size, value in zip(SIZES, total, strict=True) if value <= 1.1 * least]
    ax.axvspan(within[0], within[-1], color="#999999", alpha=0.25, label="within 10 % of the least")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_yticks([])
    ax.minorticks_off()
    ax.set_xlabel("batch size")
    ax.set_ylabel("relative, logarithmic")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper center")
    return figure


if __name__ == "__main__":
    folder = Path(__file__).with_name("_static")
    folder.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "batchfinder"}):
        time_figure().savefig(folder / "time.svg", metadata={"Date": None}, facecolor="white")
