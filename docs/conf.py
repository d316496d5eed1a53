"""Settings of the documentation's static site; `make site` builds it into `build/site`, with warnings as errors.

The source folder is the repository's root, so that a page that stands beside its code (the protocol, the security
page, the changelog) is a page of the site too, and one link works in both places. Nothing is fetched when a page is
opened: no font, no script, no picture comes from elsewhere, and the search runs in the browser.
"""

import logging

project = "partsong"
author = "the partsong maintainers"
project_copyright = "the partsong maintainers, Apache-2.0"
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/*.ipynb",
    "docs/studies/*.md",
    "common/PROTOCOL.md",
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "tests", "client", "server", "simulations", "conf"]

extensions = ["myst_nb"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
"""The tutorial holds no outputs of its own; those on the page are of this very version."""
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

html_theme = "furo"
html_title = "partsong"
html_static_path: list[str] = []
html_extra_path = ["site"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
highlight_language = "none"
pygments_style = "default"
pygments_dark_style = "monokai"

# The notebook's executor says at level `warning` what it does about kernels; what goes wrong in a cell is raised.
logging.getLogger("traitlets").setLevel(logging.ERROR)
