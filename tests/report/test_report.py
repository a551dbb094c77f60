"""The report's text, at both widths, word for word; its explanation; its settings."""

from __future__ import annotations

import ast
from dataclasses import replace

import golden
import pytest
from report_cases import (
    accumulated,
    bare,
    candidate,
    kept,
    moved,
    plain,
    problem,
    raised,
    report_of,
    unconfirmed,
    waiting,
)

from batchfinder.errors import InvalidArgument
from batchfinder.rates import UpdateEffect
from batchfinder.report import Report
from batchfinder.report.explanation import alternatives, time_words
from batchfinder.report.settings import FRAMEWORKS
from batchfinder.results import (
    BatchPlan,
    GroupRate,
    Judgement,
    Limit,
    Measurement,
    Role,
    Speedup,
    Why,
)
from batchfinder.wording.choice import learning_rate_sentence, limit_sentence

CASES = {
    "plain": plain,
    "kept": kept,
    "accumulated": accumulated,
    "waiting": waiting,
    "unconfirmed": unconfirmed,
    "moved": moved,
    "raised": raised,
    "bare": bare,
}


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
        (float("nan"), "in an unknown time"),
        (float("inf"), "in an unknown time"),
    ],
)
def test_prices_in_words(ratio: float, words: str) -> None:
    assert time_words(ratio) == words


