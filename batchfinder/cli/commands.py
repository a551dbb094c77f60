"""The commands, and how they print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from batchfinder import plot
from batchfinder.cli.factory import Made, made_by
from batchfinder.encoding import encode
from batchfinder.errors import InvalidArgument, NothingFits
from batchfinder.progress import rank
from batchfinder.report import Report
from batchfinder.units import format_bytes, parse_bytes

__all__ = [
    "ReaderGone",
    "check_files",
    "compare",
    "deliver",
    "demo",
    "predict",
    "run",
    "say",
    "show",
]


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
                f"expected a file in an existing folder for --{option}; there is no folder "
                f"{path.parent}: create it first, or name another file"
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


def demo(asked: argparse.Namespace) -> None:
    """The whole call on scikit-learn's digits."""
    from batchfinder import demo as example

    example.require("sklearn", "matplotlib")
    deliver(example.demo(**_given(asked, "memory_limit")), asked)


def run(asked: argparse.Namespace) -> None:
    """find_batch_size on what the user's factory returns; of several ranks the first one prints."""
    from batchfinder.find import find_batch_size

    if asked.figure is not None:
        plot.require()
    made = made_by(asked.target, find_batch_size)
    options = made.other_options()
    options |= _given(asked, "memory_limit", "at_most", "at_least", "budget_seconds")
    if asked.no_noise:
        options["noise"] = None
    report = find_batch_size(made.training(), **options)
    if rank() != 0:
        return
    if asked.save is not None:
        report.to_json(asked.save)
    deliver(report, asked)


def show(asked: argparse.Namespace) -> None:
    """A saved report once more."""
    deliver(Report.from_json(Path(asked.report)), asked)


def compare(asked: argparse.Namespace) -> None:
    """compare_batch_sizes, every training of a model that the user's factory makes anew."""
    from batchfinder.compare import compare_batch_sizes
    from batchfinder.find import find_batch_size

    def make() -> Made:
        return made_by(asked.target, find_batch_size, compare_batch_sizes)

    options = {**make().options_for(compare_batch_sizes), **_given(asked, "budget_seconds")}
    sizes = _sizes(asked.sizes)
    study = compare_batch_sizes(lambda: make().training(), sizes=sizes, **options)
    _print(study, asked)


def predict(asked: argparse.Namespace) -> None:
    """Predictions of memory for what the user's factory returns.

    Raises:
        NothingFits: where it predicts that nothing does, or that the size asked about does not.
        InvalidArgument: where the options do not go together.
    """
    from batchfinder.find import find_batch_size
    from batchfinder.predict import predict_for_devices, predict_max_batch_size

    if asked.memory is not None:
        parse_bytes(asked.memory)
    if asked.batch_size is not None:
        _predict_one_size(asked)
        return
    if asked.savings:
        raise InvalidArgument(
            "expected --batch-size with --savings: pass the batch size to save memory at"
        )
    made = made_by(asked.target, find_batch_size, predict_max_batch_size)
    if asked.device == "all":
        options = made.options_for(predict_for_devices)
        _print(predict_for_devices(made.training(), **options), asked)
        return
    options = {**made.options_for(predict_max_batch_size), **_given(asked, "memory", "device")}
    found = predict_max_batch_size(made.training(), **options)
    if found.batch_size or asked.json:
        _print(found, asked)
    if not found.batch_size:
        raise NothingFits(str(found))


def _predict_one_size(asked: argparse.Namespace) -> None:
    """Whether one size fits; the exit code is for continuous integration."""
    from batchfinder.find import find_batch_size
    from batchfinder.predict import estimate_memory, memory_savings

    if asked.savings and asked.json:
        raise InvalidArgument("expected --savings without --json; found both: leave one out")
    if asked.device == "all":
        raise InvalidArgument('expected one device or --memory with --batch-size; found "all"')
    made = made_by(asked.target, find_batch_size, estimate_memory)
    options = {**made.options_for(estimate_memory), "device": asked.device or "cuda"}
    found = estimate_memory(made.training(), batch_size=asked.batch_size, **options)
    _print(found, asked)
    if asked.savings:
        saved = memory_savings(made.training(), batch_size=asked.batch_size, **options)
        _print(saved, asked)
    where = asked.memory or asked.device
    needed = format_bytes(found.total_bytes)
    if not found.fits(where):
        raise NothingFits(
            f"batch size {asked.batch_size} should not fit in {where}: it needs {needed}, "
            "including the memory set aside. Predicted, not run; --savings lists what would "
            "reduce it"
        )
    if not asked.json:
        say(f"batch size {asked.batch_size} should fit in {where}: it needs {needed}", asked.out)


def _given(asked: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(asked, name)) is not None}


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgument(f"expected sizes such as 16,64,256; found {text!r}") from None
    if any(size < 1 for size in sizes):
        raise InvalidArgument(f"expected sizes of at least 1; found {text!r}")
    return sizes


def _print(result: Any, asked: argparse.Namespace) -> None:
    text = json.dumps(encode(result), allow_nan=False, indent=2) if asked.json else str(result)
    say(text, asked.out)
