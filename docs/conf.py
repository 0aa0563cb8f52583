# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the site: `make docs`."""

import inspect
import pathlib
import re
import sys

import keras_seq

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import examples_pages

project = "keras_seq"
author = "The keras_seq authors"
copyright = author
version = release = keras_seq.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
templates_path = ["_templates"]
exclude_patterns = ["_build", "figures/README.md"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run the code of all pages, and the notebook

# Docstrings are Google's sections with Markdown's code: `x` is a name of ours or code, and fences are blocks of code.
default_role = "py:obj"
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style")]
autosummary_generate = True
autosummary_ignore_module_all = False  # __all__ of a module is what is public
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False  # what Keras documents is left to Keras
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)

html_theme = "furo"
html_title = "keras_seq"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False


def convert_fences(_app, _what, _name, _object, _options, lines):
    """Turns Markdown's fenced code in a docstring, given as `lines`, into reStructuredText's."""

    def block(match):
        indent, language, code = match.groups()
        return f"\n{indent}.. code-block:: {language or 'text'}\n\n" + re.sub("^(?=.)", "   ", code, flags=re.MULTILINE)

    lines[:] = FENCE.sub(block, "\n".join(lines)).split("\n")


def show_signature(_app, what, _name, documented, _options, _signature, _result):
    """Returns the arguments of a class of ours, of which autodoc sees only the `__new__` of Keras."""
    if what == "class" and "__init__" in vars(documented):
        return str(inspect.signature(documented)), None
    return None


def setup(app):
    """Connects what this file adds to Sphinx."""
    examples_pages.connect(app)
    app.connect("autodoc-process-signature", show_signature)
    app.connect("autodoc-process-docstring", convert_fences, priority=400)  # before napoleon
