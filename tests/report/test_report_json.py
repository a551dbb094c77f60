"""Strict JSON, there and back: nothing lost, nothing invented."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import NOISE, accumulated, bare, plain

from batchfinder.encoding import decode, encode
from batchfinder.errors import InvalidArgument
from batchfinder.report import Report
from batchfinder.results import (
    BatchPlan,
    Candidate,
    Confirmation,
    Environment,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    ProbeResult,
    Recommendation,
    Trial,
)
from batchfinder.wording import Caveat

KINDS = (
    BatchPlan,
    Trial,
    MemoryBreakdown,
    ProbeResult,
    NoiseScale,
    Measurement,
    Candidate,
    Recommendation,
    Confirmation,
    Environment,
)


def no_constants(text: str) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("case", [plain, accumulated, bare])
def test_round_trip_is_equal_and_strict(case: object) -> None:
    report = case()
    text = report.to_json()
    no_constants(text)
    again = Report.from_json(text)
    assert again == report
    assert hash(again) == hash(report)
    assert Report.from_json(again.to_json()) == report
    assert again.text(80) == report.text(80)
    assert again.explain(80) == report.explain(80)
    assert repr(again) == repr(report)


def test_infinity_comes_back_as_a_number() -> None:
    again = Report.from_json(accumulated().to_json())
    assert again.noise_scale is not None
    assert again.noise_scale.high == math.inf
    assert not again.noise_scale.is_bounded
    assert math.isnan(again.noise_scale.gradient_squared)


def test_another_report_is_not_equal() -> None:
    assert plain() != accumulated()
    assert plain() != replace(plain(), state_restored=False)
    assert plain() != "a report"


def caveats() -> st.SearchStrategy[Caveat]:
    counted = st.builds(partial(Caveat, "noise.sizes_left_out"))
    return counted | st.builds(partial(Caveat, "older.said"), text=st.text())


st.register_type_strategy(Caveat, caveats())


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)  # no timed assertion on a real clock
@given(data=st.data())
def test_every_dataclass_survives(kind: type, data: st.DataObject) -> None:
    value = data.draw(st.from_type(kind))
    text = json.dumps(encode(value), allow_nan=False)
    again = decode(kind, json.loads(text))
    assert encode(again) == encode(value)
    assert repr(again) == repr(value)
    assert type(again) is kind


def test_a_file_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    plain().to_json(path)
    assert Report.from_json(path) == plain()
    assert Report.from_json(str(path)) == plain()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON text"),
        ("{}", "schema 1"),
        ('{"schema": 2}', "schema 1"),
        ('{"schema": 1, "colour": "red"}', "no field colour"),
        ('{"schema": 1, "state_restored": true}', "every field of Report"),
        ('{"schema": 1, "state_restored": 1}', "expected bool; found 1"),
        ('{"schema": 1, "caveats": "none"}', "expected a list"),
        ('{"schema": 1, "environment": 3}', "object for Environment"),
        ('{"schema": 1, "base_batch_size": "many"}', "expected int"),
    ],
)
def test_what_is_no_report_says_so(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Report.from_json(text)


def test_a_wrong_member_names_the_right_ones() -> None:
    text = plain().to_json().replace('"limited_by": "NOISE"', '"limited_by": "BUDGET"')
    with pytest.raises(InvalidArgument, match=r"MEMORY, NOISE.*'BUDGET'"):
        Report.from_json(text)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="there is no file"):
        Report.from_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no JSON", "is not a report written by to_json: expected the JSON text of a report"),
        (b"[1, 2]", "is not a report written by to_json: expected a report of schema 1"),
        (b'{"schema": 1, "cells": []}', "is not a report written by to_json: Report has no field"),
        (b"\x89PNG\xff", "is not a report written by to_json: it is not text"),
    ],
)
def test_a_file_that_is_no_report_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    for source in (path, str(path)):
        with pytest.raises(InvalidArgument) as raised:
            Report.from_json(source)
        assert f"{path} {words}" in str(raised.value)


def test_a_folder_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="expected a file that can be read"):
        Report.from_json(tmp_path)


def test_numpy_scalars_become_plain_numbers() -> None:
    import numpy

    odd = replace(NOISE, value=numpy.float32(2.5), samples=numpy.int64(7))
    assert encode(odd)["value"] == 2.5
    assert type(encode(odd)["samples"]) is int


def test_a_field_that_nothing_reads_any_more_is_passed_over() -> None:
    older = json.loads(plain().to_json())
    older["probe"]["memory"]["activation_bytes_per_sample"] = 7.0
    older["caveats"] = ["as it was said then"]
    again = Report.from_json(json.dumps(older))
    assert again.probe == plain().probe
    assert again.caveats == ("as it was said then",)
