"""Tests for detection."""

import dataclasses
import io
import math
from unittest import mock

import numpy as np
import small_models
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image
from sklearn import metrics

from tf_realnvp import bit_maps, detection


def make_measurements(n, seed=0, shift=0.0):
    """Measurements of no images, with correlated costs."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(16, 16))
    costs = rng.normal(size=(n, 16)) @ mixing + 50.0 + shift
    costs = costs.reshape(n, 2, 2, 2, 2).astype(np.float32)
    return detection.Measurements(
        log_prob=-costs.sum(axis=(1, 2, 3, 4), dtype=np.float64),
        num_dims=16,
        costs=costs,
        coded_bits=rng.uniform(900.0, 1100.0, size=n),
        label=np.zeros(n, np.int64),
    )


def standardised(values, normal):
    return (values - normal.mean(axis=0)) / normal.std(axis=0)


def log_distance(seen, normal):
    """Distances from some normal features, by Ledoit and Wolf's formulas."""
    x = standardised(normal, normal)
    n, p = x.shape
    sample = x.T @ x / n
    target = np.trace(sample) / p * np.eye(p)
    spread = np.sum((sample - target) ** 2)
    noise = sum(np.sum((np.outer(r, r) - sample) ** 2) for r in x) / n**2
    weight = min(noise, spread) / spread
    inverse = np.linalg.inv(weight * target + (1 - weight) * sample)
    z = standardised(seen, normal)
    return np.log([row @ inverse @ row for row in z])


class MeasurerTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = small_models.model()
        cls.images = small_models.images(11)
        cls.measure = small_models.measurer(small_models.model)
        cls.measured = cls.measure(cls.images, seed=5)

    def test_is_of_each_image_alone(self):
        seeds = np.full(11, 5)
        log_prob = self.model.log_prob_each(self.images, seeds)
        self.assertAllClose(self.measured.log_prob, log_prob, rtol=1e-5)
        alone = self.measure(self.images[6:7], seed=5)
        for name in ("log_prob", "costs", "coded_bits", "label"):
            values = getattr(self.measured, name)
            self.assertLen(values, 11)
            self.assertAllClose(
                getattr(alone, name), values[6:7], rtol=1e-5, atol=1e-5
            )
        tensor = self.measure(tf.constant(self.images[6:7]), seed=5)
        self.assertAllEqual(tensor.coded_bits, alone.coded_bits)
        other = self.measure(self.images, seed=6)
        self.assertNotAllClose(other.log_prob, self.measured.log_prob)

    def test_bits(self):
        bits = -self.measured.log_prob / math.log(2.0)
        self.assertAllClose(self.measured.bits, bits)
        self.assertAllClose(self.measured.bits_per_dim, bits / 16)
        maps = self.measure.maps(self.images, seed=5)
        self.assertEqual(maps.dtype, np.float32)
        self.assertAllClose(maps.sum(axis=(1, 2)), bits, rtol=1e-5)

    def test_costs_are_summed_over_cells(self):
        points = self.model.dequantize_each(self.images, np.full(11, 5))
        costs = bit_maps.costs(self.model, points).numpy()
        cells = costs.reshape(11, 2, 2, 2, 2, 2, 2).sum(axis=(4, 6))
        self.assertAllClose(self.measured.costs, cells, rtol=1e-4, atol=1e-4)

    def test_batches(self):
        sizes = []
        self.measure(self.images, 5, lambda batch: sizes.append(len(batch)))
        self.assertEqual(sizes, [8, 3])

    def test_no_images(self):
        nothing = self.measure(self.images[:0])
        self.assertLen(nothing, 0)
        self.assertEqual(nothing.costs.shape, (0, 2, 2, 2, 2))
        self.assertEqual(self.measure.maps(self.images[:0]).shape, (0, 4, 4))

    def test_other_images(self):
        for images in (self.images[:, :2], self.images.astype(np.int64)):
            with self.assertRaisesRegex(ValueError, r"uint8 \[n, 4, 4, 1\]"):
                self.measure(images)

    def test_what_float32_does_not_hold(self):
        """It is as unusual as can be, by all methods, and an error by none."""
        normal = self.measure(small_models.images(60))
        for value in (np.nan, np.inf):
            costs = np.full([2, 2, 2, 4, 4], 3.0, np.float32)
            costs[1, 0, 1, 2, 3] = value
            found = costs, np.zeros(2, int), np.zeros(2)
            with mock.patch.object(
                self.measure,
                "_measure",
                return_value=[tf.constant(values) for values in found],
            ):
                wild = self.measure(self.images[:2]).take(np.array([1]))
            for name, score in detection.fit(normal).items():
                worst = score(normal).max()
                self.assertAllGreater(score(wild), worst)
                self.assertTrue(np.isfinite(score(wild)).all(), name)

    def test_large_images_have_few_cells(self):
        values = np.arange(1280.0).reshape(1, 1, 2, 20, 32)
        measure = detection.Measurer(
            mock.Mock(image_shape=(20, 32, 1), num_scales=1, num_dims=640)
        )
        images = np.zeros([1, 20, 32, 1], np.uint8)
        batches = [(images, values, np.zeros(1, int), np.zeros(1))]
        with mock.patch.object(measure, "_batches", return_value=batches):
            costs = measure(images).costs
        self.assertEqual(costs.shape, (1, 1, 2, 8, 8))
        self.assertEqual(costs.sum(), values.sum())
        # Of 20 rows the first of eight cells has two.
        self.assertEqual(costs[0, 0, 1, 0, 0], values[0, 0, 1, :2, :4].sum())


