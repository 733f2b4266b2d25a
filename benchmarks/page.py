"""Measures pages of `tf-realnvp explore` in headless Chromium.

`python -m benchmarks.page FOLDER...` prints the time to the first image and to
the model, and the time of a step of the slider between A and B, from the input
to the new image (benchmarks/results/page.md). The steps of several pages are
measured in turn, as the speed of the machine drifts. It needs playwright and
Chromium.
"""

import contextlib
import functools
import http.server
import shutil
import statistics
import threading

from playwright import sync_api

from benchmarks import measuring

# Milliseconds of `count` steps, each after the image of the last is shown.
_STEPS = """async (count) => {
  const [slider, value] = ["place", "place-value"].map(
    (id) => document.getElementById(id));
  const times = [];
  for (let i = 0; i < count; i++) {
    const shown = new Promise((resolve) => new MutationObserver(
      (_, observer) => resolve(observer.disconnect())
    ).observe(value, { childList: true }));
    slider.value = slider.value < 0.9 ? Number(slider.value) + 0.02 : 0.1;
    const start = performance.now();
    slider.dispatchEvent(new Event("input"));
    await shown;
    times.push(performance.now() - start);
  }
  return times;
}"""
_CONDITIONS = (
    "document.querySelector('#samples canvas')",
    "document.querySelector('#controls')?.disabled === false",
)


def main() -> None:
    """Opens the pages, measures them and prints a table."""
    flags = measuring.parse_flags(__doc__, "folders...", rounds=20, steps=10)
    with contextlib.ExitStack() as stack:
        driver = stack.enter_context(sync_api.sync_playwright())
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        stack.callback(browser.close)
        opened = {
            folder: open_page(browser, stack.enter_context(serve(folder)))
            for folder in flags.folders
        }
        times: dict[str, list[float]] = {folder: [] for folder in opened}
        for _ in range(flags.rounds):
            for folder, (page, *_) in opened.items():
                times[folder] += page.evaluate(_STEPS, flags.steps)
    measuring.print_header(
        *("page", "first image", "model"), *("step: median", "9 of 10", "least")
    )
    for folder, (_, *seconds) in opened.items():
        steps = times[folder]
        nine_of_ten = statistics.quantiles(steps, n=10)[-1]
        measuring.print_row(
            folder,
            *(f"{value:.2f} s" for value in seconds),
            *(
                f"{value:.1f} ms"
                for value in (statistics.median(steps), nine_of_ten, min(steps))
            ),
        )


def open_page(browser, address: str):
    """Opens a page twice, the second time with a warm cache.

    Returns:
      The page, and the seconds to its first image and to its model.
    """
    page = browser.new_context().new_page()
    seconds = []
    for _ in range(2):
        page.goto(address, wait_until="commit")
        seconds = [
            page.wait_for_function(
                f"{condition} && performance.now() / 1000"
            ).json_value()
            for condition in _CONDITIONS
        ]
    return page, *seconds


@contextlib.contextmanager
def serve(folder: str):
    """Serves a folder to this machine; yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


if __name__ == "__main__":
    main()
