"""Print the commands of one marked block of the README, exactly as they stand there.

A block is marked by a comment above it: ``<!-- ci: demo -->``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def commands(text: str, mark: str) -> str:
    found = re.search(rf"<!-- ci: {re.escape(mark)} -->\s*```\w*\n(.*?)```", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"README.md has no block marked <!-- ci: {mark} -->")
    return found.group(1)


if __name__ == "__main__":
    readme = Path(__file__).parent.parent / "README.md"
    print(commands(readme.read_text(), sys.argv[1]))  # noqa: T201 - its output is its purpose
