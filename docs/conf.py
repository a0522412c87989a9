"""How Sphinx builds the site: `make docs`."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import sklearn_mgs

project = "sklearn_mgs"
author = "The sklearn_mgs developers"
project_copyright = author
version = release = sklearn_mgs.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
smartquotes = False  # "adam" in a docstring is Python
toc_object_entries_show_parents = "hide"
default_role = "autolink"  # `name` in a docstring links wherever there is something to link to

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say the types
autosummary_generate = True
numpydoc_show_class_members = False  # the template lists the methods

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*$",  # scripts for a terminal
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),  # what an example prints is enough
    "download_all_examples": False,
    "remove_config_comments": True,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "logo": {"text": project},
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
# The start page and the changelog have no neighbours to list.
html_sidebars = {"index": [], "changelog": []}


def write_inline(self, node):
    """Formula in a line of text."""
    self.body.append(convert(node.astext()))
    raise SkipNode


def write_block(self, node):
    """Formula on a line of its own."""
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def without_references(app, what, name, obj, options, lines):
    """Inherited docstrings refer to chapters of scikit-learn's own site; keep their words."""
    lines[:] = [re.sub(r":ref:`([^`<]*?) *<[^`]*`", r"\1", line) for line in lines]


def setup(app):
    """Formulas become MathML, which browsers show by themselves: no script, no network."""
    app.connect("autodoc-process-docstring", without_references)
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
