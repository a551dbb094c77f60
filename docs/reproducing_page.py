"""The page of every table, written from ``tests/benchmarks`` and ``docs/tables``."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "tests" / "benchmarks"

_OPENING = """\
# Reproducing every table

<!-- Written by docs/reproducing_page.py. -->

Scripts in `tests/benchmarks/` produce the tables on this page. Figures elsewhere in the
documentation that no script produces are single measurements, and the page names the machine. The
scripts report figures and assert nothing; the tests are in `tests/`. Timings depend on the machine,
which is a 2-core CPU machine unless a table names another.

The tables on the race and its arms, long targets, users' own pairs, slow data, busy machines, the
end of the warm-up, the monitor, ranks, the frameworks, GPUs, predicted memory, the cost of a search
and the comparison with other tools were made after version 0.1.0. All others were made with version
0.1.0 (2026-11-21), before the unreleased changes in the [changelog](changelog.md), and have not
been repeated.

"""


def reproducing_page() -> str:
    """The scripts, then each table that has been measured."""
    scripts = sorted(path for path in BENCHMARKS.glob("*.py") if _door(path))
    rows = [f"| `{path.name}` | {_first_line(path)} |" for path in scripts]
    listed = "\n".join(["| script | reports |", "|---|---|", *rows])
    tables = [_table(path) for path in sorted((HERE / "tables").glob("*.md"))]
    return "\n".join([_OPENING + listed, "", *tables])


def _door(path: Path) -> bool:
    return '__name__ == "__main__"' in path.read_text(encoding="utf-8")


def _first_line(path: Path) -> str:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(said.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def _table(path: Path) -> str:
    """A table under a title of second rank, its own titles one rank lower."""
    text = path.read_text(encoding="utf-8").strip()
    title = path.stem.replace("_", " ").capitalize()
    lines = ["#" + line if line.startswith("#") else line for line in text.splitlines()]
    if lines and lines[0].startswith("## "):
        return "\n".join(lines) + "\n"
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "reproducing.md").write_text(reproducing_page(), encoding="utf-8")
