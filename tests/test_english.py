"""Phrases that read as translated, and private names of ours, do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Tables, and the page made of them, are as the benchmarks wrote them.
TEXTS = [
    *sorted((ROOT / "batchfinder").rglob("*.py")),
    ROOT / "README.md",
    ROOT / "Makefile",
    *sorted((ROOT / ".github").rglob("*.*")),
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if not {"_build", "tables", "reproducing.md"} & set(page.parts)
    ),
]

GONE = (
    "cannot be told from the choice",
    "is what held in the confirmation",
    "digest of everything touched",
    "Put back    ",
    "NOT HELD",
    "did NOT hold",
    "Near ties",
    "what does each one cost",
    "what does each one buy",
    "does the choice hold",
    "teaches less than",
    "memory is no line",
    "expected an output and a target that say",
    "by kinship",
    "Not tested by us",
    "not tested by us",
    "could not be foretold",
    "halved once",
    "not shown to be as it was",
    "said so, not trained",
    "the cap that the noise scale sets",
    "and the fastest smaller one would save",
    "meet in the loss",
    "a value that cannot be meant",
    "before it is believed",
    "memory would not do",
    "engine room",
    "mends what",
    "Beside other finders",
    "a GPU is that you do not have",
    "generalise",
    "rests on the earlier trials",
    "when the device is yours alone",
    "may be another without",
    "the trials took the longest,",
    "to fit still",
    " to be had",
    "as fast as one another",
    "cannot be seen into",
    "call again when",
    "the house",
    "One word per job",
    "lists these words",
    "take no longer than seconds",
    "this close, relatively",
    "what is said of memory",
    "took their place",
    "took its place",
    "that stands alone",
    "go back once",
    "samples do not meet",
    "tells what it draws",
    "tell what it draws",
    "not understood",
    "live rows on stderr",
    "the walls between",
    "the room's door",
    "a report would stay",
    "an optimizer step now sees",
    "as it stands",
    "came out as",
    "cannot be told apart",
    "cannot be told from",
    "did not hold",
    "executed anew",
    "built anew by the callback",
    "Prepared objects go in",
    "hardly processed faster",
    "held only broken ones",
    "is no report that",
    "is no text",
    "is raised as itself",
    "it passes through as itself",
    "keeps watching;",
    "Left out:",
    "makes its own from each",
    "may be chance",
    "nobody knows",
    "nothing that was tried",
    "put back afterwards",
    "ran and fitted",
    "samples left out of them",
    "says so at its start",
    "so that nobody",
    "taken anew (",
    "the allocator went on",
    "they stay as it left them",
    "went another way",
    "what a larger batch would gain",
    "What is said of",
    "what stands in the way",
    "what was measured leaves that open",
    "where memory ends",
    "whole numbers read from tensors",
    "would do as well",
    "writes its own. So",
)
NUMBERS = re.compile(r"[0-9}] %(?![\w({])|[0-9}] ×(?= the| as)|\d \d{3}\b(?= (?:samples|tokens))")


@pytest.mark.parametrize("phrase", GONE)
def test_a_phrase_that_was_rewritten_stays_away(phrase: str) -> None:
    found = [path.name for path in TEXTS if phrase in path.read_text("utf-8")]
    assert found == []


def test_numbers_can_be_pasted() -> None:
    """``1,045``, ``5%`` and ``2x``: no blank within."""
    found = {
        f"{path.name}: {match.group()}"
        for path in TEXTS
        for match in NUMBERS.finditer(path.read_text("utf-8"))
    }
    assert found == set()
