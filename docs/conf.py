"""How Sphinx builds the documentation."""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sb3-llmdpd"
author = "The sb3_llmdpd authors"
project_copyright = "2026, The sb3_llmdpd authors"
release = metadata.version("sb3-llmdpd")

extensions = [
    "generated_pages",
    "myst_parser",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
smartquotes = False  # would make one dash of the two of an option
html_theme = "furo"
html_title = f"sb3-llmdpd {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["colon_fence", "dollarmath", "html_image"]
myst_heading_anchors = 3

# Docstrings write names and shapes in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
add_module_names = False


def escape_starred_shapes(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Escape the star of shapes such as (n, *obs_shape), which would begin emphasis."""
    starred = re.compile(r"(``.*?``|`.*?`)|(?<=[(, ])\*(?=\w)")
    lines[:] = [starred.sub(lambda found: found[1] or r"\*", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Register what the docstrings need."""
    app.connect("autodoc-process-docstring", escape_starred_shapes)
