"""A report as what was asked for: text or JSON on stdout, HTML and figure in files."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TextIO

from batchfinder import plot
from batchfinder.errors import InvalidArgument
from batchfinder.report import Report

__all__ = ["ReaderGone", "check_files", "deliver", "say"]

_DOTS_PER_INCH = 150


class ReaderGone(Exception):
    """Whoever read our output has closed it, as ``head`` does once it has seen enough.

    Raised for the command's own output alone: a broken pipe inside the user's training, such as
    to a worker of a loader, is an error like any other.
    """


def say(text: str = "", out: TextIO | None = None) -> None:
    """Print what the command was asked for, now rather than when the process ends.

    Args:
        text: nothing for what is in the buffer already.
        out: left out, stdout.

    Raises:
        ReaderGone: where nobody reads it.
    """
    out = out or sys.stdout
    try:
        print(text, end="\n" if text else "", flush=True, file=out)
    except BrokenPipeError:
        # What is still in the buffer would be written when the process ends, and complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        raise ReaderGone from None


def check_files(asked: argparse.Namespace) -> None:
    """Whether each file that ``asked`` names has a folder, before minutes are spent.

    Raises:
        InvalidArgument: where it has none, or is a folder itself.
    """
    for option in ("save", "html", "figure"):
        name = getattr(asked, option, None)
        if name is None:
            continue
        path = Path(name).resolve()
        if not path.parent.is_dir():
            raise InvalidArgument(
                f"expected a file in a folder that exists for --{option}; there is no folder "
                f"{path.parent}: make it first, or name another file"
            )
        if path.is_dir():
            raise InvalidArgument(
                f"expected a file for --{option}; {path} is a folder: name a file inside it"
            )


def deliver(report: Report, asked: argparse.Namespace) -> None:
    """Print and write ``report`` as ``asked``. Files are named on stderr.

    Raises:
        ReaderGone: where nobody reads stdout; the files are written all the same.
        InvalidArgument: where a file cannot be written.
        MissingDependency: where a figure is asked for and matplotlib is not installed.
    """
    try:
        say(report.to_json() if asked.json else _text(report, asked), asked.out)
    finally:  # files are written even if nobody reads on to the end
        if asked.html is not None:
            _write(Path(asked.html), report.to_html())
        if asked.figure is not None:
            _draw(report, Path(asked.figure))


def _text(report: Report, asked: argparse.Namespace) -> str:
    parts = [str(report)]
    if asked.explain:
        parts.append(report.explain())
    if asked.settings:
        parts.append(report.settings(asked.settings))
    return "\n\n".join(parts)


def _draw(report: Report, path: Path) -> None:
    drawn = plot.figure(report)
    try:
        drawn.savefig(path, dpi=_DOTS_PER_INCH)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"expected a figure file that can be written; {error}") from error
    print(f"figure written to {path.resolve()}", file=sys.stderr)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"expected a file that can be written; {error}") from error
    print(f"page written to {path.resolve()}", file=sys.stderr)
