"""Tests of commands on models that have a context."""

from unittest import mock

import command_lines
import image_arrays
import numpy as np
import small_models

import tf_realnvp
from tf_realnvp import data
from tf_realnvp.cli import main, usage
from tf_realnvp.data import image_files
from tf_realnvp.utils.batches import stream

VECTORS, NOISE = {"context_shape": (3,)}, {"observe": "noise:25"}


class CommandTest(command_lines.CommandTestCase):
    name = r"tf-realnvp( \w+)?"

    def call(self, config, command, *argv):
        model = small_models.shared(**config)
        self.use(model)
        # `restore` looks at the metadata first.
        load = mock.patch.object(tf_realnvp, "load", return_value=model)
        self.enterContext(load)
        changes = {
            "observe": model.observe,
            "context_shape": model.context_shape,
        }
        path = small_models.copied(small_models.saved(), self.folder, **changes)
        return command_lines.call(main.main, command, path, *argv)

    def test_sample(self):
        model = small_models.shared(**VECTORS)
        rows = np.random.default_rng(0).normal(size=(3, 3))
        np.save("rows.npy", rows)
        np.savez("all.npz", images=np.zeros(1), context=rows[0])
        for file, context in (("rows.npy", rows), ("all.npz", rows[0])):
            argv = "--context", file, "--seed", 5, "--out", f"{file}s/"
            code, _, errors = self.call(VECTORS, "sample", *argv)
            self.assertEqual(code, 0, errors)
            n = 36 if context.ndim == 1 else 3
            expected = model.sample(n, seed=5, context=context)
            files = sorted(self.folder.glob(f"{file}s/*.png"))
            images = [image_files.read(file, (4, 4, 1), 17) for file in files]
            self.assertAllEqual(images, expected)
        np.save("wrong.npy", np.zeros([3, 2]))
        wrong = self.call(VECTORS, "sample", "--context", "wrong.npy")
        self.assert_usage_error(wrong, "(3, 2)")
        np.savez("none.npz", codes=rows)
        none = self.call(VECTORS, "sample", "--context", "none.npz")
        self.assert_usage_error(none, "none.npz has no array named context")
        image_arrays.write_images("in", small_models.images(2), 17)
        self.enterContext(mock.patch.object(usage, "_check_packages"))
        export = ["export", "--reference", "in"]
        for argv in (["sample"], ["reconstruct", "in/000.png"], export):
            none = self.call(VECTORS, *argv)
            self.assert_usage_error(none, "(3,)")

    def test_evaluate_and_score(self):
        images = small_models.images(30)
        context = np.random.default_rng(0).normal(size=(30, 3))
        np.savez("a.npz", images=images, num_colors=17, context=context)
        code, out, errors = self.call(
            VECTORS, "evaluate", "--dataset", "./a.npz"
        )
        self.assertEqual(code, 0, errors)
        test = data.load("./a.npz").splits["test"]
        expected = small_models.shared(**VECTORS).bits_per_dim(
            images[test.indices],
            stream(0, 0),
            context=np.float32(context[test.indices]),
        )
        self.assertIn(f"{np.mean(expected):.3f}", out)
        np.save("one.npy", context[0])
        image_arrays.write_images("in", images[:4], 17)
        argv = "in", "--context", "one.npy", "--out", "scores.csv"
        code, _, errors = self.call(VECTORS, "score", *argv)
        self.assertEqual(code, 0, errors)
        rows = (self.folder / "scores.csv").read_text().splitlines()[1:]
        scores = {row[:7]: float(row.split(",")[1]) for row in rows}
        expected = small_models.shared(**VECTORS).log_prob_each(
            images[:4], [0] * 4, context=context[0]
        )
        self.assertAllClose([scores[k] for k in sorted(scores)], expected, 1e-4)
        np.save("wrong.npy", np.zeros([3, 2]))
        for command, *argv in (
            ("score", "in", "--reference", "in"),
            ("score", "in", "--maps", "maps", "--context", "wrong.npy"),
            ("detect", "--unusual", "in"),
        ):
            self.assert_usage_error(self.call(VECTORS, command, *argv), "(3,)")

    def test_restore(self):
        image_arrays.write_images("in", small_models.images(2), 17)
        image_files.write("mask.png", np.uint8([[[1], [0]] * 2] * 4), 2)

        argv = "in", "--mask", "mask.png", "--samples", 2, "--out", "out/"
        code, _, errors = self.call({"observe": "mask"}, "restore", *argv)
        self.assertEqual(code, 0, errors)
        self.assertLen(list(self.folder.glob("out/*.png")), 10)
        wrong = self.call(NOISE, "restore", "in", "--mask", "mask.png")
        self.assert_usage_error(wrong, "noise:25")
        none = self.call({}, "restore", "in", "--mask", "mask.png")
        self.assert_usage_error(none, "observes nothing: train a model of")
