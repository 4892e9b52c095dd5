"""The documentation site: `make docs`, which needs no network.

The source folder is the repository, so that a link from page to page is the same on the site as in
the files. Pages are found by their place; none is listed here.
"""

import sys
from pathlib import Path

from ood_sampler import __version__

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "ood_sampler"
author = "the ood_sampler authors"
project_copyright = "the ood_sampler authors, MIT licence"
release = __version__

root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "docs/**.ipynb",
    "experiments/README.md",
    "experiments/*/README.md",
    "experiments/few_shot/tables.md",
    "ood_sampler/assets/*/CARD.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = ["build", "outputs", "datasets", "wandb", ".*", "**/.*", "tests"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "options",
    "docstrings",
]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
# notebooks are shown with the outputs that they are stored with
nb_execution_mode = "off"
html_math_renderer = "mathml"

default_role = "py:obj"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# an override says no more than what it overrides
autodoc_inherit_docstrings = False
# other projects' names stand in signatures, and their inventories are on the network
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "furo"
html_title = "ood_sampler"
html_static_path = ["_site/static"]
templates_path = ["_site/templates"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
