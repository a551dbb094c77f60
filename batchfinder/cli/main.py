"""The front door of the command line, and its exit codes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from batchfinder.cli.output import ReaderGone, check_files, say
from batchfinder.cli.parser import parse
from batchfinder.errors import BatchFinderError, InvalidArgument

__all__ = ["main"]

DONE, FAILED, MISUSED, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code.

    0: done. 1: no answer (nothing fits, the loss is not finite, …), the reason on stderr. 2: the
    command was not understood or its target cannot be used. 130: interrupted. 141: whoever read
    the output closed it. A bug in the user's own code passes through with its traceback.
    """
    # A console of another encoding shows "?" for what it lacks; a report is not lost for that.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        return _obeyed(arguments)
    except ReaderGone:
        return READER_GONE


def _obeyed(arguments: Sequence[str] | None) -> int:
    try:
        asked = parse(arguments)
    except SystemExit:
        say()  # the help may still be in the buffer
        raise
    if asked.quiet:
        os.environ["BATCHFINDER_QUIET"] = "1"
    try:
        check_files(asked)
        asked.out = sys.stdout
        # What the user's code prints must not stand in the midst of an answer for a machine.
        with redirect_stdout(sys.stderr) if asked.json else nullcontext():
            asked.command(asked)
    except BatchFinderError as error:
        print(f"batchfinder: {type(error).__name__}: {error}", file=sys.stderr)
        return MISUSED if isinstance(error, InvalidArgument) else FAILED
    except KeyboardInterrupt:
        print("batchfinder: interrupted; nothing was changed", file=sys.stderr)
        return INTERRUPTED
    return DONE
