"""Every block of Python in the documentation runs; the generated page is the generated one."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import batchfinder
from batchfinder import errors
from batchfinder.noise import MicroBatchVariance

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if not {"_build", "notebooks", "tables"} & set(page.relative_to(DOCS).parts)
)
README = DOCS.parent / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
QUICK = {"budget_seconds": 4.0, "noise": MicroBatchVariance(warmup_steps=4), "at_most": 128}

NOT_RUN = {"several_processes"}
"""Pages whose blocks need a process group, or other machines: only their syntax is checked."""


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


WITH_CODE = [page for page in PAGES if blocks(page)]


def preludes_of(page: Path) -> list[Path]:
    """What the blocks of a page can rely on; pages on frameworks are skipped without them."""
    if page.parent.name != "frameworks":
        return [DOCS / "prelude.py"]
    for framework in ("lightning", "transformers", "accelerate"):
        pytest.importorskip(framework)
    return [DOCS / "prelude.py", DOCS / "frameworks" / "prelude.py"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The same calls under a small limit and budget, in a folder that may be written to."""

    def with_defaults(name: str, **defaults: Any) -> None:
        whole = getattr(batchfinder, name)

        @functools.wraps(whole)
        def smaller(*positional: Any, **named: Any) -> Any:
            return whole(*positional, **{**defaults, **named})

        monkeypatch.setattr(batchfinder, name, smaller)

    with_defaults("find_batch_size", memory_limit="48MiB", **QUICK)
    with_defaults("max_batch_size", memory_limit="48MiB")
    with_defaults("eval_batch_size", memory_limit="48MiB", budget_seconds=1)
    monkeypatch.setenv("BATCHFINDER_QUIET", "1")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("default::batchfinder.errors.BatchFinderWarning")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_every_block_runs(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__", "__page__": page.stem}
    for prelude in preludes_of(page):
        exec(compile(prelude.read_text(), prelude.name, "exec"), names)
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        code = compile("\n" * line + block.group(1), str(page), "exec")
        if page.stem not in NOT_RUN:
            exec(code, names)


def test_a_block_that_fails_is_seen() -> None:
    assert BLOCK.findall("text\n\n```python\nraise ValueError\n```\n\n```text\nno code\n```\n") == [
        "raise ValueError\n"
    ]
    assert len(WITH_CODE) >= 10


def test_the_page_of_errors_is_written_from_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    from errors_page import errors_page

    page = errors_page()
    assert (DOCS / "errors.md").read_text(encoding="utf-8") == page, "run make docs"
    for name in errors.__all__:
        assert f"### {name}\n" in page


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_names_its_way_out(name: str) -> None:
    said = getattr(errors, name).__doc__
    cause, _, way_out = said.partition("Way out:")
    assert len(cause.strip()) > 20
    assert len(way_out.strip()) > 20


def test_pages_speak_of_the_project_alone() -> None:
    for page in PAGES:
        words = page.read_text(encoding="utf-8").lower()
        for word in ("optimal batch", "todo", "tbd"):
            assert word not in words, f"{page.name}: {word}"


def test_examples_carry_no_limit_that_would_be_pasted() -> None:
    for page in [*PAGES, README]:
        for block in blocks(page):
            assert "memory_limit=" not in block, page.name


def test_example_scripts_say_that_their_limits_are_their_own() -> None:
    for script in sorted((DOCS.parent / "examples").glob("*.py")):
        text = script.read_text(encoding="utf-8")
        if "memory_limit" in text:
            assert re.search("of this example, to be quick: leave (it|them) out", text), script.name


def test_the_readme_has_the_seconds_that_the_script_measured() -> None:
    rows = json.loads((DOCS / "tables" / "first_minutes.json").read_text(encoding="utf-8"))
    written = re.findall(r"\| (\d+) s \| `first_minutes.py` \|", README.read_text("utf-8"))
    assert written == [f"{row['seconds']:.0f}" for row in rows]


LINK = re.compile(
    r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|\{doc\}`(?:[^`<]*<)?([^`>]+)>?`"
)
FENCE = re.compile(r"^```(?!\{).*?^```$", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST write them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.stem)
def test_internal_links_resolve(page: Path) -> None:
    for link, image, document in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"\w+:", link or image):
            continue
        path, _, heading = (link or image or document + ".md").partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link or image or document}"
        assert not heading or heading in anchors(target), f"{page.name}: {link}"


def test_example_scripts_are_short_and_each_is_listed() -> None:
    examples = DOCS.parent / "examples"
    listed = (DOCS / "notebooks.md").read_text(encoding="utf-8")
    for script in examples.glob("*.py"):
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 80, script.name
        assert script.name == "run_all.py" or f"`{script.name}`" in listed
    for source in (examples / "notebooks").glob("*.py"):
        if source.name != "build.py":
            assert source.with_suffix(".ipynb").exists(), "run make notebooks"
            assert f"notebooks/{source.stem}\n" in listed


def test_notebooks_keep_their_outputs() -> None:
    for path in sorted((DOCS.parent / "examples" / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert outputs, path.name
        assert not [output for output in outputs if output["output_type"] == "error"], path.name
