"""What follows from a study: times to a target, regret, the table, JSON, the figure."""

import math
from dataclasses import replace

import pytest
from compare_cases import study

from batchfinder.compare import Cell, Comparison, Ending, Look, rendering
from batchfinder.errors import InvalidArgument


def cell(size, losses, *, seed=0, rate=0.1, ending=Ending.FINISHED):
    curve = tuple(
        Look(10 * k, 10 * k * size, float(k), loss, loss) for k, loss in enumerate(losses, start=1)
    )
    return Cell(size, rate, seed, ending, curve)


def test_the_time_to_the_target_is_read_between_looks():
    one = cell(8, [4.0, 2.0, 1.0])
    assert one.reach(3.0, lambda look: look.seconds) == 1.5
    assert one.reach(1.0, lambda look: look.step) == 30
    assert one.reach(4.5, lambda look: look.step) == 10
    assert one.reach(0.5, lambda look: look.step) == math.inf


def test_regret_is_against_the_best_at_the_best_rate_of_each():
    cells = (
        cell(8, [4.0, 2.0, 1.0]),  # 1.0 after 3 s
        cell(8, [4.0, 4.0, 4.0], rate=0.01),
        cell(32, [4.0, 1.0, 1.0]),  # after 2 s
        cell(64, [4.0, 3.0, 2.0]),  # never
    )
    found = Comparison(cells, target=1.0, base_batch_size=8, recommended=8)
    assert found.regret(8) == pytest.approx(0.5)
    assert found.regret(32) == 0
    assert found.regret(64) == math.inf
    assert [(role, size) for role, size, _ in found.regrets()] == [
        ("recommended", 8), ("32", 32), ("largest that fits", 64)
    ]  # fmt: skip
    assert "recommended (8): 50% more time" in str(found)
    assert "largest that fits (64): it never reached" in str(found)
    assert found.with_target(4.0).regret(64) == 0
    with pytest.raises(InvalidArgument, match="one of the sizes"):
        found.regret(16)


def test_a_seed_that_never_arrives_counts():
    cells = (cell(8, [1.0]), cell(8, [2.0], seed=1), cell(32, [4.0, 1.0]))
    assert Comparison(cells, 1.0, 8).regret(8) == math.inf
    assert "1 of 2 seeds" in str(Comparison(cells, 1.0, 8))


def test_the_default_target_is_what_all_have_reached():
    found = study((8, 32), seeds=2)
    lowest = [c.lowest(lambda look: look.validation_loss) for c in found.cells]
    assert found.target == max(lowest)
    assert all(math.isfinite(found.seconds_to_target(arm)) for arm in found.arms)


def test_the_table_says_what_was_found():
    text = str(replace(study((8, 32), seeds=2), recommended=32))
    assert "2 batch sizes, 2 seeds" in text
    assert "Regret of recommended (32)" in text
    assert "2 seeds: differences between sizes may be due to chance" in text
    assert text.count("→") == 1


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (10114.0, 4, "10,110"),
        (45424.6, 4, "45,420"),
        (1234.4, 4, "1,234"),
        (999.96, 4, "1,000"),
        (145.23, 4, "145.2"),
        (0.0123456, 4, "0.01235"),
        (133.0, 2, "130"),
        (1.3, 2, "1.3"),
        (-2691.2, 4, "-2,691"),
        (0.0, 4, "0"),
        (math.inf, 4, "-"),
        (math.nan, 2, "-"),
    ],
)
def test_numbers_are_written_out(value, digits, shown):
    assert rendering.number(value, digits) == shown


def test_no_figure_of_the_table_is_a_power_of_ten():
    large = (cell(1024, [2e5, 12345.6]), cell(1024, [2e5, 12545.6], seed=1))
    text = str(Comparison(large, 1.5e5, 1024))
    assert "12,450 ±140" in text and "1,024" in text and "time to reach a loss of 150,000" in text
    assert "e+" not in text


def test_the_columns_are_explained_below_the_table():
    text = " ".join(str(study((8,), seeds=1)).split())
    assert "train loss: at the end, the mean over the last stretch of batches; valid." in text
    assert "gap: validation loss minus training loss" in text
    alone = " ".join(str(study((8,), seeds=1, validation_loader=None)).split())
    assert alone.startswith("1 batch size, 1 seed;")
    assert "gap:" not in alone and "train loss:" in alone


def test_json_there_and_back(tmp_path):
    found = study((8, 32), seeds=1)
    broken = replace(found, cells=(*found.cells, Cell(64, 0.1, 0, Ending.OUT_OF_MEMORY)))
    path = tmp_path / "study.json"
    assert Comparison.from_json(broken.to_json(path)) == Comparison.from_json(path) == broken


def test_what_is_no_comparison_says_so(tmp_path):
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(
        InvalidArgument, match=r"other\.json is not a comparison written by to_json"
    ):
        Comparison.from_json(path)
    with pytest.raises(InvalidArgument, match="there is no file"):
        Comparison.from_json(tmp_path / "none.json")


