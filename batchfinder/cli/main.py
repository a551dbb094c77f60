"""The command line: what it takes, its front door and its exit codes."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import PackageNotFoundError, version

from batchfinder.cli import commands
from batchfinder.cli.commands import ReaderGone, check_files, say
from batchfinder.errors import BatchFinderError, InvalidArgument
from batchfinder.report import FRAMEWORKS

__all__ = ["main", "parse"]


_ABOUT = "Which batch size should I train with, and at which learning rate?"

_MAIN_HELP = """\
examples:
  python -m batchfinder demo                     a whole call on handwritten digits, about a minute
  python -m batchfinder run train:make           your own model and loader
  python -m batchfinder show report.json         display a saved report

`train:make` is a function without arguments, in a file train.py that can be imported from here:

  def make():
      model = Network()
      loader = DataLoader(dataset, batch_size=32, shuffle=True)
      optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
      return model, loader, {"loss_fn": nn.CrossEntropyLoss(), "optimizer": optimizer}

It returns the model, the loader and, optionally, a dict of keyword arguments of find_batch_size
and Training; or one Training.

exit codes: 0 success; 1 no answer (the reason is on stderr); 2 usage error; 130 interrupted;
141 output closed by its reader.
Progress goes to stderr (BATCHFINDER_QUIET=1 or --quiet turns it off), the result to stdout.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments as a namespace whose ``command`` is the function to call with it."""
    parser = argparse.ArgumentParser(
        prog="batchfinder",
        description=_ABOUT,
        epilog=_MAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for add in (_add_demo, _add_run, _add_compare, _add_predict, _add_show):
        add(subparsers)
    return parser.parse_args(arguments)


def _version() -> str:
    try:
        return f"batchfinder {version('torch-batchfinder')}"
    except PackageNotFoundError:
        return "batchfinder, not installed"


def _new(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    about: str,
    more: str = "",
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=getattr(commands, name))
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="package.module:make",
        help="a function without arguments that returns (model, loader) or"
        " (model, loader, keyword arguments)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory-limit", metavar="SIZE", help='such as "512MiB" or "8GB"; simulated on a CPU'
    )
    parser.add_argument("--at-most", type=int, metavar="N", help="upper bound on the batch size")
    parser.add_argument("--at-least", type=int, metavar="N", help="lower bound on the batch size")
    parser.add_argument(
        "--budget-seconds", type=float, metavar="S", help="soft time limit in seconds"
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--explain", action="store_true", help="also print the explanation")
    parser.add_argument(
        "--settings",
        metavar="FRAMEWORK",
        choices=tuple(FRAMEWORKS),
        help="print lines to paste: pytorch, lightning, transformers or accelerate",
    )
    parser.add_argument("--html", metavar="FILE", help="write a self-contained HTML page")
    parser.add_argument("--figure", metavar="FILE", help="write the figure (.png, .svg, .pdf)")


def _add_demo(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _new(subparsers, "demo", "run a whole call on scikit-learn's handwritten digits")
    parser.add_argument("--memory-limit", metavar="SIZE", help="the simulated limit (48MiB)")
    _add_outputs(parser)
    parser.set_defaults(figure="batchfinder-demo.png")


def _add_run(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _new(subparsers, "run", "find the batch size of your own model and loader")
    _add_target(parser)
    _add_limits(parser)
    parser.add_argument("--no-noise", action="store_true", help="skip the noise scale")
    parser.add_argument("--save", metavar="FILE", help="write the report as JSON, for `show`")
    _add_outputs(parser)


def _add_compare(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _new(subparsers, "compare", "train at several batch sizes and compare them")
    _add_target(parser)
    parser.add_argument(
        "--sizes", required=True, metavar="N,N,…", help="the batch sizes, such as 16,64,256"
    )
    parser.add_argument(
        "--budget-seconds", type=float, metavar="S", help="soft time limit in seconds"
    )


def _add_predict(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _new(
        subparsers,
        "predict",
        "predict the largest batch size that fits, or whether one fits, without the device",
        "Nothing is run on the device and nothing is allocated: shapes are traced with fake\n"
        "tensors. It is a prediction; on the device itself, `run` measures.\n\n"
        "With --batch-size the exit code says whether that size should fit (0) or not (1):\n"
        "  python -m batchfinder predict train:make --batch-size 64 --memory 8GB",
    )
    _add_target(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--memory", metavar="SIZE", help='the device\'s memory, such as "80GB"')
    which.add_argument(
        "--device", metavar="NAME", help='its name, such as "H200"; "all" for a table of devices'
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="ask whether N fits instead of the largest size"
    )
    parser.add_argument(
        "--savings",
        action="store_true",
        help="with --batch-size: list what would reduce peak memory",
    )


def _add_show(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _new(subparsers, "show", "display a saved report as text, HTML or figure")
    parser.add_argument("report", metavar="report.json", help="a file that to_json or --save wrote")
    _add_outputs(parser)


DONE, FAILED, MISUSED, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code.

    0: done. 1: no answer (nothing fits, the loss is not finite, …), the reason on stderr. 2: a
    usage error, or a target that cannot be used. 130: interrupted. 141: whoever read
    the output closed it. A bug in the user's own code passes through with its traceback.
    """
    # A console of another encoding shows "?" for what it lacks; a report is not lost for that.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        return _run(arguments)
    except ReaderGone:
        return READER_GONE


def _run(arguments: Sequence[str] | None) -> int:
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
