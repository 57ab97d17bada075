"""How Sphinx builds the documentation."""

import re
from importlib import metadata
from typing import Any

from sphinx.application import Sphinx

project = "sb3-llmdpd"
author = "The sb3_llmdpd authors"
project_copyright = "2026, The sb3_llmdpd authors"
release = metadata.version("sb3-llmdpd")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"sb3-llmdpd {release}"

myst_enable_extensions = ["colon_fence", "dollarmath"]
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
    """Docstrings write shapes as (n, *obs_shape), and reStructuredText would take the star for emphasis."""
    lines[:] = [
        re.sub(r"(``.*?``|`.*?`)|(?<=[(, ])\*(?=\w)", lambda found: found[1] or r"\*", line) for line in lines
    ]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_starred_shapes)
