"""Caveats of reports that were saved before caveats had codes: their text, unchanged."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SENTENCES"]

SENTENCES: Mapping[str, str] = {"older.said": "{text}"}
