"""Tables as data, and their plain-text form: fixed width, no colour, the chosen row in words."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

__all__ = ["CHOSEN_GLYPH", "Row", "Table", "render", "wrap"]

CHOSEN_GLYPH = "→"
_NARROWEST_LAST_COLUMN = 12
_UNIT = re.compile(r"(?<=\d) (?=(?:[KMGT]?i?B|ms|s|min|h)\b)")
_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Row:
    """One row of cells, as text; ``chosen`` marks the row of the recommended size."""

    cells: tuple[str, ...]
    chosen: bool = False


@dataclass(frozen=True)
class Table:
    """A header and rows of as many cells; every column but the last is aligned right."""

    header: tuple[str, ...]
    rows: tuple[Row, ...]

    def without_empty_columns(self) -> Table:
        """The same table without the columns in which no row has anything to say."""
        kept = [
            index
            for index in range(len(self.header))
            if any(row.cells[index].strip("-") for row in self.rows)
        ]
        return Table(
            tuple(self.header[index] for index in kept),
            tuple(Row(tuple(row.cells[i] for i in kept), row.chosen) for row in self.rows),
        )

    def without(self, name: str) -> Table:
        """The same table without one column, where it has it."""
        kept = [index for index, title in enumerate(self.header) if title != name]
        return Table(
            tuple(self.header[index] for index in kept),
            tuple(Row(tuple(row.cells[i] for i in kept), row.chosen) for row in self.rows),
        )


def render(table: Table, width: int) -> str:
    """The table as lines of at most ``width`` characters; the last column is wrapped to fit.

    A table whose other columns alone are wider than ``width`` is not cut: figures matter more.
    """
    widths = [
        max(len(cell) for cell in column)
        for column in zip(table.header, *(row.cells for row in table.rows), strict=True)
    ]
    taken = 2 + sum(size + 2 for size in widths[:-1])
    widths[-1] = max(_NARROWEST_LAST_COLUMN, min(widths[-1], width - taken))
    lines = _lines(table.header, widths, "  ")
    lines.append("  " + "  ".join("─" * size for size in widths))
    for row in table.rows:
        lines.extend(_lines(row.cells, widths, f"{CHOSEN_GLYPH} " if row.chosen else "  "))
    return "\n".join(lines)


def _lines(cells: tuple[str, ...], widths: list[int], glyph: str) -> list[str]:
    figures = [cell.rjust(size) for cell, size in zip(cells[:-1], widths[:-1], strict=True)]
    first, *more = textwrap.wrap(cells[-1], widths[-1]) or [""]
    indent = " " * (2 + sum(size + 2 for size in widths[:-1]))
    return [f"{glyph}{'  '.join([*figures, first])}".rstrip(), *(indent + rest for rest in more)]


def wrap(text: str, width: int, indent: str = "", hanging: str | None = None) -> str:
    """``text`` in lines of at most ``width``; figures stay with their units on one line."""
    solid = _UNIT.sub(_NO_BREAK, text)
    return textwrap.fill(
        solid,
        width,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace(_NO_BREAK, " ")
