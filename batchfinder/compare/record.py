"""Finished trainings, line by line in a file, so that an interrupted study goes on."""

from __future__ import annotations

import json
from pathlib import Path

from batchfinder.compare.cells import Cell
from batchfinder.report import encoding

__all__ = ["Record"]


class Record:
    """Trainings by what was asked of them. Without a path, in memory alone."""

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._cells: dict[str, Cell] = {}
        if self._path is not None and self._path.exists():
            text = self._path.read_text(encoding="utf-8")
            for line in text.splitlines():
                self._read(line)
            if text and not text.endswith("\n"):
                self._path.write_text(text + "\n", encoding="utf-8")

    def _read(self, line: str) -> None:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return  # cut short by an interruption: run again
        self._cells[row["asked"]] = encoding.decode(Cell, row["cell"])

    def find(self, asked: str) -> Cell | None:
        return self._cells.get(asked)

    def add(self, asked: str, cell: Cell) -> None:
        self._cells[asked] = cell
        if self._path is None:
            return
        line = json.dumps({"asked": asked, "cell": encoding.encode(cell)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