def test_an_alternative_states_time_samples_and_memory() -> None:
    priced = replace(candidate(268), relative_time=0.97, relative_samples=1.9, roles=())
    said = alternatives(plain(), priced)
    assert said.startswith(
        "268 would reach the target 3% sooner, for 1.9x the samples, with 24.0 MiB more"
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
    assert "Below, time is per sample, as multiples" in said
    assert "reach the" not in said
    assert "reach the same loss" in plain().explain(120)


@pytest.mark.parametrize("limit", Limit)
def test_every_limit_is_explained(limit: Limit) -> None:
    report = plain()
    report = replace(report, recommendation=replace(report.recommendation, limited_by=limit))
    said = " ".join(report.explain(80).split())
    assert limit_sentence(limit)[1:] in said
    assert limit_sentence(limit) in " ".join(report.text(80).split())


@pytest.mark.parametrize("why", Why)
def test_every_reason_has_its_words(why: Why) -> None:
    report = plain()
    report = replace(report, recommendation=replace(report.recommendation, why=why))
    assert "128" in " ".join(report.text(80).split())
    assert report.explain(80)


def test_what_else_to_change_has_the_reports_numbers() -> None:
    said = " ".join(plain().explain(120).split())
    for topic in ("Warm-up", "Schedule", "EMA", "clipping", "BatchNorm"):
        assert topic in said
    assert "0.999 becomes 0.996" in said
    assert "multiply its steps by 0.25" in said


def test_no_growth_no_scaling_advice() -> None:
    assert "Warm-up" not in kept().explain(120)
    assert "What else to change" not in kept().explain(120)


# --- the answer first -----------------------------------------------------------------------------


def test_the_first_sentence_says_what_to_do() -> None:
    first = {name: case().text(1000).splitlines()[0] for name, case in CASES.items()}
    assert first["plain"].startswith(
        "Use batch size 128 at learning rate 0.00176 instead of 32 at 0.001: predicted 1.4x to"
    )
    assert first["plain"].endswith("faster to the same loss; limited by gradient noise.")
    assert first["kept"].startswith("Keep batch size 128 at learning rate 0.001: ")
    assert first["waiting"].startswith("Keep batch size 32 at learning rate 0.001: training waits")
    assert "delivers 200 samples/s, the model takes 6,440" in first["waiting"]
    assert "once the loader keeps up, batch size 128 is recommended" in first["waiting"]
    assert "no candidate was confirmed by training" in first["unconfirmed"]
    assert "faster" not in first["unconfirmed"]


def test_a_kept_batch_is_said_to_be_as_good() -> None:
    near = replace(kept().recommendation, why=Why.YOURS_IS_AS_GOOD)
    said = replace(kept(), recommendation=near).text(1000)
    assert said.startswith(
        "Keep batch size 128 at learning rate 0.001: nothing measured is reliably faster."
    )


@pytest.mark.parametrize(
    ("speedup", "words"),
    [
        (Speedup(1.4, 1.2, 1.6), "predicted 1.2x to 1.6x faster to the same loss"),
        (Speedup(1.0, 0.8, 1.3), "predicted 0.8x to 1.3x the speed to the same loss"),
        (Speedup(0.5, 0.4, 0.8), "predicted 1.2x to 2.5x slower to the same loss"),
    ],
)
def test_a_gain_comes_with_its_range(speedup: Speedup, words: str) -> None:
    said = replace(plain().recommendation, speedup=speedup)
    assert words in replace(plain(), recommendation=said).text(1000)


@pytest.mark.parametrize(
    ("rule", "factor", "rate", "words"),
    [
        ("square_root_capped", 2.0, 0.0038, "3.8x your 0.001 (1.9x by the square-root rule"),
        ("square_root_capped", 2.0, 0.0038, "then doubled because that trained faster)"),
        ("adascale", 0.5, 0.002, "2x your 0.001 (4x by the linear rule"),
        ("adascale", 0.5, 0.002, "then halved because the higher rate was not confirmed)"),
        ("adascale", 0.25, 0.002, "then lowered 4x because"),
        ("mine", 1.0, 0.002, "2x your 0.001 (by the rule mine)"),
        ("fixed", 1.0, 0.001, "0.001, unchanged"),
    ],
)
def test_how_the_rate_came_about_is_told(rule: str, factor: float, rate: float, words: str) -> None:
    changed = replace(
        plain().recommendation, learning_rate_rule=rule, rule_factor=factor, learning_rate=rate
    )
    assert words in learning_rate_sentence(changed)


def test_a_rate_from_a_range_test_is_not_called_yours() -> None:
    change = plain().recommendation.change
    assert change is not None
    assumed = replace(plain().recommendation, change=replace(change, base_rate_is_yours=False))
    assert "1.8x the base rate 0.001" in learning_rate_sentence(assumed)
    assert "instead of 32:" in replace(plain(), recommendation=assumed).text(1000)


def test_a_size_that_was_assumed_is_not_called_yours() -> None:
    assumed = report_of(problem(base_is_yours=False))
    assert assumed.own_batch_size is None
    assert assumed.base_batch_size == 32
    for told in (assumed.text(120), assumed.explain(), assumed._repr_html_()):
        assert "yours" not in told
    assert plain().own_batch_size == 32


def test_how_many_updates_were_clipped_is_told() -> None:
    report = plain()
    assert report.confirmation is not None
    effect = UpdateEffect(40, 13, parameters_moved=True, state_moved=True, rate_kept=True)
    clipped = replace(report, confirmation=replace(report.confirmation, effect=effect))
    assert "; gradients were clipped in 13 of 40 updates" in clipped.text(1000)
    assert "clipped" not in report.text(1000)


def test_only_rows_that_matter_are_shown_and_all_in_the_page() -> None:
    shown = plain().text(120)
    assert "2 more sizes in report.measurements" in shown
    for words in ("chosen", "yours", "largest", "highest throughput"):
        assert words in shown
    rows = [line for line in shown.splitlines() if " MiB " in line and "%" in line]
    assert len(rows) == 8
    assert len(plain().measurements) == 10
    assert "<td>4</td>" in plain().to_html() and "<td>4</td>" not in plain()._repr_html_()


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
    assert (report.batch_size, report.accumulation_steps, report.world_size) == (128, 4, 2)
    assert report.global_batch_size == 128 * 4 * 2
    assert (report.max_batch_size, report.limited_by) == (268, Limit.MEMORY)
    assert report.learning_rate_rule == "square_root_capped"
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


def test_caveats_begin_with_a_capital_unless_they_begin_with_code() -> None:
    report = replace(plain(), caveats=("the time was up", "budget_seconds ran short"))
    assert "  - The time was up\n  - budget_seconds ran short" in report.text(80)


def scattered(each: Measurement) -> Measurement:
    return replace(each, samples_per_second_high=2 * each.samples_per_second)


def test_what_holds_of_most_rows_is_no_mark() -> None:
    """A noisy machine is a caveat, once; its rows do not each say so."""
    report = replace(plain(), measurements=tuple(map(scattered, plain().measurements)))
    for shown in (report.text(80), report.text(120), report._repr_html_()):
        assert "unstable" not in shown and "~" not in shown


@pytest.mark.parametrize("width", [80, 120])
def test_a_mark_is_explained_once(width: int) -> None:
    first, *rest = plain().measurements[2:]
    report = replace(plain(), measurements=(replace(scattered(first), repeats=1), *rest))
    shown = " ".join(report.text(width).split())
    assert shown.count("~ 1x") == 1  # the row's marks
    assert shown.count("unstable") == shown.count("timed once") == 1


def test_without_marks_no_legend() -> None:
    _, *steady = plain().measurements
    assert "~" not in replace(plain(), measurements=tuple(steady)).text(80)


def with_roles(report: Report, roles: dict[int, Role]) -> Report:
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
        for line in report.text(200).splitlines()
        if "MiB" in line and words in line
    ]


def test_the_highest_throughput_is_one_thing_in_every_table() -> None:
    """The candidates' word, at the size that has it by the figures and by the prices."""
    assert noted(with_roles(plain(), {268: Role.HIGHEST_THROUGHPUT}), "highest throughput") == [
        "268"
    ]
    assert noted(with_roles(plain(), {64: Role.HIGHEST_THROUGHPUT}), "highest throughput") == []
    assert noted(with_roles(plain(), {}), "highest throughput") == ["268"]
    assert "fastest" not in plain().text(80) + plain().explain(80)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit.MEMORY, "268 is the largest batch size that fits in 48.0 MiB"),
        (Limit.DATASET, "268 fits in 48.0 MiB; the dataset has no more samples"),
        (Limit.USER, "268 fits in 48.0 MiB; your ceiling ended the search"),
        (Limit.INDEX, "268 fits in 48.0 MiB; an index limit of a kernel ended the search"),
    ],
)
def test_what_ended_the_search_is_said(limit: Limit, words: str) -> None:
    report = replace(plain(), probe=replace(plain().probe, limited_by=limit))
    for shown in (report.text(80), report.explain(80), report._repr_html_()):
        said = " ".join(shown.split())
        assert words in said.replace("&#x27;", "'")
        assert ("is the largest batch size" in said) == (limit is Limit.MEMORY)