def test_rows_for_pandas():
    frame = study((8, 32), seeds=1).to_pandas()
    assert len(frame) == 2 * 8
    assert set(frame.batch_size) == {8, 32}


def test_the_figure_has_a_line_per_size():
    pytest.importorskip("matplotlib")
    found = study((8, 32), seeds=1)
    axes = found.plot()
    assert axes.shape == (2, 3)
    legend = axes[0, 0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["8 at 0.05", "32 at 0.1"]
    labels = [ax.get_ylabel() for ax in axes.flat]
    assert labels[:3] == ["validation loss", "validation loss", "training loss"]
    assert axes[1, 1].texts[0].get_text() == "not measured"  # there is no metric
    (first, second) = axes[0, 1].lines
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()
    assert list(first.get_xdata()) == pytest.approx([0.5 * k for k in range(1, 9)])  # epochs
    alone = axes[0, 0]
    assert found.plot(alone) is alone


# --- the nine tables and the page ----------------------------------------------------------------


def looked(size, seed, losses, *, metric=None, epoch=100):
    curve = tuple(
        Look(10 * k, 10 * k * size, float(k), loss - 0.5, loss, metric, metric and metric + 0.1)
        for k, loss in enumerate(losses, start=1)
    )
    return Cell(size, 0.1, seed, Ending.FINISHED, curve, 2048 * size, epoch, parameters=1234)


def nine():
    cells = (
        looked(8, 0, [4.0, 2.0, 1.0], metric=0.5),
        looked(8, 1, [4.0, 2.5, 1.2], metric=0.7),
        looked(32, 0, [4.0, 3.0, 2.5], metric=0.4),
        looked(32, 1, [4.0, 3.0, 2.0], metric=0.4),
    )
    return Comparison(cells, target=2.5, base_batch_size=8, metric_name="accuracy")


def test_the_nine_tables_have_every_seed_and_the_mean():
    tables = nine().tables()
    assert [each.title.split(".")[0] for each in tables] == list("123456789")
    words = ("Loss", "Time", "Training: accuracy", "Parameters", "Validation: accuracy")
    words += ("Iterations", "Epochs", "Memory", "gap")
    assert all(word in each.title for word, each in zip(words, tables, strict=True))
    rows = [each.table.rows[0].cells for each in tables]
    header = ("batch", "rate", "seed 0", "seed 1", "mean", "scatter")
    assert tables[0].table.header == header
    assert rows[0][2:] == ("1", "1.2", "1.1", "±0.1414")
    assert rows[1][2:5] == ("3 s", "3 s", "3 s")
    assert rows[2][2:5] == ("0.6", "0.8", "0.7")
    assert rows[3][2:] == ("1,234", "8", "16.0 KiB", "2.00 KiB")
    assert rows[4][2:5] == ("0.5", "0.7", "0.6")
    assert rows[5][2:5] == ("17.5", "20", "18.75")
    assert rows[6][2:5] == ("1.4", "1.6", "1.5")
    assert rows[7][2:5] == ("16.0 KiB", "16.0 KiB", "16.0 KiB")
    assert rows[8][2:5] == ("0.5", "0.5", "0.5")


def test_a_table_without_figures_says_why():
    found = study((8,), seeds=1, validation_loader=None)
    _, _, training, _, validation, *_, gap = found.tables()
    assert "no metric= was given" in str(training) and not training.table.rows
    assert "no metric= was given" in str(validation)
    assert "no validation_loader= was given" in str(gap)
    assert "training loss at the end" in found.tables()[0].title


def test_a_training_that_never_arrived_is_no_number():
    cells = (looked(8, 0, [4.0, 1.0]), looked(8, 1, [4.0, 4.0]))
    iterations = Comparison(cells, 1.0, 8).tables()[5]
    assert iterations.table.rows[0].cells[2:] == ("20", "-", "-", "")


def test_the_page_has_everything_and_needs_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    path = nine().to_html(tmp_path / "study.html")
    page = path.read_text()
    assert page == nine().to_html()
    assert page.count("<svg") == 1 and page.count("<table>") == 1 + 9
    assert "Batch size 8 was the fastest" in page
    for each in nine().tables():
        assert each.title in page
    assert not any(tag in page for tag in ('src="', "<link", "<script", "@import"))
    assert "Batch size 8 was the fastest" in nine()._repr_html_()
    assert "<svg" not in nine()._repr_html_()


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({8: [2.0, 1.0], 32: [2.0, 2.0, 1.0]}, "Batch size 8 was the fastest, 1.50x as fast as 32"),
        ({8: [2.0, 1.0], 32: [2.0, 2.0]}, "Only batch size 8 reached the loss with every seed"),
        ({8: [2.0], 32: [2.0]}, "No batch size reached a loss of 1 with every seed"),
        ({8: [2.0, 1.0]}, "1 batch size, 1 seed"),
    ],
)
def test_the_answer_comes_first(losses, words):
    cells = tuple(cell(size, curve) for size, curve in losses.items())
    assert str(Comparison(cells, 1.0, 8)).startswith(words)
