"""Live rows: what is said, where, and when nothing is."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from fakes import FakeClock
from report_cases import NOISE, measurement, plain

from batchfinder.progress import NotebookTable, StreamRows, default_observer, describe, silent
from batchfinder.results import (
    Event,
    Note,
    Outcome,
    Progress,
    RaceArm,
    Stage,
    StageStarted,
    Trial,
    TrialStarted,
)

EVENTS: list[Event] = [
    StageStarted(Stage.PROBE, "limit 48.0 MiB"),
    *plain().trials,
    Trial(3, Outcome.KILLED, None, 0.0, disturbed=True, note="signal 9"),
    StageStarted(Stage.MEASURE, expected_seconds=95),
    *plain().measurements,
    NOISE,
    replace(NOISE, value=math.inf, high=math.inf),
    RaceArm(0.02, 1.234, 100),
    RaceArm(0.04, math.inf, 37, order=2),
    Note("Nothing to see."),
    plain().recommendation,
    plain().confirmation,
]


@pytest.fixture(autouse=True)
def _not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCHFINDER_QUIET", "RANK"):
        monkeypatch.delenv(name, raising=False)


def rows() -> list[str]:
    stream = io.StringIO()
    observe = StreamRows(stream)
    for event in EVENTS:
        observe(event)
    return stream.getvalue().splitlines()


def test_one_row_per_event_without_control_characters() -> None:
    assert len(rows()) == len(EVENTS)
    assert not re.search(r"[\x00-\x1f]", "".join(rows()))
    assert max(len(row) for row in rows() if "signal 9" not in row) <= 80
    assert max(map(len, rows())) <= 120


def test_a_trial_is_announced_where_it_takes_long_enough_to_be_read() -> None:
    stream = io.StringIO()
    observe = StreamRows(stream)
    for seconds in (None, 1.0, 40.0):
        observe(TrialStarted(8192, seconds))
    assert stream.getvalue().splitlines() == [
        "  trial     8,192  running (its steps take about 40 s)"
    ]


def test_rows_say_what_matters() -> None:
    said = "\n".join(rows())
    assert "which micro-batches fit: limit 48.0 MiB" in said
    assert "269  ran out of memory, peak 48.0 MiB, 20 ms" in said
    assert "signal 9, another process also used memory" in said
    assert "(about 1 min 35 s)" in said
    assert "186-310" in said
    assert "unstable" in said
    assert "learning rate 0.02: held-out loss 1.234 after 100 steps" in said
    assert "learning rate 0.04: diverged after 37 steps, other data order" in said
    assert "at least 160, from 49,200 samples" in said
    assert "noise scale 212 (160-290)" in said
    assert "learning rate 0.00176" in said
    assert "passed 40 training steps" in said


def test_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    observe = default_observer()
    for event in EVENTS:
        observe(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == len(EVENTS)


@pytest.mark.parametrize(
    ("name", "value", "quiet"),
    [
        ("BATCHFINDER_QUIET", "1", True),
        ("BATCHFINDER_QUIET", "0", False),
        ("BATCHFINDER_QUIET", "", False),
        ("RANK", "1", True),
        ("RANK", "0", False),
        ("RANK", "none", False),
    ],
)
def test_silence_by_environment(
    name: str, value: str, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert (default_observer() is silent) is quiet


def test_a_process_group_knows_better_than_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    class Group:
        is_available = staticmethod(lambda: True)
        is_initialized = staticmethod(lambda: True)
        get_rank = staticmethod(lambda: 3)

    monkeypatch.setitem(sys.modules, "torch.distributed", Group)
    assert default_observer() is silent


HALF_WAY = Progress(Stage.NOISE, 120, 12.0, of=200, samples_per_second=3412.0, seconds_left=8.0)


def test_how_far_a_stage_is_reads_well() -> None:
    assert describe(HALF_WAY) == (
        "  noise",
        "",
        "120 of 200 steps, 3,410 samples per second, 8 s left",
    )
    assert describe(Progress(Stage.MEASURE, 1200, 4.0, unit="timings"))[2] == "1,200 timings"


def test_how_far_is_a_row_every_six_seconds_elsewhere() -> None:
    clock, stream = FakeClock(), io.StringIO()
    observe = StreamRows(stream, clock)
    for name in (Stage.NOISE, Stage.CONFIRM):
        observe(StageStarted(name))
        for half in range(1, 36):
            clock.pass_by(0.5)
            observe(replace(HALF_WAY, stage=name, seconds=half / 2))
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["noise"] * 3 + ["confirm"] * 3
    assert not re.search(r"[\x00-\x09]", stream.getvalue())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def seen_on(screen: str) -> list[str]:
    """The lines of a screen on which every carriage return starts to overwrite."""
    lines = []
    for line in screen.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_how_far_is_one_live_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    observe = StreamRows(stream)
    observe(StageStarted(Stage.NOISE))
    observe(HALF_WAY)
    observe(replace(HALF_WAY, done=121, seconds_left=7.0))
    assert seen_on(stream.getvalue())[1:] == [
        "  noise   121 of 200 steps, 3,410 samples per second, 7 s l"
    ]
    observe(Note("Next."))
    observe(Note("And next."))
    assert seen_on(stream.getvalue())[1:] == ["  note    Next.", "  note    And next.", ""]


def test_how_far_is_one_row_of_a_notebook_which_goes_again() -> None:
    updates: list[str] = []

    class Handle:
        def update(self, table: NotebookTable) -> None:
            updates.append(repr(table))

    observe = NotebookTable(lambda table, display_id: Handle())
    observe(StageStarted(Stage.NOISE))
    for half in range(4, 13):
        observe(replace(HALF_WAY, done=half, seconds=half / 2))
    assert [each.split("  noise ")[1].split(" of")[0].strip() for each in updates] == [
        "4",
        "8",
        "12",
    ]
    observe(Note("Next."))
    assert "of 200 steps" not in repr(observe)


def test_silent_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    silent(EVENTS[0])
    assert capsys.readouterr() == ("", "")


def test_a_notebooks_table_grows_in_place_and_keeps_every_row() -> None:
    shown: list[str] = []

    class Handle:
        def update(self, table: NotebookTable) -> None:
            shown.append(table._repr_html_())

    def display(table: NotebookTable, display_id: bool) -> Handle:
        assert display_id is True
        Handle().update(table)
        return Handle()

    observe = NotebookTable(display)
    for event in EVENTS:
        observe(event)
    assert len(shown) == len(EVENTS)
    assert shown[-1].count("<tr") == len(EVENTS) + 1
    assert "ran out of memory" in repr(observe)


def test_a_notebooks_table_is_escaped() -> None:
    observe = NotebookTable(lambda table, display_id: None)
    observe(Note("<b>bold</b> & more"))
    assert "<b>" not in observe._repr_html_()
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; more" in observe._repr_html_()


def test_every_event_has_three_pieces() -> None:
    for event in EVENTS:
        what, size, said = describe(event)
        assert what.strip()
        assert said
        assert isinstance(size, str)


def test_progress_loads_neither_torch_nor_ipython() -> None:
    code = (
        "import sys, batchfinder.progress as p; p.default_observer();"
        "assert not {'torch', 'IPython', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_small_measurement_reads_well() -> None:
    assert describe(measurement(64)) == (
        "  measure",
        "64",
        "10,400 per second (10,100-10,700), 6.13 ms per step",
    )
