"""Tests for explorer, of its functions and, with -m browser, of the page."""

import contextlib
import functools
import http.server
import json
import pathlib
import shutil
import tempfile
import threading

import folders
import numpy as np
import pytest
import small_models
import tensorflow as tf

from tf_realnvp import bit_maps, observations
from tf_realnvp.analysis.latents import slerp
from tf_realnvp.data import image_files

pytest.importorskip("tf2onnx")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from tf_realnvp.serving import explorer  # noqa: E402

NPM = pathlib.Path(explorer.__file__).parent / "node_modules/onnxruntime-web"
CHROMIUM = shutil.which("chromium")
BITS = np.linspace(5.0, 12.0, 101)


def make_latents(model, n):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, *model.latent_shape)).astype(np.float32)


def middle_of(page, selector, column, row):
    """Returns where a pixel of a canvas of 12 columns is on the page."""
    box = page.locator(selector).bounding_box()
    zoom = box["width"] / 12
    return box["x"] + zoom * (column + 0.5), box["y"] + zoom * (row + 0.5)


class ExplorerTest(folders.FolderTestCase):
    def test_steps(self):
        """A step is the image if all later couplings are the identity."""
        model, label = small_models.deep(), [2, 0]
        latents = make_latents(model, 2)
        steps = explorer.flow(model, latents, label=label)["steps"].numpy()
        self.assertAllEqual(steps[:, -1], model.decode(latents, label))
        partial = model.clone()
        self.assertEqual(steps.shape, (2, 1 + len(model.couplings), 8, 12, 3))
        # From images to latents: the last coupling that decodes comes first.
        for index, coupling in enumerate(partial.couplings):
            number = len(partial.couplings) - index
            self.assertAllEqual(
                steps[:, number], partial.decode(latents, label)
            )
            last = partial.networks[index].last
            for variable in (last.gain, last.bias, coupling.reshift):
                variable.assign(tf.zeros_like(variable))
        self.assertAllEqual(steps[:, 0], partial.decode(latents, label))

    def test_steps_of_visible_pixels(self):
        """The visible pixels are in each image."""
        model = small_models.displaced(0.2, (8, 8, 1), 17, observe="mask")
        latents = make_latents(model, 2)
        context = np.random.default_rng(1).integers(2, size=(2, 8, 8, 2))
        steps = explorer.flow(model, latents, context=context)["steps"]
        self.assertAllEqual(steps[:, -1], model.decode(latents, None, context))
        pixels, is_visible = context[..., :1], context[..., 1:] == 1
        for number in range(steps.shape[1]):
            found = steps[:, number].numpy()
            self.assertAllEqual(found[is_visible], pixels[is_visible])

    def test_files(self):
        model = small_models.conditional().clone()
        model.metadata = {"class_names": ["a", "b", "c"]}
        page = self.folder / "page"
        # As the npm package has them.
        (self.folder / "dist").mkdir()
        for name in explorer._RUNTIME:
            (self.folder / "dist" / name).touch()
        explorer.write(model, page, "it", BITS, self.folder)
        content = json.loads((page / "model.json").read_text())
        self.assertEqual(content["class_names"], model.metadata["class_names"])
        self.assertLen(content["bits_per_dim"], len(BITS))

        def run(name, output, **inputs):
            session = onnxruntime.InferenceSession(page / f"{name}.onnx")
            return session.run([output], inputs)[0]

        label = {"label": np.int32([0, 1, 2])}
        latents = make_latents(model, 3)
        images = run("flow", "steps", latents=latents, **label)[:, -1]
        self.assertAllClose(images, model.decode(latents, **label), atol=1.0)
        noise = np.full(images.shape, 0.25, np.float32)
        log_prob = run("score", "log_prob", images=images, noise=noise, **label)
        expected = model.log_density(images + noise, **label)
        self.assertAllClose(log_prob, expected, rtol=1e-5)

        def offsets(name):
            graph = onnx.load(page / name, load_external_data=False).graph
            entries = [e for w in graph.initializer for e in w.external_data]
            return {e.value for e in entries if e.key == "offset"}

        decode, score = offsets("flow.onnx"), offsets("score.onnx")
        self.assertGreater(len(decode & score), len(decode) / 2)
        samples = (page / "samples.bin").read_bytes()
        latents = np.frombuffer(samples, np.float32, 20 * model.num_dims)
        images = np.frombuffer(samples, np.uint8, offset=latents.nbytes)
        latents = latents.reshape(20, *model.latent_shape)
        expected = model.decode(latents, content["labels"]).numpy()
        self.assertAllEqual(images, expected.ravel())


