"""Every sentence about a result, made from a code and numbers: the one place where words live.

One module for each part of the package holds its ``SENTENCES``: a code and either a template for
``str.format`` or a function of the numbers. Codes are ``"part.what"``, such as
``"probe.disturbed"``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from string import Formatter
from types import MappingProxyType
from typing import Any

__all__ = ["Caveat", "capitalized", "sentence"]


def sentence(code: str, numbers: Mapping[str, Any]) -> str:
    """The sentence for ``code``, with ``numbers`` put in.

    Raises:
        KeyError: where no sentence has this code.
    """
    part = code.partition(".")[0]
    try:
        words: Mapping[str, str | Callable[..., str]] = import_module(
            f"batchfinder.wording.{part}"
        ).SENTENCES
    except ModuleNotFoundError:
        raise KeyError(code) from None
    made = words[code]
    return _GROUPED.vformat(made, (), numbers) if isinstance(made, str) else made(**numbers)


class _Grouped(Formatter):
    """Whole numbers read ``1,045`` where the template does not say otherwise."""

    def format_field(self, value: Any, spec: str) -> Any:
        return super().format_field(value, "," if type(value) is int and not spec else spec)


_GROUPED = _Grouped()


def capitalized(text: str) -> str:
    """``text`` with a capital first letter, unless it begins with a name from code."""
    word = text.split(" ", 1)[0]
    return text if "_" in word or "(" in word else f"{text[:1].upper()}{text[1:]}"


class Caveat(str):
    """One thing a reader should know: a code and numbers, which read as a sentence.

    ``Caveat("measure.unreliable", count=3, of=9)`` compares, prints and joins as the sentence
    that ``batchfinder.wording`` has for its ``code``; programs look at ``code`` and ``numbers``.
    """

    __slots__ = ("code", "numbers")
    code: str
    numbers: Mapping[str, Any]

    def __new__(cls, code: str, **numbers: Any) -> Caveat:
        self = super().__new__(cls, sentence(code, numbers))
        self.code = code
        self.numbers = MappingProxyType(numbers)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _caveat, (self.code, dict(self.numbers))


def _caveat(code: str, numbers: dict[str, Any]) -> Caveat:
    return Caveat(code, **numbers)
