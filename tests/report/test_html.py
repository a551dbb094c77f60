"""HTML: escaped, whole, and in need of nothing outside itself."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_cases import accumulated, bare, page_of, plain

from batchfinder import html
from batchfinder.report import Report, document
from batchfinder.report.text import answer
from batchfinder.results import Why
from batchfinder.table import Row, Table
from batchfinder.wording import capitalized
from batchfinder.wording.choice import limit_sentence

NASTY = "</td><script>alert(1)</script>\"'&"
VOID = {"meta", "br", "path", "use", "rect", "image", "line", "circle", "stop"}


class Checked(HTMLParser):
    """Checks that every element is closed in order; collects text and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("case", [plain, accumulated, bare])
def test_the_fragment_says_what_the_text_says(case: object) -> None:
    report = case()
    words = " ".join(Checked(report._repr_html_()).words)
    for finding in (
        answer(report),
        limit_sentence(report.limited_by),
        *map(capitalized, report.caveats),
    ):
        assert finding in words
    if report.measurements:
        assert "chosen" in words


def test_everything_is_escaped() -> None:
    report = plain()
    report = replace(
        report,
        caveats=(NASTY,),
        unit=NASTY,
        recommendation=replace(
            report.recommendation, learning_rate_rule=NASTY, objective=NASTY, why=Why.OBJECTIVE
        ),
        environment=replace(report.environment, device_name=NASTY),
    )
    for shown in (report._repr_html_(), report.to_html()):
        assert "script" not in Checked(shown).seen
        assert NASTY in " ".join(Checked(shown).words)


@pytest.mark.parametrize("case", [plain, accumulated, bare])
def test_the_page_stands_alone(case: object) -> None:
    page = page_of(case())
    checked = Checked(page)
    assert "svg" in checked.seen
    assert not {"script", "link", "iframe", "img"} & set(checked.seen)
    assert all(link.startswith("#") for link in checked.links)
    assert "@import" not in page
    assert "url(http" not in page
    assert len(page) < 500_000


def test_a_page_is_drawn_the_same_again_and_written_where_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for place in (path, str(path)):
        assert bare().to_html(place) == path
        assert path.read_text(encoding="utf-8") == page_of(bare())
        path.unlink()


def test_the_page_tells_why_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    words = " ".join(Checked(plain().to_html()).words)
    assert "The figure was left out" in words
    assert "pip install matplotlib" in words


def test_light_and_dark() -> None:
    assert "prefers-color-scheme: dark" in page_of(plain())
    assert "color: inherit" in plain()._repr_html_()


def test_a_table_marks_the_chosen_row() -> None:
    shown = html.table(Table(("a", "note"), (Row(("1", "")), Row(("2", "chosen"), chosen=True))))
    assert shown.count('class="chosen"') == 1
    assert shown.index('class="chosen"') < shown.index(">→ 2<")


def test_a_page_of_a_report_read_from_json_is_the_same() -> None:
    again = Report.from_json(plain().to_json())
    assert document.fragment(again) == document.fragment(plain())


def test_a_page_with_every_row_leaves_nothing_out_and_explains_its_marks() -> None:
    fragment, page = plain()._repr_html_(), page_of(plain())
    assert "2 more sizes in report.measurements" in fragment
    assert "more size" not in page
    assert "~ unstable: the 90% interval is wider" in page
