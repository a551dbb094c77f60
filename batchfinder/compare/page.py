"""A study on one page: what was found, the curves, the nine tables, the caveats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchfinder import html
from batchfinder.compare import drawing, rendering
from batchfinder.compare.tables import tables
from batchfinder.errors import MissingDependency
from batchfinder.wording import capitalized

if TYPE_CHECKING:
    from batchfinder.compare.data import StudyData

__all__ = ["fragment", "page"]


def fragment(study: StudyData) -> str:
    """The answer, the table and the caveats, as ``print`` shows them."""
    return html.fragment(_summary(study))


def page(study: StudyData) -> str:
    """Everything, in a document that needs nothing outside itself."""
    return html.page(f"batchfinder: {rendering.title(study)}", _whole(study))


def _summary(study: StudyData) -> Iterator[str]:
    yield html.answer(rendering.headline(study))
    yield html.table(rendering.table(study))
    yield html.paragraphs([rendering.legend(study)], quiet=True)
    yield html.items(rendering.regrets(study))
    if study.caveats:
        yield html.details("Caveats", html.items(map(capitalized, study.caveats)), shown=True)


def _whole(study: StudyData) -> Iterator[str]:
    yield from _summary(study)
    yield html.section("Curves", _figure(study))
    for each in tables(study):
        yield each.as_html()


def _figure(study: StudyData) -> str:
    try:
        drawn = drawing.svg(study)
    except MissingDependency as error:
        return html.paragraphs([f"The figure was left out. {error}"])
    return html.figure(drawn, "Curves of every training: loss, metric and gap over the epochs")
