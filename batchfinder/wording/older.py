"""What a report says that was written before caveats had codes: as it stands there."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SENTENCES"]

SENTENCES: Mapping[str, str] = {"older.said": "{text}"}
