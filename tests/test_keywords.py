"""Keywords that a function does not take are refused with the one that was meant."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import batchfinder as bf
from batchfinder import keywords
from batchfinder.errors import InvalidArgument, UnknownArgument

FUNCTIONS = (
    bf.find_batch_size,
    bf.max_batch_size,
    bf.gradient_noise_scale,
    bf.eval_batch_size,
    bf.compare_batch_sizes,
    bf.estimate_memory,
    bf.memory_savings,
    bf.predict_for_devices,
    bf.predict_max_batch_size,
)
TITLES = next(
    ast.literal_eval(each.value)
    for each in ast.parse((Path(__file__).parent.parent / "docs" / "conf.py").read_text()).body
    if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "_SECTIONS"
)
"""The titles that the documentation shows as sections."""
CLASSES = (
    bf.Training,
    bf.Search,
    bf.Race,
    bf.Stopping,
    bf.MicroBatchVariance,
    bf.PerExample,
    bf.TrainingMonitor,
    bf.BatchSizeScheduler,
)


def said(function: Any, **named: Any) -> str:
    with pytest.raises(UnknownArgument) as caught:
        function(object(), object(), **named)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("memory", "memory_limit=?"),
        ("max_batch_size", "at_most=?"),
        ("min_batch_size", "at_least=?"),
        ("lr", "base_learning_rate=?"),
        ("batch_size", "base_batch_size=?"),
        ("criterion", "loss_fn=?"),
        ("timeout", "budget_seconds=?"),
        ("memory_limt", "memory_limit=?"),
        ("resolution", "search=Search(resolution=...)"),
        ("cache", "search=Search(cache=...)"),
        ("make_loader", "Training(model, loader, make_loader=...)"),
        ("device", "model.to(device)"),
    ],
)
def test_the_argument_that_was_meant_is_named(given: str, meant: str) -> None:
    text = said(bf.find_batch_size, **{given: 1})
    assert text.startswith(f"find_batch_size: expected known arguments; found {given}=: ")
    assert meant in text


def test_what_is_like_nothing_gets_the_whole_list() -> None:
    assert "it takes model, loader, loss_fn" in said(bf.find_batch_size, colour="red")


def test_several_are_named_at_once() -> None:
    text = said(bf.max_batch_size, memory="8GB", criterion=None)
    assert "found memory=, criterion=" in text
    assert "memory_limit=?; did you mean loss_fn=?" in text


def test_what_is_meant_depends_on_the_function() -> None:
    assert "did you mean memory=?" in said(bf.predict_max_batch_size, memory_limit="8GB")
    assert "did you mean eval_step=?" in said(bf.eval_batch_size, train_step=len)
    assert "Training(model, optimizer=...)" in said(bf.compare_batch_sizes, make_optimizer=None)
    assert "stopping=Stopping(patience=...)" in said(bf.compare_batch_sizes, patience=2)
    with pytest.raises(UnknownArgument, match="did you mean memory="):
        bf.assert_fits(object(), object(), batch_size=1, memory=1, memory_limit=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.__name__)
def test_every_function_refuses(function: Any) -> None:
    assert "found colour=" in said(function, colour="red")


@pytest.mark.parametrize("given", CLASSES, ids=lambda each: each.__name__)
def test_every_class_refuses(given: Any) -> None:
    with pytest.raises(UnknownArgument, match=f"{given.__name__}: expected .* found colour="):
        given(colour="red")


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.__name__)
def test_the_signature_shows_what_the_function_takes(function: Any) -> None:
    assert "unknown" not in inspect.signature(function).parameters


def test_it_is_a_type_error_too() -> None:
    assert issubclass(UnknownArgument, TypeError)
    assert issubclass(UnknownArgument, InvalidArgument)


def test_every_group_has_a_name_that_something_takes() -> None:
    taken = {name for each in (*FUNCTIONS, *CLASSES) for name in inspect.signature(each).parameters}
    for group in keywords._SAME:
        assert taken & set(group.split()), group


def test_the_names_that_stand_elsewhere_are_there() -> None:
    assert set(keywords._OF_SEARCH) == {field.name for field in fields(bf.Search)}
    assert set(keywords._OF_STOPPING) == {field.name for field in fields(bf.Stopping)}
    assert set(keywords._OF_MADE) <= {field.name for field in fields(bf.Training)}


LOOSE = (bf.assert_fits, *FUNCTIONS)


@pytest.mark.parametrize("function", LOOSE, ids=lambda each: each.__name__)
def test_arguments_are_few_and_typed(function: Any) -> None:
    taken = inspect.signature(function).parameters.values()
    assert len(taken) <= 25
    assert all(each.annotation not in (each.empty, "Any") for each in taken)


@pytest.mark.parametrize("function", LOOSE, ids=lambda each: each.__name__)
def test_many_arguments_stand_in_titled_groups(function: Any) -> None:
    """In groups that the documentation shows under their titles, every argument in one."""
    lines = (inspect.getdoc(function) or "").splitlines()
    groups = [place for place, line in enumerate(lines) if line in TITLES]
    taken = list(inspect.signature(function).parameters)
    assert len(groups) >= (4 if len(taken) > 20 else 2)
    described = "\n".join(lines[groups[0] : lines.index("Raises:")])
    assert [name for name in taken if not re.search(rf"\b{name}\b", described)] == []
