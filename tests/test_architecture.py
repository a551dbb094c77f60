"""The layers point one way, files stay small, and importing is quiet."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "batchfinder"

# Each layer imports only from layers above it (or under its own entry).
LAYERS: list[set[str]] = [
    {"errors"},
    {"keywords"},
    {"units", "table", "model_checks"},
    {"html"},
    {"wording"},
    {"outcomes", "rates", "rank_facts"},
    {"events", "plans", "trials"},
    {"results"},
    {"wording.rates"},
    {"wording.advice", "wording.choice", "wording.confirm", "wording.recommend"},
    {"protocols"},
    {"run.torch_internals"},
    {"probe", "devices", "scaling", "formulas", "timing", "meter"},
    {"training", "schedule", "report.data", "encoding"},
    {
        "run",
        "run.oom",
        "run.randomness",
        "run.tree",
    },
    {"run.reachable"},
    {"run.memory", "run.ranks", "run.attempt"},
    {"run.batches", "run.state", "run.energy", "run.trial"},
    {"run.step"},
    {"plot", "progress", "noise"},
    {"monitor", "race"},
    {"recommend", "report", "run.bench"},
    {"run.isolate"},
    {"arguments"},
    {"measure", "predict", "cache", "confirm", "learning_rate_range"},
    {"session"},
    {"base_pair"},
    {"probe.runner"},
    {"probe.stage", "measure.stage", "noise.stage", "confirm.stage", "race.stage", "caveats"},
    {"find", "max_batch", "noise_scale", "compare", "evaluation", "testing"},
    {"integrations"},
    {"pytest_plugin", "demo", "__init__"},
    {"cli"},
    {"__main__"},
]
NO_TORCH = {
    "encoding",
    "errors",
    "events",
    "outcomes",
    "rank_facts",
    "rates",
    "plans",
    "results",
    "trials",
    "units",
    "wording",
    "protocols",
    "probe",
    "cache",
    "devices",
    "scaling",
    "formulas",
    "timing",
    "recommend",
    "report",
    "plot",
    "html",
    "progress",
    "table",
    "meter",
}
NAMESPACES = {"run", "run.torch_internals", "wording"}
"""Packages that hold others, or one module a part, and offer nothing themselves."""
SECOND_DOORS = {
    "probe.stage": "the pipeline's: above the call under way, of which the rest knows nothing",
    "measure.stage": "likewise",
    "noise.stage": "likewise",
    "race.stage": "likewise",
    "confirm.stage": "likewise",
    "probe.runner": "runs trials on the bench, which the rest of the package is below",
    "report.data": "what the pictures draw, below the report that shows them",
}
LONGEST_FILE = 300


def modules(package: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def place_of(module: str) -> tuple[int, str]:
    """The layer of a module, and the entry of ``LAYERS`` that gives it: the longest prefix."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for depth, layer in enumerate(LAYERS):
            if prefix in layer:
                return depth, prefix
    raise LookupError(f"{module} stands in no layer: give it a place in LAYERS")


