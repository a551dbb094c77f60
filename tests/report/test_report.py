"""The report's text, at both widths, word for word; its explanation; its settings."""

from __future__ import annotations

import ast
from dataclasses import replace

import golden
import pytest
from report_cases import accumulated, bare, candidate, plain

from batchfinder.errors import InvalidArgument
from batchfinder.report import Report
from batchfinder.report.explanation import alternatives, time_words
from batchfinder.report.settings import FRAMEWORKS
from batchfinder.results import BatchPlan, Limit, Measurement

CASES = {"plain": plain, "accumulated": accumulated, "bare": bare}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", CASES)
def test_the_text_is_the_accepted_one(name: str, width: int) -> None:
    golden.check(f"report_{name}_{width}", CASES[name]().text(width))


@pytest.mark.parametrize("name", CASES)
def test_the_explanation_is_the_accepted_one(name: str) -> None:
    golden.check(f"explain_{name}", CASES[name]().explain(80))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_wider_than_the_screen(name: str, width: int) -> None:
    report = CASES[name]()
    shown = f"{report.text(width)}\n{report.explain(width)}"
    assert max(map(len, shown.splitlines())) <= width


def test_print_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert str(plain()) == plain().text(120)
    monkeypatch.setenv("COLUMNS", "40")
    assert str(plain()) == plain().text(80)


def test_the_chosen_row_is_marked_by_glyph_and_word() -> None:
    marked = [line for line in plain().text(80).splitlines() if line.startswith("→")]
    assert len(marked) == 1
    assert marked[0].split()[1] == "128"
    assert "chosen" in marked[0]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.97, "3% sooner"),
        (1.002, "in the same time"),
        (1.4, "40% later"),
        (3.0, "in 3.0x the time"),
        (float("nan"), "at a time that was not predicted"),
        (float("inf"), "at a time that was not predicted"),
    ],
)
def test_prices_in_words(ratio: float, words: str) -> None:
    assert time_words(ratio) == words


def test_an_alternative_states_time_samples_and_memory() -> None:
    priced = replace(candidate(256), relative_time=0.97, relative_samples=1.9, roles=())
    said = alternatives(plain(), priced)
    assert said.startswith(
        "256 would reach the target 3% sooner, for 1.9x the samples, with 22.0 MiB more"
    )


def without_noise() -> Report:
    candidates = tuple(
        replace(each, relative_samples=float("nan")) for each in plain().recommendation.candidates
    )
    return replace(
        plain(),
        noise_scale=None,
        recommendation=replace(plain().recommendation, candidates=candidates),
    )


def test_without_a_noise_scale_no_time_to_a_target_is_claimed() -> None:
    said = " ".join(without_noise().explain(80).split())
    ratio = candidate(32).relative_time
    assert f"32 (yours) takes {ratio:.2f}x the time per sample, with" in said
    assert "Below, time is that per sample, as multiples" in said
    assert "reach the" not in said
    assert "reach the same loss" in plain().explain(120)


@pytest.mark.parametrize("limit", Limit)
def test_every_limit_is_explained(limit: Limit) -> None:
    report = plain()
    report = replace(report, recommendation=replace(report.recommendation, limited_by=limit))
    said = " ".join(report.explain(80).split())
    assert limit.value[1:] in said


def test_the_checklist_keeps_the_recommendations_own_advice_and_adds_the_rest() -> None:
    said = plain().explain(120)
    assert said.count("make one epoch") == 1
    assert "Steps or epochs:" not in said
    for topic in ("Warm-up", "Schedule", "EMA", "clipping", "BatchNorm"):
        assert topic in said
    assert "0.999 becomes 0.996" in said


def test_no_growth_no_scaling_advice() -> None:
    assert "Warm-up" not in replace(plain(), base_batch_size=128).explain(120)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", CASES)
