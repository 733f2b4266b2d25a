"""Tests for detection."""

import dataclasses
import io
import math

import numpy as np
import small_models
import tensorflow as tf
import untraced
from absl.testing import parameterized
from PIL import Image
from sklearn import metrics
from sklearn.covariance import ledoit_wolf

from tf_realnvp import bit_maps, detection, significance
from tf_realnvp.analysis import measuring
from tf_realnvp.utils import tiling


def make_measurements(n, seed=0, shift=0.0):
    """Measurements of no images, with correlated costs."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(16, 16))
    costs = rng.normal(size=(n, 16)) @ mixing + 50.0 + shift
    costs = costs.reshape(n, 2, 2, 2, 2).astype(np.float32)
    return detection.Measurements(
        log_prob=-costs.sum(axis=(1, 2, 3, 4), dtype=np.float64),
        costs=costs,
        coded_bits=rng.uniform(900.0, 1100.0, size=n),
        label=np.zeros(n, np.int64),
        image=np.arange(n),
        regions=np.zeros([n, 0], np.float32),
    )


def _of_tiles():
    model = small_models.model().clone()
    model.metadata = {"tiles": True}
    return model


def standardized(values, normal):
    return (values - normal.mean(axis=0)) / normal.std(axis=0)


class MeasurerTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        ("plain", small_models.model), ("classes", small_models.distinct)
    )
    def test_against_the_model(self, make):
        model, images = make(), small_models.images(11)
        measure, seeds = small_models.measurer(make), np.full(11, 5)
        measured = measure(images, seed=5)
        log_prob = model.log_prob_each(images, seeds)
        self.assertAllClose(measured.log_prob, log_prob, rtol=1e-5)
        label, likeliest = None, log_prob
        if model.num_classes:
            by_class = [model.log_prob_each(images, seeds, k) for k in range(3)]
            joint = np.array(by_class) + np.log(model.class_probs)[:, None]
            label = joint.argmax(axis=0)
            self.assertGreater(len(set(label)), 1)
            self.assertAllEqual(measured.label, label)
            likeliest = np.choose(label, by_class)
        maps = measure.maps(images, seed=5)
        self.assertEqual(maps.dtype, np.float32)
        bits = -likeliest / math.log(2.0)
        self.assertAllClose(maps.sum(axis=(1, 2)), bits, rtol=1e-5)
        points = model.dequantize_each(images, seeds)
        costs = bit_maps.costs(model, points, label=label).numpy()
        cells = costs.reshape(11, 2, 2, 2, 2, 2, 2).sum(axis=(4, 6))
        self.assertAllClose(measured.costs, cells, rtol=1e-4, atol=1e-4)

    def test_tiles(self):
        """Large images are measured and mapped tile by tile."""
        model, plain = _of_tiles(), small_models.measurer(small_models.model)
        rng = np.random.default_rng(0)
        shapes = (4, 4, 1), (9, 13, 1), (6, 4, 1)
        images = [rng.integers(17, size=s, dtype=np.uint8) for s in shapes]
        parts = [tiling.cut(image, (4, 4)) for image in images]
        all_tiles = np.concatenate(parts)
        measure = detection.Measurer(model, batch_size=5)
        measured, expected = measure(images, seed=5), plain(all_tiles, seed=5)
        counts = [*map(len, parts)]
        self.assertEqual(counts[0], 1)
        self.assertGreater(min(counts[1:]), 1)
        self.assertAllEqual(measured.image, np.repeat(range(3), counts))
        for name in ("log_prob", "costs", "coded_bits", "label"):
            found, those = getattr(measured, name), getattr(expected, name)
            self.assertAllClose(found, those, rtol=1e-5, atol=1e-5)
        ends = np.cumsum(counts)
        highest = measured.of_images(measured.log_prob)
        for image, part in enumerate(np.split(expected.log_prob, ends[:-1])):
            self.assertAllClose(highest[image], part.max(), rtol=1e-5)
        maps = np.split(plain.maps(all_tiles, seed=5), ends[:-1])
        for found, part, shape in zip(
            measure.maps(images, seed=5), maps, shapes, strict=True
        ):
            joined = tiling.join(part, shape[:2])
            self.assertAllClose(found, joined, rtol=1e-5, atol=1e-5)
        twice = detection.Measurements.concatenate([measured, measured])
        self.assertAllEqual(twice.image, np.repeat(range(6), 2 * counts))
        # Each image alone is as it is among others.
        again = measure(images[1:2], seed=5)
        self.assertAllClose(again.costs, measured.costs[1 : ends[1]], 1e-4)

    def test_regions(self):
        """Spots that cost more or less, and one without contrast."""
        costs = np.random.default_rng(0).normal(size=(4, 32, 32))
        costs[1, 5:11, 20:26] += 3.0
        costs[2, 5:11, 20:26] = -1.0
        rng = np.random.default_rng(1)
        pixels = rng.integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
        pixels[3, 9:13, 9:13] = 7
        found = measuring._regions(costs, pixels).numpy()
        self.assertEqual(found.shape, (4, 5))
        self.assertAllEqual(found.argmax(axis=0), [1, 2, 1, 2, 3])
        many = rng.integers(256, size=(50, 32, 32, 3), dtype=np.uint8)
        flat = measuring._regions(rng.normal(size=(50, 32, 32)), many).numpy()
        normal = dataclasses.replace(make_measurements(50), regions=flat)
        seen = dataclasses.replace(make_measurements(4), regions=found)
        scores = detection.region(normal)(seen)
        expected = standardized(found, flat).max(axis=1)
        self.assertAllClose(scores, expected, rtol=1e-4)
        self.assertGreater(scores[1:].min(), scores[0])

    def test_is_of_each_image_alone(self):
        images = small_models.images(11)
        measure = small_models.measurer(small_models.model)  # Batches of 8.
        all_of_them = measure(images, 5)
        alone = measure(tf.constant(images[6:7]), seed=5)
        for name in ("log_prob", "costs", "coded_bits", "label"):
            values = getattr(all_of_them, name)
            self.assertLen(values, 11)
            self.assertAllClose(
                getattr(alone, name), values[6:7], rtol=1e-5, atol=1e-5
            )
        other = measure(images, seed=6)
        self.assertNotAllClose(other.log_prob, all_of_them.log_prob)

    def test_other_images(self):
        images = small_models.images(2)
        for others in (images[:, :2], images.astype(np.float32)):
            with self.assertRaisesRegex(ValueError, r"uint8 \[n, 4, 4, 1\]"):
                small_models.measurer(small_models.model)(others)

    def test_what_float32_does_not_hold(self):
        """Such an image gets the highest scores."""
        measure = small_models.measurer(small_models.model)
        normal = measure(small_models.images(60))
        far = dataclasses.replace(
            normal, log_prob=1e3 * normal.log_prob, costs=1e3 * normal.costs
        )
        reshift = small_models.model().couplings[-1].reshift
        self.addCleanup(reshift.assign, reshift.numpy())
        for value in (math.nan, 60.0):  # The latents' squares are infinite.
            reshift.assign(tf.fill(reshift.shape, value))
            wild = measure(small_models.images(2))
            for name, score in detection.fit(normal).items():
                self.assertAllGreater(score(wild), score(far).max())
                self.assertTrue(np.isfinite(score(wild)).all(), name)

    def test_large_images_have_few_cells(self):
        model = small_models.displaced(
            0.2, (20, 32, 1), filters=2, num_couplings=(1, 1, 1)
        )
        images = np.zeros([1, 20, 32, 1], np.uint8)
        with untraced.untraced():
            measured = detection.Measurer(model)(images)
        costs = bit_maps.costs(model, model.dequantize_each(images, [0]))
        self.assertEqual(measured.costs.shape, (1, 2, 2, 8, 8))
        self.assertAllClose(measured.log_prob, [-np.sum(costs)], rtol=1e-5)
        # Of 20 rows the first of eight cells has two.
        first = costs[0, 0, 1, :2, :4].numpy().sum()
        self.assertAllClose(measured.costs[0, 0, 1, 0, 0], first)


class CodedBitsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(1, 2, 3)
    def test_is_the_shorter(self, channels):
        """Channels are put side by side unless there are three."""
        rng = np.random.default_rng(0)
        images = np.zeros([3, 24, 20, channels], np.uint8)
        images[1] = rng.integers(256, size=images.shape[1:])
        images[2, ::2] = 255
        bits = detection.coded_bits(images)
        for image, found in zip(images, bits, strict=True):
            if channels != 3:
                image = np.concatenate(np.moveaxis(image, -1, 0), axis=1)
            lengths = []
            for options in (
                {"format": "png", "optimize": True},
                {"format": "webp", "lossless": True, "quality": 100},
            ):
                file = io.BytesIO()
                Image.fromarray(image).save(file, **options)
                lengths.append(8 * len(file.getvalue()))
            self.assertEqual(found, min(lengths))


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
        """The method fits a single Gaussian in four dimensions."""
        normal, seen = make_measurements(90), make_measurements(9, 1)
        features = [m.costs.sum(axis=(3, 4)) for m in (normal, seen)]
        x, y = (f.reshape(-1, 4).astype(np.float64) for f in features)
        y, x = standardized(y, x), standardized(x, x)
        covariance = x.T @ x / len(x) + 1e-3 * np.eye(4)
        squares = np.einsum("ni,ij,nj->n", y, np.linalg.inv(covariance), y)
        log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
        self.assertAllClose(
            detection.scales(normal)(seen), 0.5 * (squares + log_det)
        )

    def test_scales_with_many_images(self):
        """An image between two clusters is anomalous."""
        first, second = make_measurements(200), make_measurements(200, 1, 90.0)
        middle = make_measurements(50, 2, 45.0)
        both = detection.Measurements.concatenate([first, second])
        score = detection.scales(both)
        comparison = significance.compare(
            score(both), score(middle), num_draws=2
        )
        self.assertGreater(comparison.auroc.value, 0.99)
        # The same each time, though the fit starts at random.
        again = detection.scales(both)
        self.assertAllEqual(again(middle), score(middle))

    def test_places(self):
        normal, seen = make_measurements(40), make_measurements(9, 1, 3.0)
        y, x = (
            m.costs.reshape(len(m), -1).astype(np.float64)
            for m in (seen, normal)
        )
        y, x = standardized(y, x), standardized(x, x)
        precision = np.linalg.inv(ledoit_wolf(x)[0])
        expected = np.log(np.einsum("ni,ij,nj->n", y, precision, y))
        self.assertAllClose(detection.local(normal)(seen), expected, rtol=1e-5)

    def test_combined(self):
        normal, seen = make_measurements(52), make_measurements(9, 1, 3.0)
        expected = np.zeros(9)
        for method in (
            detection.complexity,
            detection.scales,
            detection.local,
        ):
            held_out = []
            for fold in range(5):
                is_out = np.arange(52) % 5 == fold
                score = method(normal.take(~is_out))
                held_out.extend(score(normal.take(is_out)))
            score = method(normal)(seen)
            expected += (score - np.mean(held_out)) / np.std(held_out)
        self.assertAllClose(detection.combined(normal)(seen), expected)

    def test_outliers_among_the_normal(self):
        """They hardly change the weights of the methods."""
        normal, outlier = make_measurements(60), make_measurements(1, 2, 4e3)
        noise = 1e-3 * np.random.default_rng(0).normal(size=normal.costs.shape)
        sets = make_measurements(30, 3), make_measurements(30, 1, 3.0)

        def score_with(costs):
            costs = np.asarray(costs, np.float32)
            score = detection.combined(dataclasses.replace(normal, costs=costs))
            return [score(images) for images in (normal, *sets)]

        with_outlier = np.concatenate([normal.costs[:-1], outlier.costs])
        _, *scores = score_with(normal.costs)
        _, *others = score_with(with_outlier)
        differences = [
            np.mean(high) - np.mean(low) for low, high in (scores, others)
        ]
        self.assertGreater(differences[1], 0.7 * differences[0])
        # Six of seven are alike: the others would be outliers.
        numbers = np.arange(60)
        alike = normal.costs[np.where(numbers % 7 < 6, 0, numbers)] + noise
        scores, _, _ = score_with(alike)
        self.assertLess(np.median(np.abs(scores)), 100.0)

    def test_depends_on_each_image_alone(self):
        normal, seen = make_measurements(110), make_measurements(9, 1)
        again = detection.fit(normal)
        for name, score in detection.fit(normal).items():
            scores = score(seen)
            self.assertAllEqual(again[name](seen), scores)
            self.assertEqual((scores.dtype, scores.shape), (np.float64, (9,)))
            alone = score(seen.take(np.array([4])))
            self.assertAllClose(alone, scores[4:5], msg=name)

    def test_few_images(self):
        """Scores are finite, even if all images are the same."""
        same = make_measurements(30).take(np.zeros(30, int))
        for normal in (make_measurements(10), same):
            for score in detection.fit(normal).values():
                values = score(make_measurements(5, 1))
                self.assertTrue(np.isfinite(values).all())
        with self.assertRaisesRegex(ValueError, "10 images.*, got 9"):
            detection.fit(make_measurements(9))
        with self.assertRaisesRegex(ValueError, "10 images.*, got 9"):
            detection.Reference(make_measurements(19))


class PValuesTest(tf.test.TestCase):
    def test_by_counting(self):
        rng = np.random.default_rng(0)
        scores, reference = rng.integers(9, size=40), rng.integers(9, size=30)
        expected = [
            (1 + sum(other >= score for other in reference)) / 31
            for score in scores
        ]
        self.assertAllClose(significance.p_values(scores, reference), expected)

    def test_false_discoveries(self):
        """The highest p-value whose share of the images is as high."""
        rng = np.random.default_rng(0)
        for share in (0.0, 0.3, 1.0):
            p_values = rng.uniform(size=50)
            few = rng.uniform(size=50) < share
            p_values[few] = rng.uniform(0.0, 0.01, size=few.sum())
            found = significance.highest_flagged(p_values, 0.1)
            ordered = np.sort(p_values)
            fits = ordered <= 0.1 * np.arange(1, 51) / 50
            self.assertEqual(found, max(ordered[fits], default=0.0))
            self.assertEqual(found > 0.0, share > 0.0)

    def test_of_a_set(self):
        """Both higher and lower scores are significant."""
        rng = np.random.default_rng(0)
        reference = rng.normal(size=60)
        for shift, is_other in ((0.0, False), (1.0, True), (-1.0, True)):
            scores = rng.normal(shift, size=40)
            p_value = significance.set_p_value(scores, reference)
            self.assertEqual(p_value < 0.01, is_other)


class ReferenceTest(tf.test.TestCase):
    def test_judges(self):
        """No image is in both halves."""
        normal, seen = make_measurements(41), make_measurements(9, 1, 3.0)
        reference = detection.Reference(normal, seed=3)
        others = reference.others
        self.assertLen(set(others), 21)
        # The order of what methods are fitted to decides the folds.
        order = np.random.default_rng(3).permutation(41)
        self.assertAllEqual(others, order[20:])
        scores = reference(seen)
        names = [*detection.methods_for(normal), "p_value"]
        self.assertEqual([*scores], names)
        methods = detection.fit(normal.take(order[:20]))
        for name, score in methods.items():
            self.assertAllClose(scores[name], score(seen), rtol=1e-4)
        method = methods[detection.DEFAULT]
        both = method(seen), method(normal.take(others))
        self.assertAllClose(scores["p_value"], significance.p_values(*both))
        self.assertAllClose(
            reference.set_p_value([*both[0]]), significance.set_p_value(*both)
        )


class CompareTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(0, 1, 4)
    def test_values(self, digits):
        """Some of the scores are equal."""
        rng = np.random.default_rng(0)
        normal = np.round(rng.normal(size=60), digits)
        anomalous = np.round(rng.normal(1.0, size=45), digits)
        comparison, again = (
            significance.compare(normal, anomalous, num_draws=10)
            for _ in range(2)
        )
        self.assertEqual(comparison, again)
        pairs = [(n, u) for n in normal for u in anomalous]
        auroc = np.mean([(u > n) + 0.5 * (u == n) for n, u in pairs])
        self.assertAllClose(comparison.auroc.value, auroc)
        labels = np.repeat([0, 1], [60, 45])
        scores = np.concatenate([normal, anomalous])
        aupr = metrics.average_precision_score(labels, scores)
        self.assertAllClose(comparison.aupr.value, aupr)
        threshold = max(t for t in scores if np.mean(anomalous >= t) >= 0.95)
        rate = np.mean(normal >= threshold)
        self.assertAllClose(comparison.fpr95.value, rate)

    def test_intervals(self):
        """Most intervals hold the known AUROC, and are not too wide."""
        rng = np.random.default_rng(0)
        truth = 0.5 * (1 + math.erf(0.5))
        held, widths = 0, []
        for seed in range(50):
            normal, anomalous = rng.normal(size=80), rng.normal(1.0, size=80)
            auroc = significance.compare(normal, anomalous, seed, 200).auroc
            held += auroc.low <= truth <= auroc.high
            widths.append(auroc.high - auroc.low)
            self.assertBetween(auroc.value, auroc.low, auroc.high)
        self.assertBetween(held, 43, 50)
        # 2 * 1.96 times the formula of Hanley and McNeil.
        self.assertAllClose(np.mean(widths), 0.148, atol=0.02)

    def test_copies_that_are_drawn(self):
        """They do not count as ties, which would bias the average."""
        rng, offsets = np.random.default_rng(0), []
        for seed in range(20):
            sets = rng.normal(size=1000), rng.normal(-1.0, size=50)
            aupr = significance.compare(*sets, seed, 100).aupr
            middle = (aupr.low + aupr.high) / 2
            offsets.append((middle - aupr.value) / (aupr.high - aupr.low))
        self.assertLess(np.mean(offsets), 0.2)

    @parameterized.parameters(([], [1.0]), ([1.0], []), ([math.nan], [1.0]))
    def test_no_scores(self, *sets):
        with self.assertRaises(ValueError):
            significance.compare(*sets)
