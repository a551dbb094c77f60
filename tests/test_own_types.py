"""What the library calls on its own objects stands in their types: it does not ask which they are.

A closed union is taken apart by ``match``, or by a member that each of its classes has.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "batchfinder"

ASKED = {
    "arguments": "what a caller passed",
    "arguments.rule_named": "what a caller passed: a race, or any function",
    "cli.factory._unpacked": "what a user's function returned",
    "training.training_of": "what a caller passed: a module or a Training",
    "training.built_by": "what a user's function returned",
    "recommend.decision.choose": "what a user's objective returned",
    "noise.estimators.warmup_estimator": "what a caller passed: an estimator with `estimate` alone",
    "monitor.batch_size_scheduler.BatchSizeScheduler.__init__": "any callable is a schedule",
    "monitor.batch_size_scheduler.BatchSizeScheduler._next": "what a user's schedule returned",
    "report.record.Report.__eq__": "equality with anything",
    "run.batches.reading._Prepare.__call__": "torch's record of a worker, which holds any data set",
    "run.batches.samplers.indices_of": "any sampler, torch's, the user's or ours",
    "run.isolate.IsolatedTrials._result": "what came from a child process: a trial or an error",
    "encoding._encode_text": "any text, of which a caveat is one",
    "progress.StreamRows.__call__": "one kind of event among all",
    "progress.NotebookTable.__call__": "likewise",
    "run.state.plain._put_back_tensor": "a copy of a tensor, or of the tensors inside of one",
    "run.state.plain.fresh_tensor": "likewise",
}
"""Where it is asked, and of what; exceptions and torch's own classes are not counted."""


def asked(package: Path) -> dict[str, list[str]]:
    """Function -> what it asks of classes that the package defines, exceptions left out."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    classes = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    errors = {"Exception", "BatchFinderError"}
    while more := {
        each.name
        for each in classes
        if each.name not in errors and any(_last(base) in errors for base in each.bases)
    }:
        errors |= more
    own = {each.name for each in classes} - errors
    found: dict[str, list[str]] = {}
    for path, tree in trees.items():
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        for name, call in _calls(tree, module.removesuffix(".__init__")):
            if isinstance(call.func, ast.Name) and call.func.id == "isinstance":
                named = {each.id for each in ast.walk(call.args[1]) if isinstance(each, ast.Name)}
                asks = [ast.unparse(call)] * bool(named & own)
                found[name] = found.get(name, []) + asks
    return {name: calls for name, calls in found.items() if calls}


def _last(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _calls(node: ast.AST, name: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _calls(child, f"{name}.{child.name}")
            continue
        if isinstance(child, ast.Call):
            yield name, child
        yield from _calls(child, name)


def test_no_object_of_ours_is_asked_what_it_is() -> None:
    found = asked(PACKAGE)
    assert {name: calls for name, calls in found.items() if name not in ASKED} == {}
    assert set(ASKED) <= set(found), "nothing is asked there any more"


def test_the_test_sees_who_asks(tmp_path: Path) -> None:
    (tmp_path / "house.py").write_text(
        "import torch\n"
        "class Wrong(Exception): ...\n"
        "class Worse(Wrong): ...\n"
        "class Door: ...\n"
        "class Module: ...\n"
        "class Room:\n"
        "    def open(self, thing):\n"
        "        return isinstance(thing, (int, Door))\n"
        "def other(thing):\n"
        "    return isinstance(thing, Worse | torch.nn.Module)\n"
    )
    assert asked(tmp_path) == {"house.Room.open": ["isinstance(thing, (int, Door))"]}
