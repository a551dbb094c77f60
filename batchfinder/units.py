"""Bytes, counts and seconds, read from and written for people."""

from __future__ import annotations

import math
import re

from batchfinder.errors import InvalidArgument

__all__ = [
    "counted",
    "format_bytes",
    "format_count",
    "format_factor",
    "format_rate",
    "format_seconds",
    "format_size",
    "parse_bytes",
]

_BINARY = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_DECIMAL = {"K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][0-9]+)?)\s*([KMGT]?)(I?)B?\s*", re.IGNORECASE)


def parse_bytes(amount: int | float | str) -> int:
    """``512``, ``"512MiB"`` (binary) or ``"8GB"`` (decimal) as a count of bytes.

    Raises:
        InvalidArgument: where the text is no amount of bytes, or the amount is not above zero.
    """
    if isinstance(amount, str):
        match = _PATTERN.fullmatch(amount)
        if match is None:
            raise InvalidArgument(
                f'expected bytes, such as 536870912, "512MiB" or "8GB"; found {amount!r}'
            )
        number, prefix, binary = match.groups()
        table = _BINARY if binary else _DECIMAL
        amount = float(number) * table.get(prefix.upper(), 1)
    if isinstance(amount, bool) or not math.isfinite(amount) or amount <= 0:
        raise InvalidArgument(f"expected a number of bytes above zero; found {amount!r}")
    return int(amount)


def format_bytes(count: float) -> str:
    """Bytes with three significant digits in binary units: ``"1.50 GiB"``."""
    for unit, size in (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if abs(count) >= size:
            value = count / size
            digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    return f"{count:.0f} B"


def format_count(number: float) -> str:
    """A count, at most three significant digits, thousands separated: ``"1,230"``, ``"inf"``."""
    if not math.isfinite(number):
        return "inf" if number > 0 else str(number)
    if abs(number) >= 1000:
        digits = 2 - math.floor(math.log10(abs(number)))
        return f"{round(number, digits):,.0f}"
    return f"{number:.3g}"


def format_size(size: float) -> str:
    """A batch size, exact to the last digit: ``"1,024"``; ``format_count`` would round it."""
    return f"{size:,.0f}"


def counted(count: float, noun: str) -> str:
    """``"1 step"``, ``"1,024 steps"``; ``noun`` in the singular."""
    return f"{format_size(count)} {noun}{'' if count == 1 else 's'}"


def format_factor(ratio: float) -> str:
    """A ratio with two digits where that is enough: ``"0.97x"``, ``"1.9x"``, ``"160x"``."""
    if not math.isfinite(ratio):
        return "an unknown multiple of"
    if ratio >= 100:
        return f"{format_count(ratio)}x"
    return f"{round(ratio, 2):g}x" if 0.95 < ratio < 1.05 else f"{float(f'{ratio:.2g}'):g}x"


def format_rate(rate: float | None) -> str:
    """A learning rate with three significant digits, or what is said without one."""
    return "unchanged" if rate is None else f"{rate:.3g}"


def format_seconds(seconds: float) -> str:
    """``"3.2 ms"``, ``"1.5 s"``, ``"2 min 05 s"``, ``"1 h 02 min"``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
