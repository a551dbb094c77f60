"""A private helper that is called once needs a reason: most bodies stand where they are used."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "batchfinder"

MOST = 0.15
"""The share of all functions."""


def called_once(tree: ast.Module) -> Iterator[str]:
    """Private functions that their file names in one place, where it calls them."""
    named: Counter[str] = Counter()
    called: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            named[_name(node)] += 1
        elif isinstance(node, ast.Call):
            called[_name(node.func)] += 1
    for function in functions(tree):
        is_private = function.startswith("_") and not function.startswith("__")
        if is_private and named[function] == called[function] == 1:
            yield function


def functions(tree: ast.Module) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in ast.walk(tree) if isinstance(node, kinds)]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def test_few_helpers_are_called_once() -> None:
    trees = [ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]
    once = [name for tree in trees for name in called_once(tree)]
    share = len(once) / sum(len(functions(tree)) for tree in trees)
    assert share <= MOST, f"{share:.1%} of all functions; of them {sorted(once)}"


def test_the_count_sees_what_is_passed_and_what_is_called_twice() -> None:
    tree = ast.parse(
        "def _once(): ...\n"
        "def _passed(): ...\n"
        "def _twice(): ...\n"
        "def public():\n    _once()\n    _twice()\n    _twice()\n    return map(_passed, ())\n"
        "class Thing:\n    def _own(self): ...\n    def run(self):\n        self._own()\n"
    )
    assert list(called_once(tree)) == ["_once", "_own"]