def uniforms(seed, n):
    """Returns the same numbers as `uniforms` in explorer.js."""
    result, mask = [], 2**32 - 1
    for _ in range(n):
        seed = (seed + 0x6D2B79F5) & mask
        t = (seed ^ seed >> 15) * (1 | seed) & mask
        t = ((t + ((t ^ t >> 7) * (61 | t) & mask)) & mask) ^ t
        result.append((t ^ t >> 14) / 2**32)
    return np.float32(result)


@contextlib.contextmanager
def served(folder):
    """Serves a folder to this machine; yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="There is no Chromium.")
@pytest.mark.skipif(not NPM.is_dir(), reason="npm ci was not run.")
class PageTest(folders.FolderTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        sync_api = pytest.importorskip("playwright.sync_api")
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        explorer.write(small_models.deep(), folder, "a_model", BITS, NPM)
        cls.address = cls.enterClassContext(served(folder))
        driver = cls.enterClassContext(sync_api.sync_playwright())
        cls.browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        cls.addClassCleanup(cls.browser.close)

    def open(self, address=None, width=1000, script="", **options):
        """Opens a page, and returns it once the model is loaded or not."""
        size = {"width": width, "height": 800}
        context = self.browser.new_context(viewport=size, **options)
        context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.errors = []
        page.goto(address or self.address)
        self.wait(page, "#status", "(Ready|cannot)")
        return page

    def wait(self, page, name, pattern):
        """Waits until the text of an element matches a pattern."""
        page.wait_for_function(
            "([name, pattern]) => new RegExp(pattern).test("
            "document.querySelector(name).textContent)",
            arg=[name, pattern],
        )

    def pixels(self, page, name):
        """Returns what a canvas shows, uint8 `[H, W, 3]`."""
        values, width = page.eval_on_selector(
            name,
            "c => [[...c.getContext('2d').getImageData(0, 0, c.width, "
            "c.height).data], c.width]",
        )
        return np.uint8(values).reshape(-1, width, 4)[..., :3]

    def wait_for_change(self, page, name, old):
        """Waits until a canvas shows another image, and returns it."""
        return self.wait_for(
            page, name, lambda new: not np.array_equal(new, old)
        )

    def wait_for_equal(self, page, name, expected):
        """Waits until a canvas shows an image, but for rounding."""
        expected = np.broadcast_to(expected, expected.shape[:2] + (3,))
        return self.wait_for(
            page, name, lambda new: abs(new - expected.astype(int)).max() <= 1
        )

    def wait_for(self, page, name, is_right):
        for _ in range(400):
            if is_right(new := self.pixels(page, name)):
                return new
            page.wait_for_timeout(50)
        raise AssertionError(f"{name} did not change as it should.")

    def drop(self, page, name, content):
        """Drops a file on the page."""
        page.evaluate(
            """([name, content]) => {
            const dataTransfer = new DataTransfer();
            const bytes = new Uint8Array(content);
            dataTransfer.items.add(new File([bytes], name));
            const options = { dataTransfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
            [name, [*content]],
        )

    def test_score_of_a_file(self):
        """The score is that of Python, where transparent pixels count."""
        model, page = small_models.deep(), self.open()
        self.wait(page, "#bits", "bits/dim")
        old = self.pixels(page, "#scored")
        images = model.sample(8, seed=5, label=2).numpy()
        noise = uniforms(0, model.num_dims).reshape(model.image_shape)
        probs = tf.nn.softmax(model.log_joint(images + noise)).numpy()
        likeliest = probs.argmax(axis=1)
        chosen = np.flatnonzero(likeliest == 2)[0]
        image = images[chosen : chosen + 1]
        path = self.folder / "image.png"
        alpha = np.arange(96, dtype=np.uint8).reshape(1, 8, 12, 1)
        png = tf.io.encode_png(np.concatenate([image, alpha], axis=-1)[0])
        path.write_bytes(png.numpy())
        page.set_input_files("#file", path)
        self.wait_for_change(page, "#scored", old)
        self.assertAllEqual(self.pixels(page, "#scored"), image[0])
        log_prob = model.log_density(image + noise).numpy()
        bits = float(page.inner_text("#bits").removesuffix(" bits/dim"))
        self.assertAllClose(
            [bits], -log_prob / np.log(2.0) / model.num_dims, atol=1e-3, rtol=0
        )
        number = max((bits < BITS).sum(), (bits > BITS).sum())
        self.assertIn(f" {number} of 101 ", page.inner_text("#rank"))
        more_usual = f" 101 test images {2 * number - 101} "
        self.assertIn(more_usual, page.inner_text("#unusual"))
        costs = bit_maps.costs(model, image + noise, label=[2]).numpy()
        maps = bit_maps.smooth(costs.sum(axis=(1, 2)) / np.log(2.0))
        inner = maps[:, 1:-1, 1:-1]
        low, high = page.inner_text("#map-range").split(" to ")
        self.assertAllClose(
            [float(low), float(high)], [inner.min(), inner.max()], atol=0.06
        )
        self.assertEqual(page.inner_text("#exact"), "the same")
        first, *_ = page.inner_text("#likeliest").splitlines()
        share = 100.0 * probs[chosen, 2]
        self.assertEqual(first.split()[:2], ["<b>", f"{share:.1f}"])
        # One that is dropped is resized as the commands do.
        wide = np.random.default_rng(0).integers(256, size=(40, 90, 3))
        image_files.write(path, wide.astype(np.uint8))
        old = self.pixels(page, "#scored")
        self.drop(page, "wide.png", path.read_bytes())
        new = self.wait_for_change(page, "#scored", old)
        expected = image_files.read(path, model.image_shape)
        self.assertAllClose(new, expected, atol=1.0)
        # Another file is refused.
        self.drop(page, "a.txt", b"no image")
        self.wait(page, "#problem", "a.txt is not an image")
        self.assertAllEqual(self.pixels(page, "#scored"), new)
        self.assertEmpty(self.errors)

    def test_controls(self):
        page = self.open()
        self.wait(page, "#step-value", "of [0-9]")
        first = "#samples button:nth-child(1) canvas"
        for control, seen in {
            "#draw": first,
            "#samples button:nth-child(3)": "#a",
            "#samples button:nth-child(4)": "#b",
        }.items():
            old = self.pixels(page, seen)
            page.focus(control)
            page.keyboard.press("Enter")
            self.wait_for_change(page, seen, old)
        name = page.get_attribute("#samples button[data-role=A]", "title")
        for control, key, seen, corner in (
            ("#temperature", "Home", first, None),
            ("#place", "Home", "#moved", "#a"),
            ("#place", "End", "#moved", "#b"),
            ("#down", "End", "#moved", "#d"),
            *(("#step", key, "#state", None) for key in ("End", "Home", "End")),
        ):
            old = self.pixels(page, seen)
            page.focus(control)
            page.keyboard.press(key)
            self.wait_for_change(page, seen, old)
            if corner:
                self.wait_for_equal(page, seen, self.pixels(page, corner))
        chosen = self.pixels(page, "#a")
        self.assertAllEqual(self.pixels(page, "#state"), chosen)
        page.click("#play")
        self.wait_for_change(page, "#state", chosen)
        self.wait_for_equal(page, "#state", chosen)
        names = small_models.deep().metadata["class_names"]
        turned = names.index(name) + 1
        turned_canvas = f"#turned figure:nth-child({turned}) canvas"
        self.assertAllEqual(self.pixels(page, turned_canvas), chosen)
        page.focus("#temperature")
        old = self.pixels(page, first)
        page.keyboard.press("End")
        old = self.wait_for_change(page, first, old)
        page.select_option("#class", label="<b>")
        self.wait_for_change(page, first, old)
        titles = page.eval_on_selector_all(
            "#samples button", "all => all.map(one => one.title)"
        )
        self.assertIn("<b>", titles)
        self.assertEmpty(self.errors)

    def test_move(self):
        """The pad moves all latents, or the coarse or fine ones of A."""
        model, page = small_models.deep(), self.open()
        self.wait(page, "#step-value", "of [0-9]")
        for number in (8, 5, 2):  # B to D, and A, of the same class.
            page.click(f"#samples button:nth-child({number + 3})")
        page.click("#samples button:nth-child(2)")
        latents = model.sample_latents(20, explorer._TEMPERATURE, seed=9)
        fine = np.arange(12) >= 6
        a, b, c, d = (latents[i] for i in (1, 4, 7, 10))
        page.locator("#pad").scroll_into_view_if_needed()
        box = page.locator("#pad").bounding_box()
        page.mouse.move(box["x"] + 9, box["y"] + 9)
        page.mouse.down()
        for x, y, kind, expected in (
            *((1.5, 0.0, "all", b), (0.0, 2.0, "all", c), (1.2, 1.0, "all", d)),
            (1.2, 1.0, "coarse", np.where(fine, a, d)),
            (1.2, 1.0, "fine", np.where(fine, d, a)),
        ):
            page.mouse.move(
                box["x"] + x * box["width"], box["y"] + y * box["height"]
            )
            page.select_option("#kind", label=kind)
            image = model.decode(expected[np.newaxis], [1])[0].numpy()
            self.wait_for_equal(page, "#moved", image)
        page.mouse.up()
        page.select_option("#kind", label="all")
        for control in ("#place", "#down"):
            page.fill(control, "0.5")
        sides = [slerp(*ends, 3)[1] for ends in ((a, b), (c, d))]
        image = model.decode(slerp(*sides, 3)[1:2], [1])[0].numpy()
        self.wait_for_equal(page, "#moved", image)
        self.assertEmpty(self.errors)

    def test_drawing(self):
        page = self.open(has_touch=True)
        self.wait(page, "#step-value", "of [0-9]")
        first = self.pixels(page, "#a")
        page.click("#blank")
        black = np.zeros_like(first)
        self.wait_for_equal(page, "#a", black)
        self.wait_for_equal(page, "#b", first)
        self.assertFalse(page.is_visible("#grey"))
        page.evaluate("document.querySelector('#color').value = '#ff8000'")
        page.fill("#size-of-pen", "1")
        at = functools.partial(middle_of, page, "#scored")
        page.mouse.move(*at(2, 3))
        page.mouse.down()
        page.mouse.move(*at(6, 3))
        page.mouse.move(*at(8, 3))
        expected = black.copy()
        expected[3, 2:9] = ink = [255, 128, 0]
        self.wait_for_equal(page, "#scored", expected)
        page.wait_for_timeout(500)  # It is scored, but not A yet.
        self.assertAllEqual(self.pixels(page, "#a"), black)
        page.mouse.up()
        self.wait_for_equal(page, "#a", expected)
        self.wait_for_equal(page, "#recovered", expected)
        self.wait_for_equal(page, "#b", first)
        page.touchscreen.tap(*at(10, 6))
        expected[6, 10] = ink
        self.wait_for_equal(page, "#a", expected)
        # From there on by keys; the pen is black.
        page.evaluate("document.querySelector('#color').value = '#000000'")
        page.focus("#scored")
        for key in [*3 * ["ArrowUp"], *2 * ["ArrowLeft"], "Space"]:
            page.keyboard.press(key)
        page.keyboard.press("Shift+ArrowLeft")
        expected[3, 7:9] = 0
        self.wait_for_equal(page, "#a", expected)
        # A wide pen has soft edges.
        page.fill("#size-of-pen", "4")
        page.focus("#scored")
        page.keyboard.press("Space")
        expected[1:6, 6:9] = expected[2:5, 5:10] = 0
        expected[3, 5] = [128, 64, 0]
        self.wait_for_equal(page, "#scored", expected)
        self.assertEmpty(self.errors)

    def test_without_classes_and_histogram(self):
        model = small_models.model()
        explorer.write(model, self.folder, "a_model", [], NPM)
        page = self.open(self.enterContext(served(self.folder)))
        self.wait(page, "#bits", "bits/dim")
        for name in ("#turned", "#histogram", "#class", "#torn"):
            self.assertFalse(page.is_visible(name))
        first = "#samples button:nth-child(1) canvas"
        old = self.pixels(page, first)
        page.click("#draw")
        self.wait_for_change(page, first, old)
        self.assertFalse(page.is_visible("#color"))
        page.fill("#grey", "128")
        page.click("#blank")
        page.click("#scored", position={"x": 30, "y": 30})
        grey = self.pixels(page, "#scored")[0, 0]
        self.assertAllClose(grey, [128] * 3, atol=8)  # Of 17 levels.
        self.assertEmpty(self.errors)

    def test_restore(self):
        """The answers are those of Python, for the same latents and context."""
        shape = (8, 12, 3)
        model = small_models.displaced(0.1, shape, 256, observe="mask")
        explorer.write(model, self.folder, "a_model", [], NPM)
        address = self.enterContext(served(self.folder))
        page = self.open(address, script="Date.now = () => 7", has_touch=True)
        self.wait(page, "#step-value", "of [0-9]")
        image = self.pixels(page, "#a")
        # Two numbers for each latent.
        first, second = uniforms(7, 2 * 12 * model.num_dims).reshape(-1, 2).T
        normals = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
        latents = normals.reshape(2, 6, *model.latent_shape)

        def check(is_visible, latents):
            self.wait_for_equal(page, "#torn", image * is_visible)
            context = observations.visible_pixels([image] * 6, is_visible)
            decoded = model.decode(latents, context=context).numpy()
            for k, answer in enumerate(decoded):
                name = f"#answers canvas:nth-child({k + 1})"
                expected = np.where(is_visible, image, answer)
                new = self.wait_for_equal(page, name, expected)
                self.assertAllEqual(new * is_visible, image * is_visible)
            return decoded

        is_visible = np.ones((8, 12, 1), np.uint8)
        is_visible[4:] = 0
        check(is_visible, latents[0])
        page.focus("#whole")
        page.keyboard.press("Enter")
        is_visible[:] = 1
        check(is_visible, latents[0])
        page.fill("#size-of-brush", "3")
        at = functools.partial(middle_of, page, "#torn")
        page.mouse.move(*at(2, 3))
        page.mouse.down()
        page.mouse.move(*at(8, 3))
        page.mouse.up()
        page.mouse.move(*at(2, 6))  # Without a button.
        is_visible[2:5, 1:10] = 0
        answers = check(is_visible, latents[0])
        page.touchscreen.tap(*at(11, 7))
        is_visible[6:, 10:] = 0
        check(is_visible, latents[0])
        page.focus("#torn")
        for key in (*2 * ["ArrowUp"], "Shift+ArrowLeft"):
            page.keyboard.press(key)
        is_visible[4:7, 9:] = 0
        check(is_visible, latents[0])
        page.click("#others")
        others = check(is_visible, latents[1])
        self.assertGreater(np.ptp([*answers, *others], axis=0).max(), 9)
        # The other parts give the model no pixels.
        noise = uniforms(0, model.num_dims).reshape(1, *shape)
        log_prob = model.log_density(
            image + noise, **model.condition(image[np.newaxis])
        )
        bits = float(page.inner_text("#bits").removesuffix(" bits/dim"))
        expected = -log_prob / np.log(2.0) / model.num_dims
        self.assertAllClose([bits], expected, atol=1e-3, rtol=0)
        page.focus("#step")
        page.keyboard.press("End")
        self.wait_for_equal(page, "#state", image)
        # Another A is rubbed out at the same place.
        page.click("#samples button:nth-child(3)")
        image = self.pixels(page, "#a")
        check(is_visible, latents[1])
        self.assertEmpty(self.errors)
