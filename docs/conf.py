"""How the documentation is built: `python -m sphinx -W docs docs/_build`."""

import contextlib
import dataclasses
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.errors import ExtensionError
from sphinx.util.inspect import stringify_signature

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # The API reference is that of this checkout.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tf_realnvp  # noqa: E402
from tf_realnvp.config import TrainingConfig  # noqa: E402

project = "tf_realnvp"
author = copyright = "The tf_realnvp authors"
release = tf_realnvp.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
# The reference, a part of `python.py`, where autosummary would not look.
autosummary_generate = ["modules.rst"]
exclude_patterns = ["_build", "jupyter_execute", "conf.py", "modules.rst"]
templates_path = ["_templates"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_title = f"tf_realnvp {release}"
html_math_renderer = "mathml"

# Pages with cells are run; an error in one is an error of the build.
os.environ["PYTHONPATH"] = str(ROOT)
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autoclass_content = "both"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False  # Those of Keras and TFP are not ours.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "code"  # Docstrings are Markdown, as TensorFlow's are.
maximum_signature_line_length = 80
napoleon_attr_annotations = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# A type of our own that leads nowhere is an error. TensorFlow, Keras and TFP
# have no inventory in which Sphinx could look up theirs.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!tf_realnvp).*")]


def _to_restructured_text(app, what, name, obj, options, lines):
    """Rewrites headings and blocks of code, which docstrings have in Markdown.

    Sphinx reads docstrings as reStructuredText.
    """

    def block(match):
        indent, language, code = match.groups()
        code = re.sub(r"(?m)^(?=.)", "    ", code)
        return f"{indent}.. code-block:: {language}\n\n{code}\n"

    text = "\n".join(lines)
    text = re.sub(r"(?m)^( *)#+ (.+)$", r"\1.. rubric:: \2", text)
    text = re.sub(r"(?ms)^( *)```(\w+)\n(.*?)^ *```$", block, text)
    if what == "property":
        # Napoleon would take what stands before a colon in the first line for
        # a type.
        text = "\n" + text
    lines[:] = text.splitlines()


def _mend_signature(app, what, name, obj, options, signature, returns):
    """Shows arguments and default values as the source has them."""
    if signature is None:
        return None
    if what == "class" and signature == "(*args, **kwargs)":
        # That of `keras.layers.Layer.__new__`.
        _, *parameters = inspect.signature(obj.__init__).parameters.values()
        signature = stringify_signature(
            inspect.Signature(parameters), unqualified_typehints=True
        )
    return re.sub(r"<function (\w+).*?>", r"\1", signature), returns


def _leave_out_foreign(app, what, name, obj, skip, options):
    """Leaves out functions that only are the value of an attribute."""
    module = getattr(obj, "__module__", None) or "tf_realnvp"
    return None if module.startswith("tf_realnvp") else True


def _leave_out_private(app, name, obj, options, bases):
    """Names the public base in place of a private one."""
    bases[:] = [
        base.__base__ if base.__name__.startswith("_") else base
        for base in bases
    ]


def _write_math(translator, node):
    """Writes a formula as MathML, which browsers show without a script."""
    is_block = isinstance(node, nodes.math_block)
    math = latex2mathml.tex2mathml(node.astext(), as_block=is_block)
    # As in TeX, a function and its argument stand apart unless that has
    # parentheses.
    math = re.sub(
        r"(<mo>&ApplyFunction;</mo>)(?!\s*<mo[^>]*>[(\[])",
        r'\1<mspace width="0.1667em"></mspace>',
        math,
    )
    if is_block:
        math = f'<div class="math">{math}</div>'
    translator.body.append(math)
    raise nodes.SkipNode


def _insert_flags(app, page, source):
    """Puts a table of the flags where a page has `<!-- flags -->`."""
    rows = ["| flag | meaning | default |", "| --- | --- | --- |"]
    for field in dataclasses.fields(TrainingConfig):
        allowed, text = (field.metadata[key] for key in ("allowed", "help"))
        flag = f"--{field.name}"
        if choices := getattr(allowed, "choices", None):
            flag += f" {{{','.join(choices)}}}"
        elif metavar := getattr(allowed, "metavar", None):
            flag += f" {metavar}"
        meaning, default = re.fullmatch(
            r"(.*?)(?: \(default: (.*)\))?", text, re.DOTALL
        ).groups(default="")
        meaning, default = (
            # Other flags, and names such as realnvp_DATASET, are code.
            re.sub(r"--\w+|\b[a-z]+_[A-Z]+\b", r"`\g<0>`", cell)
            for cell in (meaning, default)
        )
        rows.append(f"| `{flag}` | {meaning} | {default} |")
    source[0] = source[0].replace("<!-- flags -->", "\n".join(rows))


def _start_page(app):
    """Starts to write the page of `explore` with a model of this repository.

    That takes a minute, in which the other pages are written. Without its
    packages, of Python or Node.js, there is none, and the command says so.
    """
    app.explore = None
    if app.builder.format != "html":
        return
    model = ROOT / "models" / "realnvp_fashion_mnist"
    command = [sys.executable, "-m", "tf_realnvp", "explore", model]
    app.explore = subprocess.Popen(
        [*command, "--out", pathlib.Path(app.outdir, "page")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        # What is missing is found at once, before TensorFlow is imported.
        app.explore.wait(timeout=5)


def _finish_page(app, exception):
    """Waits for the page of `explore`, and adds what the site knows."""
    if app.explore is None:
        return
    _, errors = app.explore.communicate()
    if app.explore.returncode == 2:
        print(f"without a page of the model: {errors}", file=sys.stderr)
        return
    if app.explore.returncode:
        raise ExtensionError(errors)
    page = pathlib.Path(app.outdir, "page")
    index = page / "index.html"
    html = index.read_text().replace('hidden data-docs="', 'href="../')
    index.write_text(html)
    # The bits/dim of 1,000 test images: `explore` with these would need them.
    content = json.loads((page / "model.json").read_text())
    bits = (ROOT / "docs" / "bits_per_dim.json").read_text()
    content["bits_per_dim"] = json.loads(bits)
    (page / "model.json").write_text(json.dumps(content))


def _insert_links(app, page, source):
    """Puts a link to the page of `explore` where there is `<!-- page -->`.

    Pages outside of this folder, which are read in the repository, become
    downloads.
    """
    source[0] = source[0].replace("](../", "](path:../")
    if app.explore is not None and app.explore.returncode is None:
        link = '<a href="page/index.html">Open the page</a>'
        source[0] = source[0].replace("<!-- page -->", link)


def setup(app):
    """Called by Sphinx."""
    app.connect("builder-inited", _start_page)
    app.connect("build-finished", _finish_page)
    app.connect("source-read", _insert_flags)
    app.connect("source-read", _insert_links)
    # Before napoleon, which has priority 500.
    app.connect(
        "autodoc-process-docstring", _to_restructured_text, priority=100
    )
    app.connect("autodoc-process-signature", _mend_signature)
    app.connect("autodoc-skip-member", _leave_out_foreign)
    app.connect("autodoc-process-bases", _leave_out_private)
    app.add_html_math_renderer(
        "mathml", (_write_math, None), (_write_math, None)
    )
