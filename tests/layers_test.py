"""Tests that imports run one way."""

import ast
import pathlib

import tensorflow as tf

import tf_realnvp

# From the innermost outwards: each knows those before it alone.
LAYERS = (
    *("errors", "utils", "flow", "config", "data", "analysis", "serving"),
    *("training", "api", "cli", "beam", "__main__"),
)
# `RealNVP.save` hands over to what knows files.
EXCEPTIONS = {("flow/real_nvp.py", "tf_realnvp.serving")}


def imports(path):
    """Yields the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


class LayersTest(tf.test.TestCase):
    def test_imports_run_one_way(self):
        root = pathlib.Path(tf_realnvp.__file__).parent
        for path in sorted(root.rglob("*.py")):
            name = str(path.relative_to(root))
            own = name.split("/")[0].removesuffix(".py")
            for module in imports(path) if own != "__init__" else ():
                program, _, inner = module.partition(".")
                layer = inner.split(".")[0]
                if program != "tf_realnvp" or layer not in LAYERS:
                    continue
                if (name, f"{program}.{layer}") not in EXCEPTIONS:
                    order = LAYERS.index(layer), LAYERS.index(own)
                    self.assertLessEqual(*order, f"{name} imports {module}")
