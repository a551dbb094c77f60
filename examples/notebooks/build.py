"""Executes every notebook from its ``.py`` source (percent format) and keeps the outputs.

python examples/notebooks/build.py              all of them
python examples/notebooks/build.py quickstart   one
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import jupytext
from nbclient import NotebookClient

HERE = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def build(source: Path) -> float:
    """Execute one notebook and write it beside its source; the seconds that it took."""
    started = time.perf_counter()
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = KERNEL
    notebook.metadata.pop("jupytext", None)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem}-{index}"  # the same at every build, for small differences
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(HERE)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # clock times of no interest
    jupytext.write(notebook, source.with_suffix(".ipynb"), fmt="ipynb")
    return time.perf_counter() - started


def main(names: list[str]) -> None:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ.pop("MPLBACKEND", None)  # else figures would not go into the notebooks
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks gain nothing from more
    for source in sorted(HERE.glob("*.py")):
        if source.name != "build.py" and (not names or source.stem in names):
            print(f"{source.stem:<24} {build(source):.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
