"""Figures: loss curves, grids of images, histograms and bit maps."""

import contextlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence

import matplotlib.cm
import matplotlib.colors
import matplotlib.figure
import matplotlib.image
import matplotlib.style
import numpy as np

from tf_realnvp.flow.values import Values
from tf_realnvp.utils import files
from tf_realnvp.utils.console import printable

TILE_SIZE = 96  # In pixels, roughly: images are magnified by integers.
_MAX_PIXELS = 2**26  # Of a grid; limits the magnification.
_MISSING = (70, 110, 160)  # Color of missing pixels.


def save_loss_curve(
    path: str | os.PathLike,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    title: str,
    unit: str = "bits/dim",
) -> None:
    """Draws losses against the epochs.

    Args:
      path: PNG file to write.
      curves: Points (epoch and loss) of each curve, by its label.
      title: Title of the figure. Any characters are allowed.
      unit: Unit of the losses.
    """
    with _figure(path, 7, 4.5, axes="on") as [axes]:
        for label, points in curves.items():
            epochs, losses = np.reshape(points, [-1, 2]).T
            marker = "o" if len(epochs) < 30 else None
            axes.plot(epochs, losses, marker=marker, markersize=4, label=label)
        # Not as math text: names of data sets may contain dollar signs.
        axes.set_title(printable(title), parse_math=False, wrap=True)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"negative log-likelihood ({unit})")
        axes.locator_params("x", integer=True)
        axes.grid(alpha=0.3)
        axes.legend()


