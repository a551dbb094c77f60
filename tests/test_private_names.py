"""Private names of torch stand in one package, each with what it is asked for and what is lost."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

PACKAGE = Path(__file__).parent.parent / "batchfinder"
HOME = PACKAGE / "run" / "torch_internals"


@functools.cache
def private_attributes() -> set[str]:
    """Of the kinds of torch's objects that the package handles."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    chained = lr_scheduler.SequentialLR(optimizer, [lr_scheduler.ConstantLR(optimizer)] * 2, [1])
    things = [
        torch.nn.Linear(1, 1),
        torch.nn.parallel.DistributedDataParallel,
        weight,
        weight.untyped_storage(),
        optimizer,
        chained,
        torch.amp.GradScaler("cpu"),
        DataLoader([0]),
        _MultiProcessingDataLoaderIter,
        RandomSampler([0]),
        torch.ops.aten.add.Tensor,
    ]
    names = {"_orig_mod", *(name for each in things for name in dir(each))}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(source: str, attributes: set[str]) -> Iterator[str]:
    """Private modules and functions of torch, and private attributes of its objects."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            path = ast.unparse(node)
            modules = [path]
            if node.attr in attributes and not path.startswith(("self.", "cls.")):
                yield path
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            modules = [node.value] if node.value.startswith("torch.") else []
            if node.value in attributes:
                yield node.value
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == "torch" and " " not in module and any(map(_is_private, parts)):
                yield module


def test_private_names_of_torch_have_one_home() -> None:
    attributes = private_attributes()
    found = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if HOME not in path.parents
        for name in private_names(path.read_text(), attributes)
    }
    assert not found, f"these belong into {HOME.name}: {sorted(found)}"


@pytest.mark.parametrize(
    "line",
    [
        "from torch.utils._pytree import tree_map",
        "import torch._dynamo",
        "torch.nn.modules.batchnorm._BatchNorm",
        "sys.modules.get('torch._dynamo')",
        "scheduler._schedulers",
        "getattr(loader, '_iterator', None)",
        "parameter._version",
    ],
)
def test_a_private_name_is_seen(line: str) -> None:
    assert list(private_names(line, private_attributes()))