def test_settings_are_python_with_the_reports_numbers(framework: str, name: str) -> None:
    report = CASES[name]()
    pasted = report.settings(framework)
    numbers = {node.value for node in ast.walk(ast.parse(pasted)) if isinstance(node, ast.Constant)}
    assert report.batch_size in numbers
    if report.accumulation_steps > 1:
        assert report.accumulation_steps in numbers
    if report.learning_rate is not None:
        assert f"{report.learning_rate:.3g}" in pasted


def test_settings_for_nobody() -> None:
    with pytest.raises(InvalidArgument, match=r'"lightning".*found .keras.'):
        plain().settings("keras")


def test_fields_of_the_contract() -> None:
    report = accumulated()
    assert (report.batch_size, report.accumulation_steps, report.world_size) == (268, 4, 2)
    assert report.global_batch_size == 268 * 4 * 2
    assert (report.max_batch_size, report.limited_by) == (268, Limit.MEMORY)
    assert (report.learning_rate, report.learning_rate_rule) == (0.00819, "square_root")
    assert report.trials == report.probe.trials
    assert sum(each.chosen for each in report.candidates) == 1
    assert report.memory.limit_bytes == 48 * 1024**2
    assert isinstance(report, Report)


def test_to_pandas_has_one_row_per_measurement() -> None:
    frame = plain().to_pandas()
    assert list(frame.batch_size) == [each.batch_size for each in plain().measurements]
    assert frame.loc[frame.chosen, "batch_size"].tolist() == [128]
    assert frame.loc[0, "unstable"]
    assert frame.samples_per_sec_low.le(frame.samples_per_sec).all()
    assert frame.loc[frame.batch_size == 1, "noise_scale"].isna().all()


def test_the_explanation_says_each_thing_once() -> None:
    report = plain()
    reason = "128 has the shortest time. It is limited by noise. 32 (yours) would take longer."
    report = replace(report, recommendation=replace(report.recommendation, reason=reason))
    assert "128 has the shortest time.\n" in report.explain(80)
    assert "would take longer" not in report.explain(80)
    assert "would take longer" in report.text(120)


def test_caveats_begin_with_a_capital_unless_they_begin_with_code() -> None:
    report = replace(plain(), caveats=("the time was up", "budget_seconds ran short"))
    assert "  - The time was up\n  - budget_seconds ran short" in report.text(80)


def scattered(each: Measurement) -> Measurement:
    return replace(each, samples_per_second_high=2 * each.samples_per_second)


@pytest.mark.parametrize("width", [80, 120])
def test_a_mark_shared_by_many_rows_is_explained_once(width: int) -> None:
    report = replace(plain(), measurements=tuple(map(scattered, plain().measurements)))
    shown = report.text(width)
    assert shown.count("unstable") == 1
    rows = [line for line in shown.splitlines() if "MiB" in line and " ~" in line]
    assert len(rows) == len(report.measurements)
    assert "timed once" not in shown
    assert report._repr_html_().count("unstable") == 1


def test_what_was_timed_once_has_a_mark_of_its_own() -> None:
    first, *rest = plain().measurements
    report = replace(plain(), measurements=(replace(first, repeats=1), *rest))
    shown = " ".join(report.text(80).split())
    assert shown.count("~ 1x") == 1  # the row's marks
    assert shown.count("timed once") == 1


def test_without_marks_no_legend() -> None:
    unstable, *steady = plain().measurements
    assert "~" in plain().text(80) and unstable.unstable
    assert "~" not in replace(plain(), measurements=tuple(steady)).text(80)


def with_roles(report: Report, roles: dict[int, str]) -> Report:
    candidates = tuple(
        replace(each, roles=(roles[each.plan.micro_batch],) * (each.plan.micro_batch in roles))
        if each.plan.micro_batch in roles
        else replace(each, roles=())
        for each in report.candidates
    )
    return replace(report, recommendation=replace(report.recommendation, candidates=candidates))


def noted(report: Report, words: str) -> list[str]:
    """The sizes whose row in the table says ``words``."""
    return [
        line.split()[line.startswith("→")]
        for line in report.text(120).splitlines()
        if "MiB" in line and words in line
    ]


