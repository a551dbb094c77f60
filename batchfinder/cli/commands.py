"""One function per command. Each imports what it needs, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from batchfinder import plot
from batchfinder.cli.factory import Anew, made_by
from batchfinder.cli.output import deliver, say
from batchfinder.errors import InvalidArgument, NothingFits
from batchfinder.progress import rank
from batchfinder.report import Report
from batchfinder.report.encoding import encode
from batchfinder.units import format_bytes, parse_bytes

__all__ = ["compare", "demo", "predict", "run", "show"]


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

    anew = Anew(asked.target, (find_batch_size, compare_batch_sizes))
    options = {**anew.options_for(compare_batch_sizes), **_given(asked, "budget_seconds")}
    if anew.has_optimizer:
        options["make_optimizer"] = anew.optimizer
    sizes = _sizes(asked.sizes)
    _print(compare_batch_sizes(anew.model, anew.loader, sizes, **options), asked)


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
        raise InvalidArgument("expected --batch-size beside --savings: pass the size to save at")
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
        raise InvalidArgument('expected one device or --memory beside --batch-size; found "all"')
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
            f"batch size {asked.batch_size} should not fit in {where}: it needs {needed}, what is "
            "set aside included. Predicted, not run; --savings says what would lower it"
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
