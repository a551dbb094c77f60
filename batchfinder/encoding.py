"""Strict JSON, there and back, of whatever is frozen data."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Self, TypeVar

from batchfinder.errors import InvalidArgument
from batchfinder.wording import Caveat

__all__ = ["SCHEMA", "AsJson", "decode", "dumps", "encode", "loads", "read"]


SCHEMA = 1
_WITHOUT_CODE = "older.said"
_GONE = {"activation_bytes_per_sample"}
"""Fields that older reports hold and nothing reads."""
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_Data = TypeVar("_Data")


def encode(value: Any) -> Any:
    """``value`` as objects, lists, strings, numbers, booleans and null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, str):
        return _encode_text(value)
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, bool | int | float):
        return encode(value.item())  # a NumPy or torch scalar
    return _encode_float(value) if isinstance(value, float) else value


def _encode_text(value: str) -> Any:
    if isinstance(value, Caveat) and value.code != _WITHOUT_CODE:
        numbers = {name: encode(number) for name, number in value.numbers.items()}
        return {"code": value.code, "numbers": numbers}
    return str(value)  # torch's version is a subclass of str


def _encode_float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode(kind: Any, value: Any) -> Any:
    """``value`` (of ``encode``) as an instance of the annotation ``kind``.

    Raises:
        InvalidArgument: where ``value`` cannot be of that kind.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(arguments, value)
    if origin is tuple:
        return _decode_tuple(arguments, value)
    if kind is Caveat:
        return _decode_caveat(value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _decode_member(kind, value)
    return _decode_plain(kind, value)


def _decode_union(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not type(None))
    return decode(kind, value)


def _decode_tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InvalidArgument(f"expected a list; found {value!r}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(decode(kinds[0], item) for item in value)
    if len(kinds) != len(value):
        raise InvalidArgument(f"expected a list of {len(kinds)}; found {value!r}")
    return tuple(decode(kind, item) for kind, item in zip(kinds, value, strict=True))


def _decode_dataclass(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"expected an object for {kind.__name__}; found {value!r}")
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    value = {name: item for name, item in value.items() if name not in _GONE}
    if unknown := sorted(set(value) - names):
        raise InvalidArgument(f"{kind.__name__} has no field {', '.join(unknown)}")
    given = {name: decode(hints[name], item) for name, item in value.items()}
    try:
        return kind(**given)
    except TypeError as error:
        raise InvalidArgument(f"expected every field of {kind.__name__}; {error}") from error


def _decode_caveat(value: Any) -> Caveat:
    if isinstance(value, str):  # as reports held them before they held codes
        return Caveat(_WITHOUT_CODE, text=value)
    try:
        return Caveat(value["code"], **{name: _number(n) for name, n in value["numbers"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"expected a caveat's code and numbers; found {value!r}") from error


def _number(value: Any) -> Any:
    """A caveat's number, text or list as it was: JSON has no infinity and no tuples."""
    if isinstance(value, list):
        return tuple(_number(item) for item in value)
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _decode_member(kind: type[Enum], value: Any) -> Enum:
    for member in kind:
        if value in (member.name, member.value):  # roles were once kept as words
            return member
    names = ", ".join(member.name for member in kind)
    raise InvalidArgument(f"expected one of {names}; found {value!r}")


def _decode_plain(kind: Any, value: Any) -> Any:
    if kind is float:
        if isinstance(value, str) and value in _WORDS:
            return _WORDS[value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value  # a whole number stays one, so that it prints as it did
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise InvalidArgument(f"expected {kind.__name__}; found {value!r}")


def dumps(value: Any) -> str:
    """``value`` as JSON text, with the number of the schema beside it."""
    return json.dumps({"schema": SCHEMA, **encode(value)}, allow_nan=False, indent=2)


def read(kind: type[_Data], source: str | Path) -> _Data:
    """The dataclass ``kind`` from JSON text, or from the file of which ``source`` is the path.

    Raises:
        InvalidArgument: as ``loads``, and where the file cannot be read; the file is named.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return loads(kind, source)
    path = Path(source)
    try:
        return loads(kind, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = f"expected JSON text or the path of its file; there is no file {path}"
        raise InvalidArgument(message) from None
    except OSError as error:
        raise InvalidArgument(f"expected a file that can be read; {error}") from error
    except (InvalidArgument, ValueError) as error:
        said = "it is not text" if isinstance(error, UnicodeDecodeError) else error
        message = f"{path} is not a {kind.__name__.lower()} written by to_json: {said}"
        raise InvalidArgument(message) from error


def loads(kind: type[_Data], text: str) -> _Data:
    """The dataclass ``kind`` that ``dumps`` wrote.

    Raises:
        InvalidArgument: where the text is no JSON, or of another schema or kind.
    """
    name = kind.__name__.lower()
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"expected the JSON text of a {name}; {error}") from error
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise InvalidArgument(
            f'expected a {name} of schema {SCHEMA} (a JSON object with "schema": {SCHEMA})'
        )
    return typing.cast(_Data, decode(kind, data))


class AsJson:
    """A dataclass that is written as strict JSON and read again, equal to what it was."""

    def to_dict(self) -> dict[str, Any]:
        """Plain objects, lists, strings and numbers, fit for strict JSON."""
        return dict(encode(self))

    def to_json(self, path: str | Path | None = None) -> str:
        """Strict JSON; written to ``path`` too, where one is given."""
        written = dumps(self)
        if path is not None:
            Path(path).write_text(written + "\n", encoding="utf-8")
        return written

    @classmethod
    def from_json(cls, source: str | Path) -> Self:
        """What ``to_json`` wrote: its text, or the path of its file.

        Raises:
            InvalidArgument: where it is something else.
        """
        return read(cls, source)
