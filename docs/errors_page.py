"""The page of errors and warnings, written from ``batchfinder.errors`` itself."""

from __future__ import annotations

import inspect
from pathlib import Path

from batchfinder import errors

_OPENING = """\
# Errors and warnings

<!-- Written by docs/errors_page.py from batchfinder/errors.py. Edit the docstrings there. -->

Every error that batchfinder raises itself is a `BatchFinderError`; every warning is a
`BatchFinderWarning`. Each message states what was expected, what was found, and the way out. An
error in your own code is never wrapped in one of these: it propagates unchanged, with a note that
names the batch size and the stage.
"""


def errors_page() -> str:
    """The whole page as Markdown."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    raised = [kind for kind in kinds if not issubclass(kind, Warning)]
    warned = [kind for kind in kinds if issubclass(kind, Warning)]
    parts = [_OPENING, "## Errors\n", *map(_entry, raised), "## Warnings\n", *map(_entry, warned)]
    return "\n".join(parts)


def _entry(kind: type[BaseException]) -> str:
    cause, _, way_out = inspect.getdoc(kind).partition("Args:")[0].partition("Way out:")
    bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
    return (
        f"### {kind.__name__}\n\n"
        f"{_code(cause)}\n\n"
        f"**Way out.** {_code(way_out)}\n\n"
        f"Also caught as {bases}.\n"
    )


def _code(text: str) -> str:
    joined = " ".join(text.split()).replace("``", "`")
    return joined[:1].upper() + joined[1:]


if __name__ == "__main__":
    Path(__file__).with_name("errors.md").write_text(errors_page(), encoding="utf-8")
