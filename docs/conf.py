"""How Sphinx builds the documentation."""

from importlib import metadata

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
