"""How Sphinx builds this site: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks"), str(HERE.parent / "tests")]

import loss_pages  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

from nbloss import __version__  # noqa: E402

project, author = "nbloss", "nbloss developers"
copyright = "2026, nbloss developers"
version = release = __version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["gallery"]
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_typehints = "none"

html_theme = "pydata_sphinx_theme"
html_title = "nbloss"
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Their sections have no other page, and tables of figures need the place.
html_sidebars = {"index": [], "api": [], "benchmarks/*": []}

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "auto_examples/used",  # which pages use a loss: the losses' pages ask
    "doc_module": ("nbloss",),
    "filename_pattern": "/plot_",
    "capture_repr": (),
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "only_warn_on_example_error": False,
}


def setup(app: Sphinx) -> None:
    """Write the pages of the losses before Sphinx looks for pages."""
    loss_pages.write(HERE / "losses")