def imported(source: str) -> set[str]:
    """Everything imported anywhere in the file: inside functions, and for type checking, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add("relative import")
    return names


@functools.cache
def graph_of(package: Path) -> dict[str, set[str]]:
    """Module -> the modules that it imports.

    ``from package import name`` reaches the module ``name`` where there is one and the package
    does not bind ``name`` itself.
    """
    known = modules(package)
    trees = {module: ast.parse(path.read_text()) for module, path in known.items()}
    bound = {
        module: {name for _, name in _taken(trees[module])}
        for module, path in known.items()
        if path.name == "__init__.py"
    }
    graph: dict[str, set[str]] = {}
    for module, tree in trees.items():
        graph[module] = set()
        for origin, name in _taken(tree):
            home = origin.removeprefix(f"{package.name}.")
            inner = f"{home}.{name}" if name and home != package.name else name or home
            is_module = inner in known and name not in bound.get(home, ())
            graph[module] |= {inner if is_module else home} & set(known)
        graph[module] -= {module}
    return graph


def _taken(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Where from, and what; "" for a whole module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)


def _package_of(module: str) -> str:
    return module.rpartition(".")[0]


def in_circles(graph: dict[str, set[str]]) -> list[str]:
    """What is left once modules that import nothing left, or that nothing left imports, are out."""
    left = set(graph)
    while True:
        imported_by_some = set().union(*(graph[module] for module in left))
        out = {m for m in left if not graph[m] & left or m not in imported_by_some}
        if not out:
            return sorted(left)
        left -= out


def passed_doors(package: Path) -> list[str]:
    """Imports from inside a package by modules outside it; only its ``__init__`` is a door."""
    known = modules(package)
    packages = {module for module, path in known.items() if path.name == "__init__.py"}
    wrong = []
    for module, targets in graph_of(package).items():
        for target in targets:
            ways = [target[:place] for place, mark in enumerate(target) if mark == "."]
            shut = [way for way in ways if way in packages and way not in NAMESPACES]
            passed = [way for way in shut if module != way and not module.startswith(f"{way}.")]
            if passed and target not in SECOND_DOORS and _package_of(target) not in NAMESPACES:
                wrong.append(f"{module} passes the door of {passed[0]} to {target}")
    return sorted(wrong)


def violations(package: Path) -> list[str]:
    known = modules(package)
    wrong = []
    for module, path in known.items():
        for name in sorted(imported(path.read_text())):
            if name == "relative import":
                wrong.append(f"{module}: relative import")
            target = name.removeprefix(f"{package.name}.")
            if target in (name, module) or target not in known:
                continue
            (depth, entry), (own_depth, own_entry) = place_of(target), place_of(module)
            if depth > own_depth or (depth == own_depth and entry != own_entry):
                wrong.append(f"{module} imports {target}")
    return wrong


def test_layers_point_one_way() -> None:
    assert violations(PACKAGE) == []


def test_the_layer_test_sees_a_violation(tmp_path: Path) -> None:
    house = tmp_path / "batchfinder"
    (house / "run").mkdir(parents=True)
    (house / "errors.py").write_text("from batchfinder.results import Trial\n")
    (house / "results.py").write_text("from batchfinder.errors import BatchFinderError\n")
    (house / "probe.py").write_text("def f():\n    from batchfinder import scaling\n")
    (house / "scaling.py").write_text("from . import errors\n")
    (house / "run" / "oom.py").write_text("import batchfinder.find\n")
    (house / "run" / "tree.py").write_text("from batchfinder.run import oom\n")
    (house / "find.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from batchfinder import compare\n"
    )
    (house / "compare.py").write_text("")
    assert violations(house) == [
        "errors imports results",
        "find imports compare",
        "probe imports scaling",
        "run.oom imports find",
        "run.tree imports run.oom",
        "scaling: relative import",
    ]
    assert in_circles(graph_of(house)) == ["errors", "results"]


def test_nothing_is_imported_in_a_circle() -> None:
    """Imports for type checking are counted."""
    assert in_circles(graph_of(PACKAGE)) == []


def test_a_package_is_entered_by_its_door() -> None:
    assert passed_doors(PACKAGE) == []
    reached = set().union(*graph_of(PACKAGE).values())
    assert set(SECOND_DOORS) <= reached, "a door that nobody uses"


def test_the_door_test_sees_who_passes_it(tmp_path: Path) -> None:
    house = tmp_path / "batchfinder"
    (house / "probe").mkdir(parents=True)
    (house / "probe" / "__init__.py").write_text("from batchfinder.probe.loop import probe\n")
    (house / "probe" / "loop.py").write_text("from batchfinder.probe.line import line\n")
    (house / "probe" / "line.py").write_text("")
    (house / "find.py").write_text(
        "from typing import TYPE_CHECKING\nfrom batchfinder.probe import probe\n"
        "if TYPE_CHECKING:\n    from batchfinder.probe import line\n"
    )
    assert passed_doors(house) == ["find passes the door of probe to probe.line"]


def _at_run_time(source: str) -> str:
    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return ast.unparse(Strip().visit(ast.parse(source)))


def test_formulas_results_and_wording_know_no_torch() -> None:
    for module, path in modules(PACKAGE).items():
        if module.split(".")[0] in NO_TORCH and not module.endswith(".stage"):
            roots = {name.split(".")[0] for name in imported(_at_run_time(path.read_text()))}
            assert "torch" not in roots, f"{module} imports torch"


def test_files_stay_small() -> None:
    long = {
        name: lines
        for name, path in modules(PACKAGE).items()
        if (lines := len(path.read_text().splitlines())) > LONGEST_FILE
    }
    assert not long, f"split these: {long}"


@pytest.mark.slow
def test_importing_is_quiet() -> None:
    code = """
import logging, sys, torch
before, handlers = set(sys.modules), list(logging.getLogger().handlers)
import batchfinder
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
optional = {"matplotlib", "pandas", "sklearn", "IPython", "pytest"}
optional |= {"lightning", "pytorch_lightning", "transformers", "accelerate"}
assert not loaded & optional, loaded & optional
assert logging.getLogger().handlers == handlers
assert not torch.cuda.is_initialized()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_is_where_the_front_door_says() -> None:
    import batchfinder

    source = (PACKAGE / "__init__.py").read_text()
    homes = {
        alias.name: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.startswith("batchfinder.")
        for alias in node.names
    }
    assert sorted(homes) == batchfinder.__all__
    for name, home in homes.items():
        assert getattr(batchfinder, name) is getattr(importlib.import_module(home), name)
    assert all(getattr(batchfinder, name) is not None for name in dir(batchfinder))
    with pytest.raises(AttributeError, match="no attribute"):
        _ = batchfinder.optimal_batch_size


def test_a_package_lists_modules_that_are_there() -> None:
    for package in PACKAGE.rglob("__init__.py"):
        said = ast.get_docstring(ast.parse(package.read_text())) or ""
        listed = [
            name
            for start in re.findall(r"^(?:- )?((?:``\w+``,? ?)+)(?:: |  )", said, re.MULTILINE)
            for name in re.findall(r"``(\w+)``", start)
        ]
        missing = [name for name in listed if not (package.parent / f"{name}.py").exists()]
        assert not missing, f"{package}: {missing}"
