"""Looks at the built documentation: every link leads somewhere, every search ends where it should.

    python docs/check_built.py docs/_build/html

Links to other sites are checked by ``make links``, which needs a network. The search is Sphinx's
own, run by node; where there is no node, it is said and left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from search_words import ENDS_ON

HERE = Path(__file__).parent


class _Page(HTMLParser):
    """The anchors of a page, and where its links lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for every element."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value and tag != "link":
                self.links.append(value)


def broken_links(folder: Path) -> Iterator[str]:
    """Links inside the documentation that lead nowhere."""
    read = {
        path: _Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))
    }
    for path, page in read.items():
        for link in page.links:
            if ":" in link.partition("#")[0] or link in ("#", ""):
                continue
            place, _, anchor = link.partition("#")
            target = (path.parent / unquote(place.partition("?")[0])).resolve() if place else path
            if not target.exists():
                yield f"{path.relative_to(folder)}: {link} leads nowhere"
            elif anchor and target in read and unquote(anchor) not in read[target].anchors:
                yield f"{path.relative_to(folder)}: {link} has no such anchor"


def wrong_ends(folder: Path) -> Iterator[str]:
    """Searches whose first result is another page than it should be."""
    node = shutil.which("node")
    if node is None:
        print("node is not installed: the search was not looked at")  # noqa: T201 - for a terminal
        return
    ran = subprocess.run(
        [node, str(HERE / "search_ranks.js"), str(folder), *ENDS_ON],
        capture_output=True,
        text=True,
        check=True,
    )
    for query, found in json.loads(ran.stdout).items():
        if found[:1] != [ENDS_ON[query]]:
            yield f"a search for {query!r} ends on {found[:3]}, not on {ENDS_ON[query]}"


def main() -> int:
    """The exit status: 1 where something was found."""
    folder = Path(sys.argv[1]).resolve()
    found = [*broken_links(folder), *wrong_ends(folder)]
    for each in found:
        print(each)  # noqa: T201 - its output is its purpose
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
