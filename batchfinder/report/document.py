"""A report as HTML: a fragment for notebooks, a self-contained page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder import html, plot
from batchfinder.report.explanation import other_changes, sections
from batchfinder.report.ranks import rank_table
from batchfinder.report.rows import candidate_table, legend, measurement_table, trial_table
from batchfinder.report.settings import FRAMEWORKS, settings
from batchfinder.report.text import answer, choice, findings
from batchfinder.wording import capitalized

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["fragment", "page"]


def fragment(report: ReportData) -> str:
    """The table, the choice and the reason, as ``print`` shows them."""
    return html.fragment(_summary(report, wide=False))


def _summary(report: ReportData, *, wide: bool) -> Iterator[str]:
    yield html.answer(answer(report))
    if report.measurements:
        yield html.table(measurement_table(report, wide=wide, every=wide))
        explained = legend(report, every=wide)
        yield html.paragraphs([explained] if explained else [], quiet=True)
    yield html.definitions(findings(report))
    if (ranks := rank_table(report)) is not None:
        yield html.table(ranks)
    if report.caveats:
        yield html.details("Caveats", html.items(map(capitalized, report.caveats)), shown=True)


def page(report: ReportData) -> str:
    """Everything: summary, figure, explanation, alternatives, settings, trials."""
    size = f"batch size {report.batch_size}"
    return html.page(f"batchfinder: {size}", _whole(report))


def _whole(report: ReportData) -> Iterator[str]:
    yield from _summary(report, wide=True)
    words = f"Four panels; the choice is {choice(report)}"
    yield html.section("Figure", html.figure(lambda: plot.svg(report), words))
    for title, sentences in sections(report):
        yield html.section(title, html.paragraphs(sentences))
        if title == "Alternatives":
            yield html.table(candidate_table(report))
    if other_changes(report):
        yield html.section("What else to change", html.items(other_changes(report)))
    pasted = (html.details(name, html.code(settings(report, name))) for name in FRAMEWORKS)
    yield html.section("Settings to paste", "".join(pasted))
    yield html.section("Memory trials, in order", html.table(trial_table(report)))
