"""The choice as lines ready to paste into four ways of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from batchfinder.errors import InvalidArgument
from batchfinder.units import format_rate

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["FRAMEWORKS", "settings"]


def settings(report: ReportData, framework: str = "pytorch") -> str:
    """Lines to paste for "pytorch", "lightning", "transformers" or "accelerate".

    Raises:
        InvalidArgument: where the framework is none of these.
    """
    if framework not in FRAMEWORKS:
        known = ", ".join(f'"{name}"' for name in FRAMEWORKS)
        raise InvalidArgument(f"expected one of {known}; found {framework!r}")
    return FRAMEWORKS[framework](report)


def _loader_line(report: ReportData) -> str:
    """The user's own loader at the recommended size."""
    if report.loader is None:
        own = "and your own arguments, or report.make_loader(loader)"
        return f"loader = DataLoader(dataset, batch_size={report.batch_size})  # {own}"
    given = "".join(f", {name}={value}" for name, value in report.loader)
    return f"loader = DataLoader(dataset, batch_size={report.batch_size}{given})"


def _optimizer_lines(report: ReportData) -> list[str]:
    """The rate of one group, or the factor for several; undone by a scheduler made before."""
    if report.learning_rate is None:
        return []
    line = f'    group["lr"] = {format_rate(report.learning_rate)}'
    if rates := _several_rates(report):
        line = f'    group["lr"] *= {report.rate_factor:.6g}  # {rates}'
    schedulers = "# before any scheduler is made; report.apply_rate(optimizer, scheduler) after"
    return [schedulers, "for group in optimizer.param_groups:", line]


def _several_rates(report: ReportData) -> str:
    """The recommended rates of groups that have rates of their own; nothing where all have one."""
    if report.rate_factor is None or len({rate.base for rate in report.rates}) < 2:
        return ""
    return ", ".join(format_rate(rate.recommended) for rate in report.rates)


def _rate_lines(report: ReportData, line: str, several: str) -> list[str]:
    """``line`` with the rate; ``several`` with the factor where groups have rates of their own."""
    rate = report.learning_rate
    if rates := _several_rates(report):
        words = f"every group's rate times {report.rate_factor:.6g}: {rates}"
        return [several.format(rates=words)]
    return [] if rate is None else [line.format(rate=format_rate(rate))]


def _world_line(report: ReportData) -> list[str]:
    devices = report.world_size
    return [f"# on {devices} devices; the batch size is per device"] if devices > 1 else []


def _pytorch(report: ReportData) -> str:
    steps = report.accumulation_steps
    lines = [*_world_line(report), _loader_line(report)]
    lines += _optimizer_lines(report)
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


def _lightning(report: ReportData) -> str:
    lines = _world_line(report)
    lines.append(_loader_line(report))
    lines.append(f"trainer = Trainer(accumulate_grad_batches={report.accumulation_steps})")
    lines += _rate_lines(
        report, "# in configure_optimizers: lr={rate}", "# in configure_optimizers: {rates}"
    )
    return "\n".join(lines)


def _transformers(report: ReportData) -> str:
    lines = [
        *_world_line(report),
        "arguments = TrainingArguments(",
        '    output_dir="out",',
        f"    per_device_train_batch_size={report.batch_size},",
        f"    gradient_accumulation_steps={report.accumulation_steps},",
        *_rate_lines(
            report,
            "    learning_rate={rate},",
            "    # in the optimizer that you pass to Trainer, {rates}",
        ),
        ")  # before Trainer(...): it reads the batch size once, when it is made",
    ]
    return "\n".join(lines)


def _accelerate(report: ReportData) -> str:
    lines = [
        *_world_line(report),
        f"accelerator = Accelerator(gradient_accumulation_steps={report.accumulation_steps})",
        _loader_line(report),
        *_rate_lines(
            report,
            "# where the optimizer is made: lr={rate}",
            "# where the optimizer is made: {rates}",
        ),
        "model, optimizer, loader = accelerator.prepare(model, optimizer, loader)",
    ]
    return "\n".join(lines)


FRAMEWORKS: dict[str, Callable[[ReportData], str]] = {
    "pytorch": _pytorch,
    "lightning": _lightning,
    "transformers": _transformers,
    "accelerate": _accelerate,
}
