"""What ``print`` shows of the results of single functions."""

from __future__ import annotations

import html
import math

import pytest
from report_cases import bare, moved, plain, raised, unconfirmed

from batchfinder import (
    Comparison,
    DevicePredictions,
    MemoryEstimate,
    MemoryPrediction,
    MemorySavings,
    Report,
    evaluation,
)
from batchfinder.compare import StudyTable
from batchfinder.evaluation import Evaluation
from batchfinder.results import (
    Limit,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    Outcome,
    ProbeResult,
    RaceArm,
    RaceResult,
    Trial,
)

MIB = 2**20


def memory(limit: int = 64 * MIB) -> MemoryBreakdown:
    return MemoryBreakdown(
        parameter_bytes=MIB,
        buffer_bytes=0,
        gradient_bytes=MIB,
        optimizer_bytes=2 * MIB,
        other_bytes=0,
        limit_bytes=limit,
        fixed_bytes=4 * MIB,
        per_sample_bytes=0.25 * MIB,
    )


def test_a_search_is_a_table_with_the_answer_above_it() -> None:
    found = ProbeResult(
        trials=(
            Trial(1, Outcome.FITS, 5 * MIB, 0.25),
            Trial(256, Outcome.OUT_OF_MEMORY, None, 0.5),
            Trial(128, Outcome.FITS, 36 * MIB, 0.5),
        ),
        memory=memory(),
        limited_by=Limit.MEMORY,
        caveats=("One thing to know.",),
    )
    assert str(found).splitlines() == [
        "Largest batch size that fits: 128, limited by memory.",
        "  batch size  peak memory   trial  outcome",
        "  ──────────  ───────────  ──────  " + "─" * len(Outcome.OUT_OF_MEMORY.words),
        "           1     5.00 MiB  250 ms  " + Outcome.FITS.words,
        "→        128     36.0 MiB  500 ms  " + Outcome.FITS.words,
        "         256            -  500 ms  " + Outcome.OUT_OF_MEMORY.words,
        "Limit: 64.0 MiB. Memory: 4.00 MiB + 256 KiB per sample.",
        "- One thing to know.",
    ]


def test_an_evaluation_is_a_table_of_throughputs() -> None:
    def measured(size: int, rate: float) -> Measurement:
        return Measurement(size, rate, 0.9 * rate, 1.1 * rate, size / rate, size / rate, 0.0)

    found = Evaluation(
        batch_size=64,
        trials=(Trial(256, Outcome.FITS, 36 * MIB),),
        measurements=(measured(64, 1000.0), measured(256, 1020.0)),
        limit_bytes=64 * MIB,
    )
    assert str(found).splitlines() == [
        "Batch size for evaluation: 64; largest that fits: 256.",
        "  batch size  samples/s   interval  peak memory",
        "  ──────────  ─────────  ─────────  ────────────",
        "→         64      1,000  900-1,100  -",
        "         256      1,020  918-1,120  -",
        "Limit: 64.0 MiB.",
    ]


def test_a_noise_scale_names_its_interval_and_its_samples() -> None:
    found = NoiseScale(940.0, 610.0, 1500.0, samples=4096, estimator="by hand", micro_batch=32)
    assert str(found).splitlines() == [
        "Gradient noise scale: 940 samples",
        "  interval      610 to 1,500 (90%)",
        "  samples spent 4,096",
        "  micro-batch   32",
        "  warm-up       0 steps",
        "  estimator     by hand",
    ]
    unbounded = NoiseScale(5000.0, 610.0, math.inf, samples=128, estimator="by hand")
    assert "Gradient noise scale: at least 610 samples" in str(unbounded)
    assert "610 to inf" in str(unbounded)


def test_one_lucky_timing_does_not_choose_the_size_for_evaluation() -> None:
    def timed(size: int, rate: float, low: float, high: float) -> Measurement:
        return Measurement(size, rate, low, high, size / rate, size / rate, 0.0, repeats=2)

    lucky = timed(2, 22_500.0, 5_200.0, 39_700.0)
    assert evaluation._chosen([lucky, timed(8, 20_000.0, 19_500.0, 20_400.0)]) == 8
    assert evaluation._chosen([timed(4, 20_000.0, 19_600.0, 20_300.0), lucky]) == 4


@pytest.mark.parametrize(
    "kind",
    [
        Comparison,
        DevicePredictions,
        Evaluation,
        MemoryEstimate,
        MemoryPrediction,
        MemorySavings,
        NoiseScale,
        ProbeResult,
        Report,
        StudyTable,
    ],
)
def test_every_result_prints_well_in_a_notebook_too(kind: type) -> None:
    assert "__str__" in vars(kind)
    assert hasattr(kind, "_repr_html_")
    assert "_repr_pretty_" in vars(kind)  # IPython's text, where it is the class's own


def test_a_notebook_shows_what_print_shows() -> None:
    noise = NoiseScale(100.0, 50.0, 200.0, 64, "<estimator>")
    shown = noise._repr_html_()
    assert html.escape(str(noise)) in shown
    assert "<estimator>" not in shown

    class Printer:
        written = ""

        def text(self, words: str) -> None:
            self.written += words

    printer = Printer()
    noise._repr_pretty_(printer, cycle=False)
    assert printer.written == str(noise)


def test_the_parts_of_a_report_print_as_tables_too() -> None:
    report = moved()
    assert report.confirmation is not None
    said = str(report.recommendation).splitlines()
    assert said[0].startswith("Recommended: batch size 64 at learning rate 0.00135; limited by")
    (chosen,) = (line for line in said if line.startswith("→"))
    assert chosen.split()[1] == "64"
    assert any(line.split()[0] == "128" and "not confirmed" in line for line in said)
    said = str(report.confirmation).splitlines()
    assert said[0] == "Confirmed: batch size 64 at learning rate 0.00135."
    assert [line.split()[-3:] for line in said[-2:]] == [["held", "2.31", "0.42"]] * 2
    arms = (RaceArm(0.02, 1.25, 100), RaceArm(0.01, 1.5, 100), RaceArm(0.04, math.inf, 30, 2))
    said = str(RaceResult(64, arms, 100, 0.015, 0.02, 0.018)).splitlines()
    assert said[0] == "Learning rate 0.018 at batch size 64; the rule's is 0.015."
    assert [line.split() for line in said[-3:]] == [
        ["0.01", "1.5", "100", "1"],
        ["0.02", "1.25", "100", "1"],
        ["0.04", "diverged", "30", "2"],
    ]


@pytest.mark.parametrize("made", [plain, moved, raised, unconfirmed, bare])
def test_no_part_of_a_report_is_wider_than_a_terminal_or_a_repr(made) -> None:
    report = made()
    for part in (report.recommendation, report.confirmation):
        if part is not None:
            assert max(map(len, str(part).splitlines())) <= 88
            assert "(plan=" not in str(part)
