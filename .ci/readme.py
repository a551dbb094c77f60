"""The README's commands, exactly as they stand there; and the demo's output, written into it.

``python .ci/readme.py demo`` prints the commands of the block marked ``<!-- ci: demo -->``.
``python .ci/readme.py --update`` runs the demo and writes what it prints, and its figure.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FIGURE = ROOT / "docs" / "_static" / "demo.png"


def commands(text: str, mark: str) -> str:
    found = re.search(rf"<!-- ci: {re.escape(mark)} -->\s*```\w*\n(.*?)```", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"README.md has no block marked <!-- ci: {mark} -->")
    return found.group(1)


def update() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "batchfinder", "demo"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        shutil.copy(Path(folder) / "batchfinder-demo.png", FIGURE)
    block = f"```text\n{_answer(done.stdout)}\n```"
    text = README.read_text()
    pattern = r"(<!-- demo output: [^>]*-->\n).*?(\n<!-- end of demo output -->)"
    README.write_text(re.sub(pattern, lambda m: m[1] + block + m[2], text, flags=re.DOTALL))


def _answer(printed: str) -> str:
    """The headline and the table: what stands above the evidence."""
    headline, table, *_ = printed.strip().split("\n\n")
    return "\n".join(line.rstrip() for line in f"{headline}\n\n{table}".splitlines())


if __name__ == "__main__":
    if sys.argv[1] == "--update":
        update()
    else:
        print(commands(README.read_text(), sys.argv[1]))  # noqa: T201 - its output is its purpose