class ConditionalTest(tf.test.TestCase):
    """Measurements by a model with classes."""

    def test_against_the_model(self):
        model, images = small_models.distinct(), small_models.images(11)
        seeds = np.full(11, 5)
        measure = small_models.measurer(small_models.distinct)
        measured = measure(images, seed=5)
        given = [model.log_prob_each(images, seeds, k) for k in range(3)]
        joint = np.array(given) + np.log(model.class_probs)[:, None]
        label = joint.argmax(axis=0)
        self.assertGreater(len(set(label)), 1)
        self.assertAllEqual(measured.label, label)
        self.assertAllClose(
            measured.log_prob, model.log_prob_each(images, seeds), rtol=1e-5
        )
        likeliest = np.choose(label, given)
        costs = measured.costs.sum(axis=(1, 2, 3, 4))
        self.assertAllClose(costs, -likeliest, rtol=1e-5)
        maps = measure.maps(images, seed=5).sum(axis=(1, 2))
        self.assertAllClose(maps, -likeliest / math.log(2.0), rtol=1e-5)


class CodedBitsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(1, 3)
    def test_is_the_shorter(self, channels):
        rng = np.random.default_rng(0)
        images = np.zeros([3, 24, 20, channels], np.uint8)
        images[1] = rng.integers(256, size=images.shape[1:])
        images[2, ::2] = 255
        lengths = []
        for image in images:
            picture = Image.fromarray(image.squeeze())
            each = []
            for options in (
                {"format": "png", "optimize": True},
                {"format": "webp", "lossless": True, "quality": 100},
            ):
                file = io.BytesIO()
                picture.save(file, **options)
                each.append(8 * len(file.getvalue()))
            lengths.append(min(each))
        bits = detection.coded_bits(images)
        self.assertAllEqual(bits, lengths)
        self.assertGreater(bits[1], 8 * 24 * 20 * channels)
        self.assertLess(bits[0], 1000)

    def test_other_channels(self):
        images = np.zeros([2, 4, 4, 2], np.uint8)
        self.assertAllGreater(detection.coded_bits(images), 0.0)


