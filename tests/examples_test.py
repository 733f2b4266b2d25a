"""Tests for the programs in `examples`."""

import contextlib
import importlib.util
import sys
from unittest import mock

import command_lines
import folders
import numpy as np
import scipy.special
import small_models
from image_arrays import read_png, write_images

import tf_realnvp
from tf_realnvp.analysis import plots


def load(name):
    path = command_lines.REPOSITORY / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PosteriorTest(folders.FolderTestCase):
    model = small_models.displaced(0.0)

    def test_independent_pixels(self):
        """Compares with integrals, as a new model has independent pixels.

        Half of the pixels are known, with noise. The others have the prior.
        """
        model = self.model
        values = np.linspace(1.0, 16.0, 16)
        values = np.stack([values, values[::-1]]).reshape(2, 4, 4, 1)
        mask = np.arange(32).reshape(2, 4, 4, 1) % 2 == 1
        program = load("posterior")
        posterior = program.Posterior(model, sigma=1.5)
        observation = posterior.observation(values, ~mask)
        latents = posterior.descend(observation, program.NUM_DESCENTS)
        found = posterior.sample(observation, num_chains=100)
        z = np.linspace(-8.0, 8.0, 4001)
        alpha = model.alpha
        levels = (scipy.special.expit(z) - alpha / 2) / (1 - alpha) * 17.0
        errors = ~mask[..., np.newaxis] * (
            (levels - 0.5 - values[..., np.newaxis]) / 1.5
        )
        log_density = -0.5 * (np.square(z) + np.square(errors))
        density = scipy.special.softmax(log_density, axis=-1)
        levels = np.clip(np.floor(levels), 0, 16)
        mean = (density * levels).sum(axis=-1)
        variance = (density * np.square(levels)).sum(axis=-1) - np.square(mean)
        self.assertAllClose(found["mean"], mean, atol=0.7)
        self.assertAllClose(found["std"], np.sqrt(variance), rtol=0.2)
        points = posterior.points(latents, observation.label).numpy()
        likeliest = levels[log_density.argmax(axis=-1)]
        images = model.values.nearest(points)
        self.assertAllClose(images, likeliest, atol=1)
        self.assertAllClose(
            posterior.log_density(latents, observation, 1.5),
            log_density.max(axis=-1).sum(axis=(1, 2, 3)),
            atol=0.01,
        )
        self.assertAllInRange(found["acceptance"], 0.4, 0.99)
        self.assertAllInRange(found["r_hat"], 0.8, 1.2)
        self.assertAllInRange(found["ess"], 100, 100 * 40)
        self.assertEqual(found["samples"].shape, (2, 100, 4, 4, 1))

    def test_program(self):
        """It draws a row for each image."""
        self.enterContext(contextlib.chdir(self.folder))
        images = small_models.images(2)
        write_images(".", images, 17, ["a.png", "b.png"])
        mask = np.arange(16, dtype=np.uint8).reshape(4, 4, 1) % 2
        write_images(".", [mask], 2, ["mask.png"])
        posterior = load("posterior")
        argv = ["posterior", "M", "a.png", "b.png", "--mask", "mask.png"]
        with (
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(tf_realnvp, "load", return_value=self.model),
            mock.patch.multiple(
                posterior,
                NUM_DESCENTS=5,
                NUM_START_DESCENTS=5,
                NUM_ADAPTATIONS=2,
                NUM_DRAWS=4,
            ),
            mock.patch.object(
                plots, "save_restorations", wraps=plots.save_restorations
            ) as save,
        ):
            posterior.main()
        shown, missing = save.call_args.args[3], mask > 0
        for found in (shown["likeliest"], shown["sample 1"]):
            self.assertAllEqual(found[:, ~missing], images[:, ~missing])
            self.assertNotAllEqual(found[:, missing], images[:, missing])
        self.assertGreater(np.ptp(read_png("restored.png")), 100)
