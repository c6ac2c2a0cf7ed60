"""Pictures of verdicts: heat maps of surprisal, and a contact sheet of a whole screening."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..serialization import whole_file
from .purify import Purified
from .screener import Screened

SHEET = 400  # images that one contact sheet takes
BRIGHTEST = 8.0  # nats; 256 equally probable values have a surprisal of 5.5


def heat_map(surprisal: np.ndarray) -> np.ndarray:
    """surprisal: (H, W) nats. Returns (H, W, 3) uint8: black is 0 nats, the brightest yellow 8 or more."""
    from matplotlib import colormaps

    rgb: np.ndarray = colormaps["inferno"](np.clip(surprisal / BRIGHTEST, 0, 1), bytes=True)[..., :3]
    return rgb


def save_heat_map(screened: Screened, folder: Path) -> Path:
    """Writes the image and its heat map, side by side and enlarged, as PNG. Returns the path, which carries the name
    of the file and the start of its sha256."""
    assert screened.image is not None
    assert screened.surprisal_map is not None
    scale = max(1, 256 // screened.image.shape[0])
    pair = np.concatenate([_rgb(screened.image), heat_map(screened.surprisal_map)], 1)
    picture = Image.fromarray(pair.repeat(scale, 0).repeat(scale, 1))
    path = folder / screened.record.picture_name()
    with whole_file(path, "wb") as file:
        picture.save(file, "PNG")
    return path


def save_contact_sheet(results: Sequence[Screened], path: Path, columns: int = 8) -> None:
    """Writes one PNG of all results that have a verdict: each image, its heat map of surprisal, name, verdict and
    p-value."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    shown = [result for result in results if result.image is not None and result.surprisal_map is not None]
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.7 * columns, 1.22 * rows + 0.9), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(rows + 0.62, -0.12)
    axes.set_aspect("auto")
    for i, result in enumerate(shown):
        row, column = divmod(i, columns)
        assert result.image is not None
        assert result.surprisal_map is not None
        flagged = result.record.verdict == "adversarial"
        colour = "#c0392b" if flagged else "#2c7a4b"
        for left, picture in ((0.04, _rgb(result.image)), (0.51, heat_map(result.surprisal_map))):
            extent = (column + left, column + left + 0.45, row + 0.66, row)
            axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto")
        axes.add_patch(Rectangle((column + 0.04, row), 0.92, 0.66, fill=False, edgecolor=colour, linewidth=2))
        name = os.fsencode(Path(result.record.path).stem[:24]).decode("utf-8", "replace")  # it may be no text
        p = result.record.p_value
        axes.text(
            column + 0.5, row + 0.77, name, ha="center", va="center", fontsize=7, color="#333333", parse_math=False
        )
        verdict = f"{result.record.verdict}   p = {p:.4f}"
        axes.text(
            column + 0.5, row + 0.89, verdict, ha="center", va="center", fontsize=7.5, color=colour, weight="bold"
        )
    legend = np.linspace(0, BRIGHTEST, 256)[None]
    axes.imshow(heat_map(legend), extent=(0.4, 2.4, rows + 0.33, rows + 0.2), aspect="auto")
    for nats in (0, 4, 8):
        axes.text(0.4 + nats / 4, rows + 0.42, f"{nats}", ha="center", va="center", fontsize=7)
    axes.text(2.6, rows + 0.27, "surprisal of each pixel, nats", va="center", fontsize=8)
    with whole_file(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)


def save_purified_sheet(results: Sequence[Purified], path: Path) -> None:
    """Writes one PNG with a row for each image that was purified: the image, its heat map of surprisal, the purified
    image, and what changed (red: made brighter, blue: darker), with p-values, and labels if there are any."""
    from matplotlib.figure import Figure

    shown = [item for item in results if item.image is not None and item.screened.surprisal_map is not None]
    figure = Figure(figsize=(6.4, 1.75 * len(shown) + 0.4), facecolor="white", layout="constrained")
    panels = figure.subplots(max(1, len(shown)), 4, squeeze=False)
    titles = ("image", "surprisal", "purified", "what changed")
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title, fontsize=9)
    for row, item in zip(panels, shown, strict=False):
        assert item.screened.image is not None
        assert item.screened.surprisal_map is not None
        assert item.image is not None
        before, after = _rgb(item.screened.image), _rgb(item.image)
        change = after.astype(int).mean(2) - before.astype(int).mean(2)
        most = max(1.0, float(np.abs(change).max()))
        row[0].imshow(before)
        row[1].imshow(heat_map(item.screened.surprisal_map))
        row[2].imshow(after)
        row[3].imshow(change, cmap="bwr", vmin=-most, vmax=most)
        labels = [f"   label {label}" if label is not None else "" for label in (item.label_before, item.label_after)]
        row[0].set_xlabel(f"p = {item.screened.record.p_value:.4f}{labels[0]}", fontsize=7.5)
        name = os.fsencode(Path(item.screened.record.path).stem[:24]).decode("utf-8", "replace")
        row[1].set_xlabel(name, fontsize=7.5, parse_math=False)
        row[2].set_xlabel(f"p = {item.p_value:.4f}{labels[1]}", fontsize=7.5)
        row[3].set_xlabel(f"by at most {int(np.abs(after.astype(int) - before).max())}", fontsize=7.5)
    for panel in panels.flatten():
        panel.set_xticks([])
        panel.set_yticks([])
    with whole_file(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)


def save_grid(images: np.ndarray, path: Path) -> None:
    """Writes one PNG of all images, (N, H, W[, 3]) uint8, in a square, enlarged if they are small."""
    pictures = [_rgb(image) for image in images]
    h, w, _ = pictures[0].shape
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (h + 1) + 1, (i % columns) * (w + 1) + 1
        grid[top : top + h, left : left + w] = picture
    scale = max(1, 512 // max(grid.shape[:2]))
    with whole_file(path, "wb") as file:
        Image.fromarray(grid.repeat(scale, 0).repeat(scale, 1)).save(file, "PNG")


def _rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
