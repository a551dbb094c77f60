"""Golden texts: compared by default, written anew under ``ACCEPT_GOLDEN=1``."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def check(name: str, found: str) -> None:
    """Compare ``found`` with the accepted text; under ``ACCEPT_GOLDEN=1`` accept it instead."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("ACCEPT_GOLDEN") == "1":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(found + "\n", encoding="utf-8")
    assert path.exists(), f"no accepted text; read this, then run with ACCEPT_GOLDEN=1:\n{found}"
    assert found + "\n" == path.read_text(encoding="utf-8")
