"""The layers point one way, files stay small, and importing is quiet."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "batchfinder"

# Each layer imports only from layers above it (or from its own package for a split room).
LAYERS: list[set[str]] = [
    {"errors"},
    {"keywords"},
    {"units", "table", "frameworks"},
    {"html"},
    {"wording"},
    {"outcomes", "races", "rates", "rank_facts"},
    {"events", "plans", "trials"},
    {"results"},
    {"wording.advice", "wording.choice", "wording.confirm", "wording.rates"},
    {"protocols"},
    {"probe", "devices", "scaling", "formulas", "timing", "meter", "waiting"},
    {"training", "schedule"},
    {"run"},
    {"plot", "progress", "noise", "report.encoding"},
    {"monitor", "race"},
    {"recommend", "report", "run.trial", "run.bench", "run.isolate"},
    {"arguments"},
    {"measure", "predict", "cache", "confirm", "learning_rate_range"},
    {"session"},
    {"about_ranks"},
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
    "errors",
    "events",
    "outcomes",
    "races",
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
    "waiting",
}
LONGEST_FILE = 300


def modules(package: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def layer_of(module: str) -> int:
    """The layer of a module; a sub-module takes its longest listed prefix's layer."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for depth, layer in enumerate(LAYERS):
            if prefix in layer:
                return depth
    raise LookupError(f"{module} stands in no layer: give it a place in LAYERS")


def imported(source: str) -> set[str]:
    """Modules of ours that run at import time or later; type-checking blocks do not count."""
    names: set[str] = set()
    for node in ast.walk(_without_type_checking(ast.parse(source))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add("relative import")
    return names


def _without_type_checking(tree: ast.Module) -> ast.Module:
    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(tree)


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
            same_room = module.split(".")[0] == target.split(".")[0]
            below = layer_of(target) > layer_of(module)
            sideways = layer_of(target) == layer_of(module) and not same_room
            if below or sideways:
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
    (house / "find.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from batchfinder import compare\n"
    )
    (house / "compare.py").write_text("")
    assert violations(house) == [
        "errors imports results",
        "probe imports scaling",
        "run.oom imports find",
        "scaling: relative import",
    ]


def test_the_upper_rooms_know_no_torch() -> None:
    for module, path in modules(PACKAGE).items():
        if module.split(".")[0] in NO_TORCH and not module.endswith(".stage"):
            roots = {name.split(".")[0] for name in imported(path.read_text())}
            assert "torch" not in roots, f"{module} imports torch"


def test_files_stay_small() -> None:
    long = {
        name: lines
        for name, path in modules(PACKAGE).items()
        if (lines := len(path.read_text().splitlines())) > LONGEST_FILE
    }
    assert not long, f"draw a wall: {long}"


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