def test_the_highest_throughput_is_one_thing_in_every_table() -> None:
    """The candidates' word, at the size that has it by the figures and by the prices."""
    assert noted(with_roles(plain(), {268: "highest throughput"}), "highest throughput") == ["268"]
    assert noted(with_roles(plain(), {256: "highest throughput"}), "highest throughput") == []
    assert noted(with_roles(plain(), {}), "highest throughput") == ["268"]
    assert "fastest" not in plain().text(80) + plain().explain(80)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit.MEMORY, "268 is the largest that ran and fitted in 48.0 MiB"),
        (Limit.DATASET, "the dataset, not memory, ended the search"),
        (Limit.USER, "your ceiling, not memory, ended the search"),
        (Limit.INDEX, "a kernel's index limit, not memory, ended the search"),
    ],
)
def test_what_ended_the_search_is_said(limit: Limit, words: str) -> None:
    report = replace(plain(), probe=replace(plain().probe, limited_by=limit))
    for shown in (report.text(80), report.explain(80), report._repr_html_()):
        said = " ".join(shown.split())
        assert words in said.replace("&#x27;", "'")
        assert ("is the largest that ran" in said) == (limit is Limit.MEMORY)


@pytest.mark.parametrize(
    ("held", "words"),
    [(True, "; twice the rate held too"), (False, ""), (None, "")],
)
def test_print_says_whether_twice_the_rate_held(held: bool | None, words: str) -> None:
    report = plain()
    assert report.confirmation is not None
    report = replace(report, confirmation=replace(report.confirmation, double_rate_held=held))
    said = " ".join(report.text(80).split())
    assert f"from 2.31 to 0.42{words} Put back" in said


def test_print_names_the_sizes_that_cannot_be_told_apart() -> None:
    report = plain()
    assert "Near ties   96 to 256 samples per optimizer step" in report.text(80)
    for alone in (None, (128, 128)):
        recommendation = replace(report.recommendation, within_noise=alone)
        shown = replace(report, recommendation=recommendation)
        assert "Near ties" not in shown.text(80) + shown.explain(80)


def test_an_accumulated_alternative_is_named_as_a_plan() -> None:
    priced = replace(candidate(256), plan=BatchPlan(1024, 16))
    assert alternatives(plain(), priced).startswith("16,384 as 1,024 x 16 accumulation steps ")


def test_a_rate_that_may_come_from_a_range_test_is_not_called_yours() -> None:
    assert "from 0.001 at batch size 32" in " ".join(plain().explain(80).split())


def test_what_binds_is_said_once() -> None:
    report = plain()
    said = f"It is limited by {report.limited_by.value}."
    report = replace(report, recommendation=replace(report.recommendation, reason=said))
    assert "Limited by" not in report.text(80)


def test_explain_gives_the_reason_up_to_the_limit_which_has_its_own_section() -> None:
    report = plain()
    reason = "A batch of 8 held. At rate 0.2 it rose. It is limited by memory. 4 would take longer."
    moved = replace(report, recommendation=replace(report.recommendation, reason=reason))
    said = moved.explain(80)
    assert "A batch of 8 held. At rate 0.2 it rose." in said
    assert "4 would take longer" not in said


def test_the_rate_is_applied_as_a_factor_to_every_group() -> None:
    import torch

    report = plain()
    groups = [{"params": torch.nn.Linear(2, 2).parameters(), "lr": rate} for rate in (1e-4, 1.6e-3)]
    optimizer = torch.optim.AdamW(groups)
    report.apply_rate(optimizer)
    factor = report.learning_rate / report.base_learning_rate
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([1e-4 * factor, 1.6e-3 * factor])


def test_a_report_without_a_rate_applies_none() -> None:
    from batchfinder.errors import InvalidArgument

    with pytest.raises(InvalidArgument, match="recommends a learning rate"):
        bare().apply_rate(object())