class MethodsTest(tf.test.TestCase, parameterized.TestCase):
    def test_bits(self):
        normal, seen = make_measurements(40), make_measurements(9, 1)
        nats = seen.costs.sum(axis=(1, 2, 3, 4))
        for method, expected in (
            (detection.likelihood, nats),
            (
                detection.typicality,
                np.abs(nats - normal.costs.sum(axis=(1, 2, 3, 4)).mean()),
            ),
            (detection.complexity, nats / math.log(2.0) - seen.coded_bits),
        ):
            self.assertAllClose(method(normal)(seen), expected, rtol=1e-3)

    def test_scales_with_few_images(self):
        """A single Gaussian, in four dimensions."""
        normal, seen = make_measurements(90), make_measurements(9, 1)
        features = [m.costs.sum(axis=(3, 4)) for m in (normal, seen)]
        x, y = (f.reshape(-1, 4).astype(np.float64) for f in features)
        y, x = standardised(y, x), standardised(x, x)
        covariance = x.T @ x / len(x) + 1e-3 * np.eye(4)
        squares = np.einsum("ni,ij,nj->n", y, np.linalg.inv(covariance), y)
        log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
        self.assertAllClose(
            detection.scales(normal)(seen), 0.5 * (squares + log_det)
        )

    def test_scales_with_many_images(self):
        """Between two clusters it is unusual, which no Gaussian finds."""
        first, second = make_measurements(200), make_measurements(200, 1, 90.0)
        middle = make_measurements(50, 2, 45.0)
        both = detection.Measurements(
            *(
                np.concatenate([getattr(m, name) for m in (first, second)])
                if name != "num_dims"
                else 16
                for name in (
                    *("log_prob", "num_dims", "costs", "coded_bits"),
                    "label",
                )
            )
        )
        score = detection.scales(both)
        comparison = detection.compare(score(both), score(middle), num_draws=2)
        self.assertGreater(comparison.auroc.value, 0.99)

    def test_places(self):
        normal, seen = make_measurements(40), make_measurements(9, 1, 3.0)
        features = [
            m.costs.reshape(len(m), -1).astype(np.float64)
            for m in (seen, normal)
        ]
        self.assertAllClose(
            detection.places(normal)(seen), log_distance(*features), rtol=1e-5
        )

    def test_combined(self):
        normal, seen = make_measurements(52), make_measurements(9, 1, 3.0)
        expected = np.zeros(9)
        for method in (
            detection.complexity,
            detection.scales,
            detection.places,
        ):
            held_out = []
            for fold in range(5):
                is_out = np.arange(52) % 5 == fold
                score = method(normal.take(~is_out))
                held_out.extend(score(normal.take(is_out)))
            score = method(normal)(seen)
            expected += (score - np.mean(held_out)) / np.std(held_out)
        self.assertAllClose(detection.combined(normal)(seen), expected)

    def test_same_each_time(self):
        normal, seen = make_measurements(300), make_measurements(9, 1)
        scores = []
        for seed in range(2):
            np.random.seed(seed)
            scores.append(detection.scales(normal)(seen))
        self.assertAllEqual(*scores)

    def test_outlier_among_the_normal(self):
        """It does not decide how much each of the three counts."""
        normal, seen = make_measurements(150), make_measurements(50, 1, 3.0)
        outlier = make_measurements(1, 2, 4000.0)
        costs = np.concatenate([normal.costs[:-1], outlier.costs])
        with_outlier = dataclasses.replace(normal, costs=costs)
        held_out = detection._held_out_scores(detection.scales, with_outlier)
        self.assertGreater(held_out.std(), 100.0)
        is_outlier = detection._is_outlier(held_out)
        self.assertAllEqual(np.flatnonzero(is_outlier), [149])
        differences = [
            np.mean(score(seen)) - np.mean(score(make_measurements(50, 3)))
            for score in map(detection.combined, (normal, with_outlier))
        ]
        self.assertGreater(differences[1], 0.7 * differences[0])

    def test_many_of_one_kind(self):
        """Six of seven are alike: the others would be outliers."""
        normal, numbers = make_measurements(200), np.arange(200)
        alike = normal.take(np.where(numbers % 7 < 6, 0, numbers))
        noise = np.random.default_rng(0).normal(size=alike.costs.shape)
        costs = (alike.costs + 1e-3 * noise).astype(np.float32)
        score = detection.combined(dataclasses.replace(alike, costs=costs))
        self.assertLess(np.median(np.abs(score(normal))), 100.0)
        unusual = make_measurements(50, 1, 30.0)
        self.assertGreater(
            detection.compare(score(normal), score(unusual)).auroc.value, 0.9
        )

    def test_depends_on_each_image_alone(self):
        normal, seen = make_measurements(110), make_measurements(9, 1)
        for name, score in detection.fit(normal).items():
            scores = score(seen)
            self.assertEqual((scores.dtype, scores.shape), (np.float64, (9,)))
            self.assertAllClose(
                score(seen.take(np.array([4]))), scores[4:5], msg=name
            )

    def test_few_images(self):
        scores = detection.fit(make_measurements(10))
        self.assertIn(detection.DEFAULT, scores)
        for score in scores.values():
            values = score(make_measurements(5, 1))
            self.assertTrue(np.isfinite(values).all())

    def test_too_few_images(self):
        with self.assertRaisesRegex(ValueError, "10 images, got 9"):
            detection.fit(make_measurements(9))

    def test_same_images(self):
        """Nothing differs among what they are fitted to."""
        normal = make_measurements(30).take(np.zeros(30, int))
        for score in detection.fit(normal).values():
            values = score(make_measurements(5, 1))
            self.assertTrue(np.isfinite(values).all())


