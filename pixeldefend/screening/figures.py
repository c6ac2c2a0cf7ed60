"""Figures of verdicts, drawn by Pillow: heat maps of surprisal, and sheets of many images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from ..serialization import whole_file
from ..threads import in_threads
from .palette import INFERNO
from .png import save_png
from .records import visible

if TYPE_CHECKING:
    from .purify import Purified
    from .screener import Screened

SHEET = 400  # the largest number of images on a contact sheet
BRIGHTEST = 8.0  # nats; 256 equally probable values have a surprisal of 5.5
# of photographs, the excess surprisal around each pixel is shown; of attacked ones it is about 1 nat
BRIGHTEST_EXCESS = 1.5
SMOOTHING = 3.0  # pixels, the standard deviation of the Gaussian
REACH = math.ceil(4 * SMOOTHING)  # pixels, where the Gaussian ends
ENLARGED = (256, 1024)  # the height and width to which small images are enlarged, in pixels
ROWS_DRAWN = 64  # of a large image at once, since drawing needs many times the memory of the rows
COLOURS = {"clean": (44, 122, 75), "adversarial": (192, 57, 43)}
INK, PAPER, MARGIN = (51, 51, 51), (255, 255, 255), 12
LEGEND = 56  # the height of a scale with its words


def heat_map(surprisal: np.ndarray) -> np.ndarray:
    """Colours the surprisal of pixels.

    Args:
        surprisal: (H, W), nats.

    Returns:
        uint8 (H, W, 3): black is 0 nats, the brightest yellow 8 or more.
    """
    share = np.clip(np.nan_to_num(surprisal, posinf=BRIGHTEST) / BRIGHTEST, 0, 1)
    return INFERNO[np.minimum((share * 256).astype(int), 255)]


def overlay(image: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """Lays the excess surprisal around each pixel over a photograph.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        excess: (H, W), how much more surprising each pixel is than the density expects, in nats.

    Returns:
        uint8 (H, W, 3): the photograph in grey, tinted from black for 0 nats or less to yellow for 1.5 or more.
    """
    return np.concatenate([_overlay_of_rows(image, excess, rows) for rows in _strips(len(excess))])


def _overlay_of_rows(image: np.ndarray, excess: np.ndarray, rows: slice) -> np.ndarray:
    top, bottom, _ = rows.indices(len(excess))
    above = min(top, REACH)
    clipped = np.clip(np.nan_to_num(excess[top - above : bottom + REACH]), -6, 9).astype(np.float32)
    around = gaussian_filter(clipped, SMOOTHING, mode="nearest", radius=REACH)[above : above + bottom - top]
    tint = INFERNO[(np.clip(around / BRIGHTEST_EXCESS, 0, 1) * 255).astype(int)]
    grey = _rgb(image[rows]).mean(2, keepdims=True)
    return (0.35 * grey + 0.65 * tint).astype(np.uint8)


def _picture_of(screened: Screened, rows: slice = slice(None)) -> np.ndarray:
    """Returns uint8 (h, W, 3), the heat map of h rows of an image, or the overlay of a photograph."""
    assert screened.image is not None
    assert screened.surprisal_map is not None
    if screened.record.history is None:
        return heat_map(screened.surprisal_map[rows])
    return _overlay_of_rows(screened.image, screened.surprisal_map, rows)


def _strips(height: int) -> Iterator[slice]:
    """Yields the rows of one strip of an image after another."""
    for top in range(0, height, ROWS_DRAWN):
        yield slice(top, min(top + ROWS_DRAWN, height))


def save_heat_map(screened: Screened, folder: Path, taken: set[str] | None = None) -> Path:
    """Writes an image and its heat map, side by side and with a scale, as a PNG; small images are enlarged.

    Args:
        screened: The image and its surprisal.
        folder: The folder of the PNG, whose name is `Record.picture_name`.
        taken: The names of the heat maps of other images, to which this one is added.

    Returns:
        The path of the PNG.

    Raises:
        OSError: If the PNG cannot be written.
    """
    assert screened.image is not None
    image = screened.image
    height, width = image.shape[:2]
    scale = max(1, min(ENLARGED[0] // height, ENLARGED[1] // width))

    def pair(rows: slice) -> np.ndarray:
        both = np.concatenate([_rgb(image[rows]), _picture_of(screened, rows)], 1)
        return both.repeat(scale, 0).repeat(scale, 1)

    legend = Image.new("RGB", (2 * scale * width, LEGEND), PAPER)
    legend_width = max(1, min(legend.width - 2 * MARGIN, 420))
    _draw_legend(legend, MARGIN, 8, legend_width, screened.record.history is not None)
    path = folder / screened.record.picture_name(folder, taken)
    strips = in_threads(pair, list(_strips(height)))
    save_png(path, legend.width, scale * height + LEGEND, itertools.chain(strips, [np.asarray(legend)]))
    return path


def save_contact_sheet(results: Sequence[Screened], path: Path) -> None:
    """Writes one PNG of all images that have a verdict: each with its heat map, name, verdict and p-value.

    Args:
        results: The images and their surprisal. Images without surprisal are left out.
        path: The PNG.
    """
    shown = [result for result in results if result.image is not None and result.surprisal_map is not None]
    kinds = sorted({result.record.history is not None for result in shown})  # small images, photographs
    side, columns = (170, 4) if kinds == [True] else (84, 8)
    frame, gap = 3, 3
    width, pitch = 2 * (side + frame) + gap, (2 * (side + frame) + gap + 12, side + 2 * frame + 46)
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (2 * MARGIN + columns * pitch[0] - 12, 2 * MARGIN + rows * pitch[1] + LEGEND), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, result in enumerate(shown):
        assert result.image is not None
        assert result.surprisal_map is not None
        left, top = MARGIN + i % columns * pitch[0], MARGIN + i // columns * pitch[1]
        colour = COLOURS.get(result.record.verdict, INK)
        draw.rectangle((left, top, left + width - 1, top + side + 2 * frame - 1), outline=colour, width=frame)
        sheet.paste(_fitted(result.image, side), (left + frame, top + frame))
        sheet.paste(_fitted(_picture_of(result), side), (left + frame + side + gap, top + frame))
        middle, below = left + width // 2, top + side + 2 * frame
        draw.text((middle, below + 12), _name(result, width), INK, _font(12), "mm")
        p = result.record.p_value
        verdict = result.record.verdict if p is None else f"{result.record.verdict}   p = {p:.4f}"
        draw.text((middle, below + 28), verdict, colour, _font(12), "mm", stroke_width=0.3)
    for place, photographs in enumerate(kinds):
        _draw_legend(sheet, MARGIN + 400 * place, sheet.height - MARGIN - LEGEND, 360, photographs)
    _save(sheet, path)


def save_purified_sheet(results: Sequence[Purified], path: Path) -> None:
    """Writes one PNG with a row for each image that was purified.

    A row shows the image, its heat map of surprisal, the purified image, and the changes (red is brighter, blue is
    darker), with p-values, and with labels if there are any.

    Args:
        results: The results of purification. Files without a purified image are left out.
        path: The PNG.
    """
    shown = [item for item in results if item.image is not None and item.screened.surprisal_map is not None]
    side, pitch, header = 168, (168 + MARGIN, 168 + 34), 26
    sheet = Image.new("RGB", (4 * pitch[0] + MARGIN, header + len(shown) * pitch[1] + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(("image", "surprisal", "purified", "what changed")):
        draw.text((MARGIN + i * pitch[0] + side // 2, header // 2), title, INK, _font(15), "mm")
    for row, item in enumerate(shown):
        assert item.screened.image is not None
        assert item.screened.surprisal_map is not None
        assert item.image is not None
        before, after = _rgb(item.screened.image).astype(int), _rgb(item.image).astype(int)
        panels = (item.screened.image, _picture_of(item.screened), item.image, _change(before, after))
        labels = [f"   label {label}" if label is not None else "" for label in (item.label_before, item.label_after)]
        captions = (
            f"p = {item.screened.record.p_value:.4f}{labels[0]}",
            _name(item.screened, side),
            f"p = {item.p_value:.4f}{labels[1]}",
            f"by at most {np.abs(after - before).max()}",
        )
        top = header + row * pitch[1]
        for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
            left = MARGIN + i * pitch[0]
            sheet.paste(_fitted(panel, side), (left, top))
            draw.rectangle((left - 1, top - 1, left + side, top + side), outline=INK)
            draw.text((left + side // 2, top + side + 14), caption, INK, _font(13), "mm")
    _save(sheet, path)


def save_grid(images: np.ndarray, path: Path) -> None:
    """Writes one PNG of images in a square, enlarged if they are small.

    Args:
        images: uint8 (N, H, W) or (N, H, W, 3).
        path: The PNG.
    """
    pictures = [_rgb(image) for image in images]
    h, w, _ = pictures[0].shape
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (h + 1) + 1, (i % columns) * (w + 1) + 1
        grid[top : top + h, left : left + w] = picture
    scale = max(1, 512 // max(grid.shape[:2]))
    _save(Image.fromarray(grid.repeat(scale, 0).repeat(scale, 1)), path)


def _rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)


def _fitted(panel: np.ndarray, side: int) -> Image.Image:
    """Returns an image, uint8, in the middle of a square; small ones are enlarged without smoothing."""
    picture = Image.fromarray(panel)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)
    square = Image.new("RGB", (side, side), (235, 235, 235))
    square.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def _change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns uint8 (H, W, 3): white where nothing changed, red where it became brighter, blue where darker."""
    change = after.mean(2) - before.mean(2)
    share = change / max(1.0, float(np.abs(change).max()))
    fade = 1 - np.abs(share)
    red, blue = np.where(share > 0, 1, fade), np.where(share < 0, 1, fade)
    return (np.stack([red, fade, blue], 2) * 255).round().astype(np.uint8)