@pytest.mark.parametrize(
    ("twice", "words"),
    [
        (Judgement.HELD, "; twice the rate passed too State"),
        (Judgement.ROSE, "; at twice the rate the loss rose from 2.31 to 9.418 State"),
        (Judgement.NOT_FINITE, "; at twice the rate the loss became NaN or infinite State"),
        (None, " State"),
    ],
)
def test_print_says_whether_twice_the_rate_held(twice: Judgement | None, words: str) -> None:
    report = plain()
    assert report.confirmation is not None
    report = replace(
        report,
        confirmation=replace(
            report.confirmation, at_double_rate=twice, double_rate_last_loss=9.418
        ),
    )
    said = " ".join(report.text(80).split())
    assert f"from 2.31 to 0.42{words}" in said


def test_print_names_the_sizes_that_cannot_be_told_apart() -> None:
    report = plain()
    assert "Undecided     batch sizes 128-268 may be as fast as the choice" in report.text(80)
    for alone in (None, (128, 128)):
        recommendation = replace(report.recommendation, within_noise=alone)
        shown = replace(report, recommendation=recommendation)
        assert "Undecided" not in shown.text(80) + shown.explain(80)


def test_an_accumulated_alternative_is_named_as_a_plan() -> None:
    priced = replace(candidate(268), plan=BatchPlan(1024, 16))
    assert alternatives(plain(), priced).startswith("16,384 as 1,024 x 16 accumulation steps ")


def test_the_rate_is_applied_as_a_factor_to_every_group() -> None:
    import torch

    report = plain()
    groups = [{"params": torch.nn.Linear(2, 2).parameters(), "lr": rate} for rate in (1e-4, 1.6e-3)]
    optimizer = torch.optim.AdamW(groups)
    report.apply_rate(optimizer)
    factor = report.learning_rate / report.base_learning_rate
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([1e-4 * factor, 1.6e-3 * factor])


def of_a_test(report: Report) -> Report:
    """The same, from a base rate that a range test found."""
    recommendation = report.recommendation
    change = replace(recommendation.change, base_rate_is_yours=False)
    return replace(report, recommendation=replace(recommendation, change=change))


@pytest.mark.parametrize(
    ("own", "applied"),
    [((3e-4, 6e-4), (1.0, 2.0)), ((0.0, 0.0), (1.0, 1.0)), ((0.0, 3e-4), (0, 1))],
)
def test_an_optimizer_that_the_search_did_not_see_is_given_the_rate(own, applied) -> None:
    import torch

    report = of_a_test(plain())
    groups = [{"params": torch.nn.Linear(2, 2).parameters(), "lr": rate} for rate in own]
    optimizer = torch.optim.AdamW(groups)
    report.apply_rate(optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([share * report.learning_rate for share in applied])


def test_a_scheduler_made_before_goes_on_from_the_rate_that_is_given() -> None:
    import torch

    report = of_a_test(plain())
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=3e-4)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
    report.apply_rate(optimizer, scheduler)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(report.learning_rate)


def test_a_report_without_a_rate_applies_none() -> None:
    from batchfinder.errors import InvalidArgument

    with pytest.raises(InvalidArgument, match="expected a recommended learning rate"):
        bare().apply_rate(object())


def test_several_rates_are_listed_and_pasted_as_a_factor() -> None:
    factor = plain().rate_factor
    assert factor is not None
    rates = tuple(
        GroupRate(0, number, "AdamW", base, factor, base * factor)
        for number, base in enumerate((1e-3, 1.6e-2))
    )
    report = replace(plain(), rates=rates)
    assert "Groups" not in plain().text(80)
    said = " ".join(report.text(80).split())
    assert f"multiply every group's rate by {factor:.3g}: group 0 0.001 -> 0.00176" in said
    moved = "Use batch size 128 at learning rates 0.00176, 0.0281 instead of 32 at 0.001, 0.016:"
    assert said.startswith(moved)
    many = replace(plain(), rates=tuple(replace(rates[n % 2], group=n) for n in range(8)))
    said = " ".join(many.text(80).split())
    assert "at 1.76 times the learning rate of each of your 8 groups instead of 32:" in said
    assert f'group["lr"] *= {factor:.6g}' in report.settings()
    assert 'group["lr"] = 0.00176' in plain().settings()
    for framework in FRAMEWORKS:
        pasted = report.settings(framework)
        ast.parse(pasted)
        assert f"{factor:.6g}" in pasted and "0.00176, 0.0281" in pasted
        assert "lr=" not in pasted and "learning_rate=" not in pasted
    assert Report.from_json(report.to_json()) == report
