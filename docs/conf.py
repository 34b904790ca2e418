"""How the site is built: `nox -s docs`, or `sphinx-build -c docs . docs/_build` with the extra `docs`.

The source is the repository itself, so that links between pages, notebooks and files are the same on a code host and on
the site. Nothing is fetched: the theme has its fonts from the system, notebooks are shown with what they stored, and
formulas are MathML, which docutils makes of LaTeX while the site is built. (MathJax would be a script of a megabyte to
vendor or to load from elsewhere, images of formulas need TeX.)
"""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "jaxfact"
author = "the authors of jaxfact"
release = version = version_of("jaxfact")
language = "en-GB"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "mathml", "public"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "docs/**.rst", "notebooks/*.ipynb", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "docs/_build", "jaxfact", "tests", "benchmarks", "build", "dist"]

html_theme = "furo"
html_title = f"jaxfact {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_docs.html"}
templates_path = ["templates"]
html_copy_source = html_show_copyright = False
pygments_style, pygments_dark_style = "default", "monokai"

# A reference to this package that leads nowhere is an error; types in signatures need not be public.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?s)(?!jaxfact\.).*"), ("py:class", r"jaxfact\.\w+\..+")]

nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
default_role = "py:obj"
