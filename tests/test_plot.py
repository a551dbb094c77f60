"""The figure: its panels, what is drawn in each, and that nothing is shown or left behind."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import pytest
from report_cases import accumulated, bare, plain

from batchfinder import plot
from batchfinder.errors import InvalidArgument, MissingDependency

mpl.use("Agg")


def words(ax: Any) -> str:
    texts = [text.get_text() for text in ax.texts]
    legend = ax.get_legend()
    if legend is not None:
        texts += [text.get_text() for text in legend.get_texts()]
    return "\n".join([*texts, ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()])


@pytest.mark.parametrize("case", [plain, accumulated, bare])
def test_every_report_can_be_drawn(case: object) -> None:
    figure = plot.figure(case())
    assert len(figure.axes) == 4
    figure.canvas.draw()


def test_plot_returns_axes_and_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
    axes = plain().plot()
    assert axes.shape == (2, 2)
    plt.close("all")


def test_a_single_panel_goes_where_it_is_told() -> None:
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert plain().plot(ax) is ax
    assert "What to use" in words(ax)
    _, other = plt.subplots()
    assert plain().plot(ax=other, panel="memory") is other
    assert "What fits" in words(other)
    plt.close("all")


def test_an_unknown_panel_names_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match=r'"memory".*"time".*found .loss.'):
        plot.panel(plain(), "loss", None)


def test_memory_shows_the_limit_the_trials_and_the_choice() -> None:
    ax = plot.figure(plain()).axes[0]
    assert "limit 48.0 MiB" in words(ax)
    assert "chosen: 128" in words(ax)
    assert "did not fit" in words(ax)
    fitted = next(line for line in ax.lines if line.get_label() == "ran and fitted")
    assert len(fitted.get_xdata()) == 6
    failed = next(line for line in ax.lines if line.get_label() == "did not fit")
    assert sorted(failed.get_xdata()) == [272, 512]


def test_throughput_has_intervals() -> None:
    ax = plot.figure(plain()).axes[1]
    (container,) = ax.containers
    assert container.has_yerr
    assert "chosen: 128" in words(ax)


def test_noise_shows_the_whole_and_each_size() -> None:
    ax = plot.figure(plain()).axes[2]
    assert "whole training: 212" in words(ax)
    assert "batch = noise scale" in words(ax)
    assert ax.containers[0].has_yerr


def test_noise_without_upper_end_says_at_least() -> None:
    assert "at least 900" in words(plot.figure(accumulated()).axes[2])


def test_noise_left_out_says_so() -> None:
    assert "noise scale not measured" in words(plot.figure(bare()).axes[2])


def test_time_fills_exactly_the_candidates_within_a_tenth() -> None:
    ax = plot.figure(plain()).axes[3]
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    filled = {int(line.get_xdata()[0]) for line in dots if line.get_markerfacecolor() != "white"}
    times = {each.plan.global_batch: each.relative_time for each in plain().candidates}
    best = min(times.values())
    assert filled == {size for size, time in times.items() if time <= 1.1 * best}
    assert 0 < len(filled) < len(times)


def test_a_candidate_without_a_price_is_left_out() -> None:
    report = plain()
    first, *rest = report.recommendation.candidates
    candidates = (replace(first, relative_time=float("nan")), *rest)
    report = replace(report, recommendation=replace(report.recommendation, candidates=candidates))
    plot.figure(report).canvas.draw()


def test_without_matplotlib_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"torch-batchfinder\[plot\]"):
        plot.figure(plain())


@pytest.mark.slow
def test_importing_loads_no_matplotlib() -> None:
    code = (
        "import sys, batchfinder.plot, batchfinder.report; assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