class PValuesTest(tf.test.TestCase):
    def test_by_counting(self):
        rng = np.random.default_rng(0)
        scores, reference = rng.integers(9, size=40), rng.integers(9, size=30)
        expected = [
            (1 + sum(other >= score for other in reference)) / 31
            for score in scores
        ]
        self.assertAllClose(detection.p_values(scores, reference), expected)

    def test_uniform(self):
        """Those of held-out normal images, in random splits."""
        measured = make_measurements(1200)
        passed = 0
        for seed in range(20):
            order = np.random.default_rng(seed).permutation(1200)
            score = detection.places(measured.take(order[:400]))
            p = detection.p_values(
                score(measured.take(order[400:800])),
                score(measured.take(order[800:])),
            )
            # Kolmogorov and Smirnov: with 400 and 400 this is p > 0.01.
            grid = np.sort(p)
            distance = np.abs(grid - np.arange(1, 401) / 400).max()
            passed += distance < 1.628 * math.sqrt(2 / 400)
        self.assertGreaterEqual(passed, 18)


class SetPValueTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(shift=(-0.6, 0.0, 0.6), n=(1, 12))
    def test_against_permutations(self, shift, n):
        """How often a random set of them all differs as much in mean rank."""
        rng = np.random.default_rng(0)
        scores, reference = rng.normal(shift, size=n), rng.normal(size=40)
        ranks = np.argsort(np.argsort(np.concatenate([scores, reference])))
        ranks = ranks - ranks.mean()
        orders = rng.permuted(np.tile(ranks, (20_000, 1)), axis=1)
        sums = orders[:, :n].sum(axis=1)
        self.assertAllClose(
            detection.set_p_value(scores, reference),
            np.mean(np.abs(sums) >= abs(ranks[:n].sum()) - 1e-6),
            atol=0.015,
        )


class ReferenceTest(tf.test.TestCase):
    def test_judges(self):
        """By halves, of which no image is in both."""
        normal, seen = make_measurements(41), make_measurements(9, 1, 3.0)
        with mock.patch.object(detection, "fit", wraps=detection.fit) as fit:
            reference = detection.Reference(normal, seed=3)
        (fitted,) = fit.call_args.args
        both = [fitted.log_prob, normal.log_prob[reference.others]]
        self.assertCountEqual(np.concatenate(both), normal.log_prob)
        self.assertLen(fitted, 20)
        scores = reference(seen)
        self.assertEqual([*scores], [*detection.METHODS, "p_value"])
        methods = detection.fit(fitted)
        for name, score in methods.items():
            self.assertAllClose(scores[name], score(seen), rtol=1e-4)
        method = methods[reference.method]
        own, others = method(seen), method(normal.take(reference.others))
        self.assertAllClose(scores["p_value"], detection.p_values(own, others))
        self.assertAllClose(
            reference.set_p_value([*own]), detection.set_p_value(own, others)
        )

    def test_choice_of_the_halves(self):
        normal = make_measurements(40)
        scores = {detection.DEFAULT: lambda measured: measured.bits}
        with mock.patch.object(detection, "fit", return_value=scores):
            first, again, other = (
                detection.Reference(normal, seed).others for seed in (0, 0, 1)
            )
        self.assertAllEqual(first, again)
        self.assertNotAllEqual(first, other)


class CompareTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(0, 1, 4)
    def test_values(self, digits):
        """With and without scores that are the same."""
        rng = np.random.default_rng(0)
        normal = np.round(rng.normal(size=60), digits)
        unusual = np.round(rng.normal(1.0, size=45), digits)
        comparison = detection.compare(normal, unusual, num_draws=10)
        pairs = [(n, u) for n in normal for u in unusual]
        auroc = np.mean([(u > n) + 0.5 * (u == n) for n, u in pairs])
        self.assertAllClose(comparison.auroc.value, auroc)
        labels = np.repeat([0, 1], [60, 45])
        scores = np.concatenate([normal, unusual])
        aupr = metrics.average_precision_score(labels, scores)
        self.assertAllClose(comparison.aupr.value, aupr)
        threshold = max(t for t in scores if np.mean(unusual >= t) >= 0.95)
        rate = np.mean(normal >= threshold)
        self.assertAllClose(comparison.fpr95.value, rate)

    def test_ends(self):
        best = detection.compare([1, 2, 3], [4, 5], num_draws=10)
        worst = detection.compare([4, 5], [1, 2, 3], num_draws=10)
        for comparison, value in ((best, 1.0), (worst, 0.0)):
            self.assertEqual(comparison.auroc, 3 * (value,))
        self.assertEqual(best.fpr95.value, 0.0)
        self.assertEqual(worst.fpr95.value, 1.0)

    def test_intervals(self):
        """Of samples whose AUROC is known: most hold it, and not by much."""
        rng = np.random.default_rng(0)
        truth = 0.5 * (1 + math.erf(0.5))
        held, widths = 0, []
        for seed in range(50):
            normal, unusual = rng.normal(size=80), rng.normal(1.0, size=80)
            auroc = detection.compare(normal, unusual, seed, 200).auroc
            held += auroc.low <= truth <= auroc.high
            widths.append(auroc.high - auroc.low)
            self.assertBetween(auroc.value, auroc.low, auroc.high)
        self.assertBetween(held, 43, 50)
        # 2 * 1.96 times the formula of Hanley and McNeil.
        self.assertAllClose(np.mean(widths), 0.148, atol=0.02)

    def test_copies_that_are_drawn(self):
        """They are no equal scores, which would make the average too high."""
        rng = np.random.default_rng(0)
        truth = 0.0284  # Of 420,000 scores.
        held, offsets = 0, []
        for seed in range(40):
            sets = rng.normal(size=1000), rng.normal(-1.0, size=50)
            aupr = detection.compare(*sets, seed, 100).aupr
            held += aupr.low <= truth <= aupr.high
            middle = (aupr.low + aupr.high) / 2
            offsets.append((middle - aupr.value) / (aupr.high - aupr.low))
            self.assertBetween(aupr.value, aupr.low, aupr.high)
        self.assertGreater(held, 30)
        self.assertLess(np.mean(offsets), 0.2)

    def test_seed(self):
        rng = np.random.default_rng(0)
        sets = rng.normal(size=30), rng.normal(size=30)
        first, again, other = (
            detection.compare(*sets, seed=seed, num_draws=50)
            for seed in (1, 1, 2)
        )
        self.assertEqual(first, again)
        self.assertNotEqual(first.auroc, other.auroc)
        self.assertEqual(first.auroc.value, other.auroc.value)

    def test_no_scores(self):
        for sets in (([], [1.0]), ([1.0], [])):
            with self.assertRaises(ValueError):
                detection.compare(*sets)
            with self.assertRaises(ValueError):
                detection.set_p_value(*sets)
        with self.assertRaisesRegex(ValueError, "NaN"):
            detection.compare([1.0, math.nan], [1.0, 2.0])


if __name__ == "__main__":
    tf.test.main()
