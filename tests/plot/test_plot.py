"""The figure: its panels, what is drawn in each, and that nothing is shown or left behind."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import matplotlib.figure
import pytest
from matplotlib.figure import Figure
from report_cases import NOISE, accumulated, bare, plain

from batchfinder import plot
from batchfinder.errors import InvalidArgument, MissingDependency
from batchfinder.report import Report
from batchfinder.results import SAME, BatchPlan, RaceArm, RaceResult

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
    alone = plain().plot(panel="noise")  # a figure of its own
    assert "What a larger batch buys" in words(alone)
    assert len(alone.figure.axes) == 1
    with pytest.raises(InvalidArgument, match='"memory", "throughput"'):
        plain().plot(panel="speed")
    plt.close("all")


def test_an_unknown_panel_names_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match=r'"memory".*"time".*found .loss.'):
        plot.panel(plain(), "loss", None)


def test_memory_shows_the_limit_the_trials_and_the_choice() -> None:
    ax = plot.figure(plain()).axes[0]
    assert "limit 48.0 MiB" in words(ax)
    assert "chosen: 128" in words(ax)
    assert "does not fit" in words(ax)
    fitted = next(line for line in ax.lines if line.get_label() == "fits")
    assert len(fitted.get_xdata()) == 6
    failed = next(line for line in ax.lines if line.get_label() == "does not fit")
    assert sorted(failed.get_xdata()) == [269]


def test_throughput_has_intervals() -> None:
    ax = plot.figure(plain()).axes[1]
    (container,) = ax.containers
    assert container.has_yerr
    assert "chosen: 128" in words(ax)


def test_noise_shows_the_whole_and_each_size() -> None:
    ax = plot.figure(plain()).axes[2]
    assert "critical size: 212 (whole training)" in words(ax)
    assert "above: a larger batch helps" in words(ax)
    assert ax.containers[0].has_yerr


def test_noise_without_upper_end_says_at_least() -> None:
    assert "at least 900" in words(plot.figure(accumulated()).axes[2])


def test_sizes_without_upper_end_are_explained_once() -> None:
    noise = replace(NOISE, high=float("inf"))
    measured = tuple(replace(each, noise_scale=noise) for each in plain().measurements)
    ax = plot.figure(replace(plain(), measurements=measured)).axes[2]
    assert words(ax).count("at least") == 1


def test_noise_left_out_says_so() -> None:
    assert "noise scale not measured" in words(plot.figure(bare()).axes[2])


def test_time_fills_exactly_the_candidates_as_good_as_the_fastest() -> None:
    ax = plot.figure(plain()).axes[3]
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    filled = {int(line.get_xdata()[0]) for line in dots if line.get_markerfacecolor() != "white"}
    times = {each.plan.global_batch: each.relative_time for each in plain().candidates}
    best = min(times.values())
    assert filled == {size for size, time in times.items() if time <= (1 + SAME) * best}
    assert 0 < len(filled) < len(times)
    assert "time, within 3% of best" in words(ax)  # as the choice is made


@pytest.mark.parametrize(("panel", "size"), [(0, 32), (1, 32), (2, 64), (3, 64)])
def test_every_panel_marks_the_users_own_size(panel: int, size: int) -> None:
    """Per device in the upper ones, on both devices together in the lower."""
    ax = plot.figure(accumulated()).axes[panel]
    assert f"yours: {size}" in words(ax)
    assert [size] in [sorted({float(x) for x in line.get_xdata()}) for line in ax.lines]


@pytest.mark.parametrize("panel", range(4))
def test_where_the_choice_is_the_users_own_one_mark_says_both(panel: int) -> None:
    ax = plot.figure(replace(plain(), base_batch_size=128)).axes[panel]
    assert "chosen, yours: 128" in words(ax)
    assert words(ax).count("128") == 1


def test_without_a_noise_scale_the_price_is_time_per_sample() -> None:
    report = plain()
    candidates = tuple(
        replace(each, relative_samples=float("nan")) for each in report.recommendation.candidates
    )
    recommendation = replace(report.recommendation, candidates=candidates)
    ax = plot.figure(replace(report, recommendation=recommendation)).axes[3]
    assert ax.get_ylabel().startswith("time per sample")
    assert "to target" not in words(ax)
    assert plot.figure(report).axes[3].get_ylabel().startswith("time to target")


def priced(report: Report, batch: int, **changes: float) -> Report:
    candidates = tuple(
        replace(each, **changes) if each.plan.global_batch == batch else each
        for each in report.candidates
    )
    return replace(report, recommendation=replace(report.recommendation, candidates=candidates))


def test_the_users_own_size_is_in_the_picture_however_slow() -> None:
    report = priced(plain(), 32, relative_time=40.0, relative_time_high=50.0)
    ax = plot.figure(report).axes[3]
    assert ax.get_ylim()[1] > 50
    (own,) = [line for line in ax.lines if line.get_label() == "yours: 32"]
    assert own.get_ydata()[0] == 40


def test_no_interval_runs_off_the_top() -> None:
    ax = plot.figure(priced(plain(), 268, relative_time_high=9.0)).axes[3]
    assert ax.get_ylim()[1] > 9
    slow = {each.plan.global_batch for each in plain().candidates if each.relative_time > 6}
    stems = {line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1}
    assert slow and not slow & stems  # an interval without its point says nothing


def test_an_interval_out_of_all_proportion_is_cut_with_an_arrow() -> None:
    ax = plot.figure(priced(plain(), 268, relative_time_high=1e6)).axes[3]
    top = ax.get_ylim()[1]
    assert top < 30
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "^"] == [268]
    (stem,) = [line for line in ax.lines if list(line.get_xdata()) == [268, 268]]
    assert max(stem.get_ydata()) == top


@pytest.mark.parametrize("panel", range(4))
@pytest.mark.parametrize("chosen", [1, 32, 268])
def test_no_words_leave_their_panel(panel: int, chosen: int) -> None:
    candidates = tuple(
        replace(each, chosen=each.plan.micro_batch == chosen) for each in plain().candidates
    )
    recommendation = replace(plain().recommendation, plan=BatchPlan(chosen), candidates=candidates)
    report = replace(plain(), recommendation=recommendation)
    drawn = plot.figure(report)
    drawn.canvas.draw()
    ax = drawn.axes[panel]
    frame = ax.get_window_extent()
    for part in [*ax.texts, ax.get_legend()]:
        box = part.get_window_extent()
        assert frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1, part


def test_peaks_far_below_the_limit_are_told_apart() -> None:
    report = plain()
    assert plot.figure(report).axes[0].get_yscale() == "linear"
    roomy = replace(report.memory, limit_bytes=1000 * report.memory.limit_bytes)
    trials = tuple(each for each in report.trials if each.fits)
    report = replace(report, probe=replace(report.probe, memory=roomy, trials=trials))
    ax = plot.figure(report).axes[0]
    assert ax.get_yscale() == "log"
    assert "limit 46.9 GiB" in words(ax)
    ax.figure.canvas.draw()
    assert any("MiB" in label.get_text() for label in ax.get_yticklabels())


@pytest.mark.parametrize("high", [1.1, 5.0, 1e6])
def test_the_legend_of_prices_lies_below_them(high: float) -> None:
    drawn = plot.figure(priced(plain(), 268, relative_time_high=high))
    drawn.canvas.draw()
    ax = drawn.axes[3]
    lowest = min(min(line.get_ydata()) for line in ax.lines if len(line.get_ydata()))
    assert ax.get_legend().get_window_extent().y1 <= ax.transData.transform((1, lowest))[1]


def test_a_candidate_without_a_price_is_left_out() -> None:
    report = plain()
    first, *rest = report.recommendation.candidates
    candidates = (replace(first, relative_time=float("nan")), *rest)
    report = replace(report, recommendation=replace(report.recommendation, candidates=candidates))
    plot.figure(report).canvas.draw()


def test_without_matplotlib_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match="pip install matplotlib"):
        plot.figure(plain())


@pytest.mark.slow
def test_importing_loads_no_matplotlib() -> None:
    code = (
        "import sys, batchfinder.plot, batchfinder.report; assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the race ------------------------------------------------------------------------------------

ARMS = (
    RaceArm(0.01, 1.5, 100),
    RaceArm(0.02, 1.2, 100),
    RaceArm(0.04, math.inf, 12),
    RaceArm(0.02, 1.25, 100, order=2),
)


def raced() -> Any:
    return replace(plain(), race=RaceResult(128, ARMS, 100, 0.01, 0.02, 0.015, 2000.0))


def test_a_race_adds_a_panel_and_nothing_else_changes() -> None:
    axes = plot.figure(raced()).axes
    assert [ax.get_title(loc="left") for ax in axes[:2]] == [
        ax.get_title(loc="left") for ax in plot.figure(plain()).axes[:2]
    ]
    assert len([ax for ax in axes if ax.axison]) == 5


def test_every_arm_is_drawn_and_one_that_ran_away_above_the_others() -> None:
    ax = mpl.figure.Figure().subplots()
    assert raced().plot(ax, panel="race") is ax
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines["first data order"].get_xdata()) == [0.01, 0.02]
    assert list(lines["another order"].get_ydata()) == [1.25]
    assert lines["diverged"].get_ydata()[0] > 1.5
    assert lines["for this run"].get_xdata()[0] == 0.015


def test_without_a_race_its_panel_says_so() -> None:
    ax = mpl.figure.Figure().subplots()
    plain().plot(ax, panel="race")
    assert [text.get_text() for text in ax.texts] == ["no race was run"]


def test_an_unknown_panel_is_refused_without_axes_too() -> None:
    with pytest.raises(InvalidArgument, match="expected one of"):
        plain().plot(panel="speed")


def test_the_batch_size_has_one_name_unless_there_are_two() -> None:
    names = {ax.get_xlabel() for ax in plain().plot().flat}
    assert names == {"batch size"}
    both = {ax.get_xlabel() for ax in accumulated().plot().flat}
    assert both == {"batch size per device", "global batch size"}


def test_energy_is_drawn_beside_time_where_it_was_measured() -> None:
    report = plain()
    candidates = tuple(
        replace(each, joules_per_sample=1.0 + each.plan.global_batch / 512)
        for each in report.candidates
    )
    drawn = replace(report, recommendation=replace(report.recommendation, candidates=candidates))

    def labels(of) -> list[str]:
        figure = Figure()
        ax = figure.add_subplot()
        of.plot(ax, panel="time")
        return [line.get_label() for line in ax.lines]

    assert "energy" in labels(drawn)
    assert "energy" not in labels(report)
