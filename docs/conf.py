"""How Sphinx builds the pages: ``python -m sphinx -W -b html docs docs/_build``; nothing is loaded from the network."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
# The pages' own extensions; the package itself is the one that is installed.
sys.path.insert(0, str(HERE / "_ext"))

import pyro_unmix  # noqa: E402

REPOSITORY = "https://github.com/pyro-unmix/pyro_unmix"

project = "pyro_unmix"
author = "The pyro_unmix developers"
copyright = f"2026, {author}"
version = release = pyro_unmix.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "public_names",
    "repository_links",
]
exclude_patterns = ["_build", "_templates", "jupyter_execute"]
templates_path = ["_templates"]
default_role = "py:obj"
# Names in single backticks are looked for, and may also be a keyword or a formula's letter.
suppress_warnings = ["ref.python", "toc.excluded"]

# Reference: what each room lists is what its page lists.
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False

# Tutorials are computed at every build; an error in them is an error of the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
# Progress bars are off in all of them.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Other projects' names become links where their lists can be had; without a network they are plain text.
intersphinx_mapping = {}
if os.environ.get("READTHEDOCS"):
    intersphinx_mapping = {
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pyro": ("https://docs.pyro.ai/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
        "xarray": ("https://docs.xarray.dev/en/stable/", None),
    }

html_theme = "pydata_sphinx_theme"
html_title = "pyro_unmix"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "github_url": REPOSITORY,
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Pages without others below them need no list of those.
_ALONE = [
    "start",
    "which_method",
    "architecture",
    "own_programs",
    "contributing",
    "changelog",
    "security",
]
html_sidebars = {page: [] for page in _ALONE}
html_show_sourcelink = False
repository = REPOSITORY


def _more_how_tos(app: object, name: str, source: list[str]) -> None:
    """A page beside this file that no other page lists is a how-to."""
    if name != "howto/index":
        return
    listed = re.findall(r"^(\w+)$", (HERE / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    more = sorted({path.stem for path in HERE.glob("*.md")} - {"index", *listed})
    source[0] = source[0].replace("MORE_PAGES", "\n".join(f"/{page}" for page in more))


def setup(app: object) -> None:
    app.connect("source-read", _more_how_tos)  # type: ignore[attr-defined]
