"""How the documentation is built: ``make docs``, warnings as errors, nothing fetched."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator as HTMLTranslator

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from errors_page import errors_page  # noqa: E402 - found through the path set above
from reproducing_page import reproducing_page  # noqa: E402 - likewise
from search_words import ENDS_ON  # noqa: E402 - likewise

import batchfinder  # noqa: E402 - likewise

project = "batchfinder"
author = "The batchfinder developers"
copyright = "2026, the batchfinder developers"  # noqa: A001 - the name that Sphinx reads
version = release = batchfinder.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "tables", "README.md"]
html_theme = "furo"
html_title = "batchfinder"
html_copy_source = False
html_math_renderer = "mathml"  # formulas are read without a network too

# Notebooks are executed by `make notebooks`, which keeps their outputs; here they are only shown.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
viewcode_follow_imported_members = False  # a name that is only passed on has no place of its own
napoleon_google_docstring = True

# A sentence in a docstring may name a type of a package whose pages cannot be looked up offline.
nitpicky = False


def _bring_notebooks() -> None:
    folder = HERE / "notebooks"
    folder.mkdir(exist_ok=True)
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        shutil.copy(path, folder / path.name)


def _escape_bars(  # noqa: PLR0917 - Sphinx calls it so
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Norms are written |G|; to reStructuredText that is the start of a substitution."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


_SECTIONS = (
    "What you train:",
    "What you evaluate:",
    "What is asked:",
    "What is compared:",
    "Your limits:",
    "How it decides:",
    "How long each trains:",
    "How it runs:",
)


def _list_arguments(  # noqa: PLR0917 - Sphinx calls it so
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Arguments in sections of our own, each as an item with its type."""
    if what != "function" or not set(lines) & set(_SECTIONS):
        return
    arguments = inspect.signature(thing).parameters.values()
    types = {each.name: str(each.annotation).replace(" | ", " or ") for each in arguments}
    inside, listed = False, []
    for line in lines:
        if line and not line.startswith(" "):
            inside = line in _SECTIONS
        if not inside or not line:
            listed.append(line)
        elif line in _SECTIONS:
            listed += [f"**{line.rstrip(':')}**", ""]
        elif found := re.match(r"    (\w+): (.*)", line):
            listed.append(f"- **{found[1]}** (``{types[found[1]]}``): {found[2]}")
        elif line.startswith("        "):
            listed.append("  " + line.strip())
        else:
            listed.append(line.strip())
    lines[:] = listed


def _without_types(  # noqa: PLR0917 - likewise
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """The signature of what ``_list_arguments`` lists: names and plain defaults."""
    if what != "function" or not any(each in (thing.__doc__ or "") for each in _SECTIONS):
        return None
    parts, keyword_only = [], False
    for each in inspect.signature(thing).parameters.values():
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            parts.append("*")
            keyword_only = True
        shown = repr(each.default)
        default = "=..." if shown.startswith(("_", "<")) else f"={shown}"
        parts.append(each.name + ("" if each.default is each.empty else default))
    return f"({', '.join(parts)})", returns


class _SearchWords(SphinxTransform):
    """An index entry for every word that is to lead to the page, for the search to see."""

    default_priority = 500  # before the domains collect their entries

    def apply(self, **options: object) -> None:
        words = [word for word, page in ENDS_ON.items() if page == self.env.docname]
        section = next(iter(self.document.findall(nodes.section)), None)
        if words and section is not None:
            entries = [("single", word, section["ids"][0], "main", None) for word in words]
            section.insert(1, addnodes.index(entries=entries))


def _inline_math(self: HTMLTranslator, node: nodes.math) -> None:
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block_math(self: HTMLTranslator, node: nodes.math_block) -> None:
    self.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_transform(_SearchWords)
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("autodoc-process-docstring", _list_arguments, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _escape_bars)
    app.connect("autodoc-process-signature", _without_types)


(HERE / "errors.md").write_text(errors_page(), encoding="utf-8")
(HERE / "reproducing.md").write_text(reproducing_page(), encoding="utf-8")
_bring_notebooks()
