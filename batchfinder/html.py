"""HTML by hand: everything escaped, nothing fetched, legible on light and dark pages.

Inside a notebook the page's own colours are inherited and only translucent shades are added, so
that no theme has to be detected. A self-contained page follows the reader's preference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from batchfinder.errors import MissingDependency
from batchfinder.table import CHOSEN_GLYPH, Table

__all__ = [
    "Shown",
    "answer",
    "code",
    "definitions",
    "details",
    "figure",
    "fragment",
    "items",
    "page",
    "paragraphs",
    "section",
    "table",
]

_STYLE = """
.batchfinder { font: 14px/1.5 system-ui, sans-serif; max-width: 62em; color: inherit; }
.batchfinder table { border-collapse: collapse; margin: .6em 0; font: inherit; font-size: 13px;
  font-variant-numeric: tabular-nums;
  color: inherit; }
.batchfinder th, .batchfinder td { padding: .25em .6em; text-align: right; white-space: nowrap;
  background: transparent; color: inherit; border: 0;
  border-bottom: 1px solid rgba(128, 128, 128, .3); }
.batchfinder th { font-weight: 600; border-bottom: 2px solid rgba(128, 128, 128, .6); }
.batchfinder th:last-child, .batchfinder td:last-child { text-align: left; white-space: normal;
  min-width: 6em; }
.batchfinder tr.chosen td { background: rgba(0, 114, 178, .18); font-weight: 600; }
.batchfinder .findings { display: grid; grid-template-columns: max-content 1fr; gap: .15em 1em;
  align-items: baseline; margin: .6em 0; }
.batchfinder .findings dt, .batchfinder .findings dd { margin: 0; padding: 0; font: inherit;
  text-transform: none; }
.batchfinder .findings dt { font-weight: 600; }
.batchfinder p, .batchfinder ul { margin: .4em 0; }
.batchfinder .answer { font-size: 1.15em; font-weight: 600; }
.batchfinder .scroll { overflow-x: auto; }
.batchfinder .quiet { opacity: .75; }
.batchfinder pre { padding: .6em .8em; background: rgba(128, 128, 128, .12); overflow-x: auto;
  color: inherit; }
.batchfinder summary { cursor: pointer; font-weight: 600; margin-top: .5em; }
.batchfinder figure { margin: 1em 0; background: #fff; padding: .5em; border-radius: 4px;
  overflow-x: auto; }
.batchfinder figure svg { max-width: 100%; min-width: 40em; height: auto; display: block; }
"""
_PAGE_STYLE = """
:root { color-scheme: light dark; }
body { margin: 2em auto; padding: 0 1em; max-width: 64em; background: #fff; color: #1a1a1a; }
@media (prefers-color-scheme: dark) { body { background: #16181b; color: #e6e6e6; } }
h1 { font: 600 1.5em system-ui, sans-serif; }
h2 { font-size: 1.15em; margin: 1.4em 0 .3em; }
"""


def fragment(parts: Iterable[str]) -> str:
    """Parts of markup with the style that they need, for a page of somebody else's."""
    return f'<div class="batchfinder"><style>{_STYLE}</style>{"".join(parts)}</div>'


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document with nothing outside itself."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_PAGE_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{fragment(parts)}</body></html>\n"
    )


def table(data: Table) -> str:
    """The table; the chosen row is shaded, and says so in its note."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in data.header)
    rows = ""
    for row in data.rows:
        first, *others = row.cells
        if row.chosen:  # the note that says so may be out of sight on a narrow page
            first = f"{CHOSEN_GLYPH} {first}"
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (first, *others))
        rows += f'<tr class="chosen">{cells}</tr>' if row.chosen else f"<tr>{cells}</tr>"
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div>"
    )


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels and what is said under each."""
    body = "".join(f"<dt>{escape(label)}</dt><dd>{escape(said)}</dd>" for label, said in pairs)
    return f'<dl class="findings">{body}</dl>'


def answer(sentence: str) -> str:
    """The one sentence that everything else is evidence for."""
    return f'<p class="answer">{escape(sentence)}</p>'


def paragraphs(sentences: Iterable[str], *, quiet: bool = False) -> str:
    """One paragraph per sentence; ``quiet`` ones are paler."""
    opening = '<p class="quiet">' if quiet else "<p>"
    return "".join(f"{opening}{escape(sentence)}</p>" for sentence in sentences)


def items(sentences: Iterable[str]) -> str:
    """A bulleted list, or nothing where there is nothing to list."""
    body = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{body}</ul>" if body else ""


def details(title: str, body: str, *, shown: bool = False) -> str:
    """Markup behind a title that opens and closes."""
    return f"<details{' open' * shown}><summary>{escape(title)}</summary>{body}</details>"


def section(title: str, body: str) -> str:
    """Markup under a title."""
    return f"<h2>{escape(title)}</h2>{body}"


def code(text: str) -> str:
    """Lines of code as they are."""
    return f"<pre>{escape(text)}</pre>"


def figure(draw: Callable[[], str], described_as: str) -> str:
    """An SVG drawing on white, described for those who do not see it; or why there is none."""
    try:
        svg = draw()
    except MissingDependency as error:
        return paragraphs([f"The figure was left out. {error}"])
    drawing = svg[svg.index("<svg") :]
    return f'<figure role="img" aria-label="{escape(described_as)}">{drawing}</figure>'


class Shown:
    """A result that a notebook and IPython show as ``print`` does."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # IPython takes the first of a class's own members, and a dataclass has a ``__repr__``.
        type.__setattr__(cls, "_repr_pretty_", Shown._repr_pretty_)

    def _repr_html_(self) -> str:
        return fragment([code(str(self))])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))