@contextlib.contextmanager
def _figure(path, width, height, rows=1, columns=1, dpi=120, axes="off"):
    """Yields panels to draw on, then writes them. Ignores `matplotlibrc`.

    Args:
      path: PNG file to write.
      width: Width of the figure in inches.
      height: Height of the figure in inches.
      rows: Number of rows of panels.
      columns: Number of panels per row.
      dpi: Pixels per inch.
      axes: "on" to draw the axes of the panels.
    """
    with (
        files.replace_file(path) as new,
        matplotlib.style.context("default"),
        warnings.catch_warnings(action="ignore"),  # Missing glyphs.
    ):
        figure = matplotlib.figure.Figure((width, height), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel in panels:
            panel.axis(axes)
        yield panels
        figure.savefig(new, dpi=dpi)


def _rgb(images, values):
    """Converts one or more images with any number of channels to RGB."""
    values, images = Values.of(values), np.asarray(images)
    if values.are_real:
        colors = _color_map(images)
        return colors.cmap(colors.norm(images[..., 0]), bytes=True)[..., :3]
    if images.shape[-1] < 3:
        images = np.repeat(images[..., :1], 3, axis=-1)
    return values.to_bytes(images[..., :3])


def _color_map(images):
    """Returns the color map of real numbers, those of the first channel."""
    norm = matplotlib.colors.Normalize(*map_limits(images[..., 0]))
    return matplotlib.cm.ScalarMappable(norm, "viridis")


def image_grid(
    images: np.ndarray,
    values: Values | int | None = 256,
    columns: int | None = None,
) -> np.ndarray:
    """Lays out images in a grid, with a gap of a pixel between them.

    Args:
      images: `[n, H, W, C]`, levels or real numbers.
        If `C` is 2, the first channel is shown in grey; if it is above 3, the
        first three. Of real numbers, the first is shown by colors.
      values: What their values are; or the number of levels, `None` for real
        numbers. The highest level is shown as white.
      columns: Number of images per row. Default: a square grid.

    Returns:
      uint8 `[height, width, 3]` in `0 ... 255`. Every pixel of an image is a
      square of one colour. Cells without an image are white.
    """
    num_images, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(num_images))
    rows = math.ceil(num_images / columns)
    tiles = np.full((rows, columns, height + 1, width + 1, 3), 255, np.uint8)
    flat = tiles.reshape(-1, *tiles.shape[2:])
    flat[:num_images, 1:, 1:] = _rgb(images, values)
    grid = np.vstack([np.hstack(row) for row in tiles])
    grid = np.pad(grid, ((0, 1), (0, 1), (0, 0)), constant_values=255)
    most = math.isqrt(_MAX_PIXELS // (grid.shape[0] * grid.shape[1]))
    zoom = max(1, min(most, TILE_SIZE // max(height, width)))
    return grid.repeat(zoom, axis=0).repeat(zoom, axis=1)


def save_image_grid(
    path: str | os.PathLike,
    images: np.ndarray,
    values: Values | int | None = 256,
    columns: int | None = None,
) -> None:
    """Draws images in a grid; real numbers with a bar of their colors.

    Args:
      path: PNG file to write.
      images: As for `image_grid`.
      values: As for `image_grid`.
      columns: As for `image_grid`.
    """
    grid = image_grid(images, values, columns)
    if Values.of(values).are_real:
        height, width, _ = grid.shape
        with _figure(path, width / 100 + 1, height / 100) as [axes]:
            axes.imshow(grid)
            axes.figure.colorbar(_color_map(np.asarray(images)), ax=axes)
        return
    with files.replace_file(path) as new:
        matplotlib.image.imsave(new, grid, origin="upper")


def save_histograms(
    path: str | os.PathLike,
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: tuple[str, str],
) -> None:
    """Draws histograms of the scores of two sets, one panel per method.

    Args:
      path: PNG file to write.
      scores: Scores of both sets, by name of the method.
      labels: Names of the sets.
    """
    columns = min(3, len(scores))
    rows = math.ceil(len(scores) / columns)
    size = 4 * columns, 2.8 * rows
    with _figure(path, *size, rows, columns, axes="on") as panels:
        for axes in panels[len(scores) :]:
            axes.set_visible(False)
        for (name, both), axes in zip(scores.items(), panels, strict=False):
            # Outliers are moved to the ends, to leave room for the rest.
            edges = np.linspace(*map_limits(np.concatenate(both)), 41)
            for values, label in zip(both, labels, strict=True):
                values = np.clip(values, edges[0], edges[-1])
                axes.hist(values, edges, alpha=0.6, density=True, label=label)
            axes.set_title(name)
            axes.set_yticks([])
            axes.set_xlabel("score (higher: more anomalous)")
        panels[0].legend()


def save_rows(
    path: str | os.PathLike,
    rows: Mapping[str, np.ndarray],
    title: str,
    values: Values | int | None = 256,
) -> None:
    """Draws rows of images, each with a title.

    Args:
      path: PNG file to write.
      rows: Images of each row, as for `image_grid`, by its title.
      title: Title of the figure.
      values: As for `image_grid`.
    """
    with _figure(path, 9, 1.2 * len(rows) + 0.4, len(rows)) as panels:
        panels[0].figure.suptitle(title, fontsize=10)
        pixels = _rgb(np.concatenate([*rows.values()]), values)
        ends = np.cumsum([*map(len, rows.values())])[:-1]
        shown = zip(rows, np.split(pixels, ends), panels, strict=True)
        for name, images, axes in shown:
            axes.imshow(image_grid(images, columns=len(images)))
            axes.set_title(name, fontsize=9, loc="left")


def map_limits(maps: np.ndarray) -> tuple[float, float]:
    """Returns the limits of a color scale for maps.

    Args:
      maps: `[n, H, W]`, or of any other shape.

    Returns:
      The 0.5 % and 99.5 % quantiles, so that outliers do not set the scale.
    """
    low, high = np.quantile(maps, (0.005, 0.995))
    return low, max(high, low + 1e-9)


def save_bit_maps(
    path: str | os.PathLike,
    images: np.ndarray,
    maps: np.ndarray,
    label: str,
    values: Values | int | None = 256,
    limits: tuple[float, float] | None = None,
    titles: Sequence[str] = (),
) -> None:
    """Draws images and their maps side by side, with one color scale.

    Args:
      path: PNG file to write.
      images: As for `image_grid`.
      maps: `[n, H, W]`.
      label: Label of the color scale, with the unit.
      values: As for `image_grid`.
      limits: Limits of the color scale. Default: `map_limits(maps)`.
      titles: Titles of the images; optional.
    """
    columns = 2 * min(4, len(images))
    rows = math.ceil(2 * len(images) / columns)
    low, high = limits or map_limits(maps)
    size = 1.6 * columns + 1.2, 1.7 * rows + 0.2
    with _figure(path, *size, rows, columns, dpi=100) as panels:
        pixels = _rgb(images, values)
        for image, axes in zip(pixels, panels[::2], strict=False):
            axes.imshow(image)
        if Values.of(values).are_real:
            panels[0].figure.colorbar(
                _color_map(images), ax=panels, location="left", shrink=0.9
            )
        for bits, axes in zip(maps, panels[1::2], strict=False):
            shown = axes.imshow(bits, cmap="inferno", vmin=low, vmax=high)
        for title, axes in zip(titles, panels[::2], strict=False):
            axes.set_title(title, fontsize=9, loc="left")
        panels[0].figure.colorbar(shown, ax=panels, label=label, shrink=0.9)


def save_map(
    path: str | os.PathLike, values: np.ndarray, limits: tuple[float, float]
) -> None:
    """Draws a map in the colors of `save_bit_maps`, a pixel for a position.

    Args:
      path: PNG file to write.
      values: `[H, W]`.
      limits: Limits of the color scale.
    """
    with files.replace_file(path) as new:
        matplotlib.image.imsave(new, values, *limits, cmap="inferno")


def save_restorations(
    path: str | os.PathLike,
    images: np.ndarray,
    is_missing: np.ndarray,
    columns: Mapping[str, np.ndarray],
    spread: np.ndarray,
    values: Values | int = 256,
) -> None:
    """Draws images, what a model made of them, and how sure it is, in rows.

    Args:
      path: PNG file to write.
      images: As for `image_grid`.
      is_missing: Boolean `[n, H, W, 1]`, pixels to mark by a color.
      columns: As many images, as for `image_grid`, by the title of the column.
      spread: Standard deviations `[n, H, W]` in levels of 255, a last column.
      values: As for `image_grid`.
    """
    marked = np.where(is_missing, _MISSING, _rgb(images, values))
    shown = {"given": marked.astype(np.uint8)}
    shown |= {title: _rgb(part, values) for title, part in columns.items()}
    rows, width = len(images), len(shown) + 1
    size = 1.1 * width + 0.9, 1.1 * rows + 0.3
    with _figure(path, *size, rows, width) as panels:
        grid = panels.reshape(rows, width)
        for column, (title, part) in zip(grid.T, shown.items(), strict=False):
            column[0].set_title(title, fontsize=9)
            for axes, image in zip(column, part, strict=True):
                axes.imshow(image)
        grid[0, -1].set_title("spread", fontsize=9)
        most = max(spread.max(), 1.0)
        for axes, values in zip(grid[:, -1], spread, strict=True):
            drawn = axes.imshow(values, cmap="inferno", vmin=0, vmax=most)
        bar = panels[0].figure.colorbar(drawn, ax=list(grid[:, -1]))
        bar.set_label("levels of 255", fontsize=9)
