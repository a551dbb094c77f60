"""What a prediction says, frozen."""

from __future__ import annotations

from dataclasses import dataclass

from batchfinder.devices import find_device
from batchfinder.errors import InvalidArgument
from batchfinder.html import Shown
from batchfinder.units import format_bytes, format_size, parse_bytes

__all__ = ["MOST", "Allowance", "DevicePredictions", "MemoryEstimate", "MemoryPrediction"]

MOST = 1 << 24
"""No larger batch is asked about."""

_WAYS_OUT = (
    "Try activation checkpointing, lower precision (autocast=), a smaller input or a smaller "
    "model, or an optimizer with less state."
)


@dataclass(frozen=True)
class Allowance:
    """Memory that a prediction cannot see, and that is therefore set aside."""

    name: str
    bytes: int


@dataclass(frozen=True)
class MemoryEstimate(Shown):
    """The predicted memory of one training step, in bytes; nothing was run.

    ``peak_bytes`` is parameters + buffers + optimizer state + batch + ``working_bytes``: the
    activations, gradients and temporaries that are alive at the peak. ``gradient_bytes`` is what
    all gradients take together, not necessarily at the peak. ``unseen`` is not included.
    """

    batch_size: int
    device: str
    peak_bytes: int
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    unseen: tuple[Allowance, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def working_bytes(self) -> int:
        """Activations, gradients and temporaries alive at the peak."""
        at_rest = self.parameter_bytes + self.buffer_bytes + self.optimizer_bytes
        return self.peak_bytes - at_rest - self.batch_bytes

    @property
    def total_bytes(self) -> int:
        """The peak and what is set aside for what was not predicted."""
        return self.peak_bytes + sum(each.bytes for each in self.unseen)

    def fits(self, memory: int | str) -> bool:
        """Whether the step should fit: in bytes, ``"24GB"``, or on a device such as ``"H200"``.

        Raises:
            InvalidArgument: where ``memory`` is neither an amount nor a device of the table.
        """
        return self.total_bytes <= memory_of(memory)

    def __str__(self) -> str:
        rows = [
            ("parameters", self.parameter_bytes),
            ("buffers", self.buffer_bytes),
            ("optimizer state", self.optimizer_bytes),
            ("batch", self.batch_bytes),
            ("activations, gradients, temporaries", self.working_bytes),
            (f"predicted peak at batch size {format_size(self.batch_size)}", self.peak_bytes),
            *((f"not seen: {each.name}", each.bytes) for each in self.unseen),
        ]
        width = max(len(name) for name, _ in rows)
        table = [f"{name:<{width}}  {format_bytes(count):>10}" for name, count in rows]
        return "\n".join([*table, *(f"assumed: {sentence}" for sentence in self.assumed)])


def memory_of(memory: int | str) -> int:
    """Bytes, of an amount or of a device's name.

    Raises:
        InvalidArgument: where it is neither.
    """
    try:
        return parse_bytes(memory)
    except InvalidArgument:
        if not isinstance(memory, str):
            raise
        return find_device(memory).memory_bytes


@dataclass(frozen=True)
class MemoryPrediction(Shown):
    """The predicted largest batch for a device. It was not run.

    Attributes:
        batch_size: the largest batch with all allowances; 0 if nothing fits.
        high: the largest batch without allowances; no larger one fits if the predicted peak is
            correct.
        low: the largest batch with all allowances and a peak larger by ``peak_error``.
        device: its name, or the requested memory.
        memory_bytes: the device's total memory.
        allowances: the memory set aside, by name.
        peak_bytes: the predicted peak at ``batch_size``, or at ``smallest`` if nothing fits,
            without allowances.
        peak_error: the assumed relative error of the predicted peak; it is not measured.
        assumed: assumptions about the step.
        smallest: the smallest batch considered.
        dataset_samples: the number of samples in the dataset; ``None`` if unknown.
    """

    batch_size: int
    high: int
    low: int
    device: str
    memory_bytes: int
    allowances: tuple[Allowance, ...]
    peak_bytes: int
    peak_error: float
    assumed: tuple[str, ...] = ()
    smallest: int = 1
    dataset_samples: int | None = None

    def __str__(self) -> str:
        first = self._largest() if self.batch_size else self._nothing()
        set_aside = [
            f"set aside: {each.name}, {format_bytes(each.bytes)}" for each in self.allowances
        ]
        return "\n".join([*first, *set_aside, *(f"assumed: {each}" for each in self.assumed)])

    def _largest(self) -> list[str]:
        size, low, high = map(format_size, (self.batch_size, self.low, self.high))
        if self.batch_size >= MOST:
            said = f"{size} or more should fit on {self._where()}; no larger size was requested."
        else:
            said = f"{size} should fit on {self._where()}; the range is {low} to {high}."
        most = self.dataset_samples
        if most is None or self.batch_size <= most:
            return [f"{said} Predicted, not run."]
        whole = f"The dataset has only {format_size(most)} samples, so memory is not the limit."
        return [f"{said} Predicted, not run.", whole]

    def _nothing(self) -> list[str]:
        aside = format_bytes(sum(each.bytes for each in self.allowances))
        said = (
            f"Not even a batch of {self.smallest} should fit on {self._where()}: its step peaks at "
            f"{format_bytes(self.peak_bytes)}, and {aside} are set aside for what was not "
            "predicted."
        )
        if self.high:
            said += f" With nothing set aside up to {format_size(self.high)} would."
        return [f"{said} Predicted, not run.", _WAYS_OUT]

    def _where(self) -> str:
        memory = format_bytes(self.memory_bytes)
        return self.device if memory in self.device else f"{self.device} ({memory})"


@dataclass(frozen=True)
class DevicePredictions(Shown):
    """The predicted largest batch for each of several devices, from one trace of the step."""

    predictions: tuple[MemoryPrediction, ...]

    def __str__(self) -> str:
        rows = [("device", "memory", "batch size", "range")]
        for found in self.predictions:
            span = f"{format_size(found.low)} to {format_size(found.high)}"
            size = format_size(found.batch_size) if found.batch_size else "does not fit"
            rows.append((found.device, format_bytes(found.memory_bytes), size, span))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        table = [
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
            for row in rows
        ]
        assumed = dict.fromkeys(said for found in self.predictions for said in found.assumed)
        return "\n".join([*table, "Predicted, not run.", *(f"assumed: {said}" for said in assumed)])
