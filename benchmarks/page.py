"""Measures pages that `tf-realnvp explore` wrote, in headless Chromium.

`python -m benchmarks.page page` prints how soon the first image and the model
are there, and how long a step of the slider between A and B takes, from the
input to the new image. With several folders their steps are measured in turn,
so that a change of the machine's load tells on all of them. Takes playwright
and Chromium.
"""

import argparse
import contextlib
import functools
import http.server
import shutil
import statistics
import threading

from playwright import sync_api

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


def main() -> None:
    """Opens the pages, measures them and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    flags = parser.parse_args()
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
    print(
        "| page | first image | model | step: median | 9 of 10 | least |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for folder, (_, first, ready) in opened.items():
        steps = times[folder]
        print(
            f"| {folder} | {first:.2f} s | {ready:.2f} s "
            f"| {statistics.median(steps):.1f} ms "
            f"| {statistics.quantiles(steps, n=10)[-1]:.1f} ms "
            f"| {min(steps):.1f} ms |"
        )


def open_page(browser, address: str):
    """Opens a page twice, the second time with a warm cache.

    Returns:
      The page, and the seconds until its first image and its model are there.
    """
    page = browser.new_context().new_page()
    seconds = []
    for _ in range(2):
        page.goto(address, wait_until="commit")
        seconds = [
            page.wait_for_function(
                f"{condition} && performance.now() / 1000"
            ).json_value()
            for condition in (
                "document.querySelector('#samples canvas')",
                "document.querySelector('#controls')?.disabled === false",
            )
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
