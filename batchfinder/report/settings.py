"""The choice as lines ready to paste into four ways of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from batchfinder.errors import InvalidArgument
from batchfinder.units import format_rate

if TYPE_CHECKING:
    from batchfinder.report.record import Report

__all__ = ["FRAMEWORKS", "settings"]


def settings(report: Report, framework: str = "pytorch") -> str:
    """Lines to paste for "pytorch", "lightning", "transformers" or "accelerate".

    Raises:
        InvalidArgument: where the framework is none of these.
    """
    if framework not in FRAMEWORKS:
        known = ", ".join(f'"{name}"' for name in FRAMEWORKS)
        raise InvalidArgument(f"expected one of {known}; found {framework!r}")
    return FRAMEWORKS[framework](report)


def _rate_lines(report: Report, line: str) -> list[str]:
    rate = report.learning_rate
    return [] if rate is None else [line.format(rate=format_rate(rate))]


def _world_line(report: Report) -> list[str]:
    devices = report.world_size
    return [f"# on {devices} devices; the batch size is per device"] if devices > 1 else []


def _pytorch(report: Report) -> str:
    size, steps = report.batch_size, report.accumulation_steps
    lines = [*_world_line(report), f"loader = DataLoader(dataset, batch_size={size}, shuffle=True)"]
    lines += _rate_lines(report, 'for group in optimizer.param_groups:\n    group["lr"] = {rate}')
    if steps > 1:
        lines += [
            f"accumulation_steps = {steps}",
            "for index, (inputs, targets) in enumerate(loader, start=1):",
            "    loss = loss_fn(model(inputs), targets) / accumulation_steps",
            "    loss.backward()",
            "    if index % accumulation_steps == 0:",
            "        optimizer.step()",
            "        optimizer.zero_grad()",
        ]
    return "\n".join(lines)


def _lightning(report: Report) -> str:
    lines = _world_line(report)
    lines.append(f"loader = DataLoader(dataset, batch_size={report.batch_size}, shuffle=True)")
    lines.append(f"trainer = Trainer(accumulate_grad_batches={report.accumulation_steps})")
    lines += _rate_lines(report, "# in configure_optimizers: lr={rate}")
    return "\n".join(lines)


def _transformers(report: Report) -> str:
    lines = [
        *_world_line(report),
        "arguments = TrainingArguments(",
        '    output_dir="out",',
        f"    per_device_train_batch_size={report.batch_size},",
        f"    gradient_accumulation_steps={report.accumulation_steps},",
        *_rate_lines(report, "    learning_rate={rate},"),
        ")  # before Trainer(...): it reads the batch size once, when it is made",
    ]
    return "\n".join(lines)


def _accelerate(report: Report) -> str:
    lines = [
        *_world_line(report),
        f"accelerator = Accelerator(gradient_accumulation_steps={report.accumulation_steps})",
        f"loader = DataLoader(dataset, batch_size={report.batch_size}, shuffle=True)",
        *_rate_lines(report, "# where the optimizer is made: lr={rate}"),
        "model, optimizer, loader = accelerator.prepare(model, optimizer, loader)",
    ]
    return "\n".join(lines)


FRAMEWORKS: dict[str, Callable[[Report], str]] = {
    "pytorch": _pytorch,
    "lightning": _lightning,
    "transformers": _transformers,
    "accelerate": _accelerate,
}