def _draw_legend(sheet: Image.Image, left: int, top: int, width: int, photographs: bool) -> None:
    """Draws the scale of heat maps, or that of the overlays of photographs."""
    most = BRIGHTEST_EXCESS if photographs else BRIGHTEST
    bar = INFERNO[np.linspace(0, 255, width).astype(int)][None].repeat(14, 0)
    sheet.paste(Image.fromarray(bar), (left, top))
    draw = ImageDraw.Draw(sheet)
    for share, anchor in ((0, "lm"), (0.5, "mm"), (1, "rm")):
        draw.text((left + share * width, top + 24), f"{share * most:g}", INK, _font(12), anchor)
    what = "excess surprisal around each pixel, nats" if photographs else "surprisal of each pixel, nats"
    draw.text((left, top + 42), what, INK, _font(13), "lm")


def _name(result: Screened, width: int) -> str:
    """Returns the name of a file, cut to the width."""
    name = visible(Path(result.record.path).stem)
    if _font(12).getlength(name) <= width:
        return name
    while name and _font(12).getlength(f"{name}...") > width:
        name = name[:-1]
    return f"{name}..."


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _save(picture: Image.Image, path: Path) -> None:
    with whole_file(path, "wb") as file:
        picture.save(file, "PNG", compress_level=2)  # a third of the time of the default, and hardly larger files
