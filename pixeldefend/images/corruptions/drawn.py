"""Images that no lens has made: screenshots, charts, cartoons and flat colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]

TEXT = """the of and to in a is that for it on was with as be at by this from have or one had not but what all were
when we there can an your which their said if do will each about how up out them then she many some so these would into
has more her two like him see time could no make than first been its who now people my made over did down only way find
use may water long little very after words called just where most know File Edit View Help Save Open Cancel Settings
Search Home Back Next Account Sign in OK 2024 17:45 100% 3.14 €9.99 v2.0 https://example.org user@example.org #1 (12)"""
WORDS = TEXT.split()
ACCENTS: list[Colour] = [(0, 120, 215), (26, 115, 232), (52, 168, 83), (234, 67, 53), (251, 188, 4), (103, 58, 183)]


def screenshot(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draws a screen with a window, text, buttons and sometimes the photograph.

    Args:
        image: The photograph, RGB. Its size is that of the screenshot.
        rng: The source of random numbers.

    Returns:
        RGB.
    """
    # Small screenshots show a part of a screen: they do not have smaller letters.
    width, height = max(image.width, 400), max(image.height, 300)
    dark = rng.random() < 0.35
    paper, ink = (_grey(rng, 18, 45), _grey(rng, 190, 240)) if dark else (_grey(rng, 240, 255), _grey(rng, 0, 70))
    screen = Image.new("RGB", (width, height), paper)
    size = int(rng.integers(9, 20) * (2 if width > 800 and rng.random() < 0.4 else 1))
    text = _Text(screen, rng, subpixels=rng.random() < 0.4)
    canvas = ImageDraw.Draw(screen)
    accent = ACCENTS[rng.integers(len(ACCENTS))]
    bar = int(2.2 * size)

    canvas.rectangle((0, 0, width, bar), fill=accent if rng.random() < 0.4 else _shade(paper, -14 if dark else 12))
    text.line(size, (size, bar // 2 - size // 2), _words(rng, 4), ink)
    for number in range(3):
        x = width - (number + 1) * bar
        canvas.ellipse((x, bar // 3, x + bar // 3, 2 * bar // 3), fill=ACCENTS[number + 1])
    left = 0
    if rng.random() < 0.5:
        left = int(rng.uniform(0.12, 0.28) * width)
        canvas.rectangle((0, bar, left, height), fill=_shade(paper, 8 if dark else -10))
        for y in range(2 * bar, height, int(1.8 * size)):
            if rng.random() < 0.08:
                canvas.rectangle((0, y - 3, left, y + size + 3), fill=accent)
            text.line(size, (size, y), _words(rng, 2), ink)

    y = bar + size
    while y < height:
        kind = rng.random()
        x = left + size
        if kind < 0.2 and width - x > 60:
            y += _photograph(screen, image, (x, y), rng, widest=width - x - size) + size
        elif kind < 0.32:
            heading = min(40, int(size * rng.uniform(1.4, 2.4)))
            text.line(heading, (x, y), _words(rng, 5), ink)
            y += 2 * heading
        elif kind < 0.45:
            for _ in range(int(rng.integers(1, 5))):
                button = int(rng.uniform(4, 8) * size)
                box = (x, y, x + button, y + 2 * size)
                filled = rng.random() < 0.6
                canvas.rounded_rectangle(box, size // 2, fill=accent if filled else None, outline=ink)
                text.line(size, (x + size, y + size // 2), _words(rng, 1), (255, 255, 255) if filled else ink)
                x += button + size
            y += 3 * size
        elif kind < 0.55:
            canvas.line((left, y, width, y), fill=_shade(paper, 40 if dark else -40))
            y += size
        elif kind < 0.65:
            _table(canvas, text, (x, y), size, rng, ink, width)
            y += 8 * size
        elif kind < 0.72:  # an empty stretch
            y += int(rng.uniform(2, 8) * size)
        else:
            colour = ink if rng.random() < 0.85 else accent
            for _ in range(int(rng.integers(2, 9))):
                text.line(size, (x, y), _words(rng, (width - x) // (5 * size)), colour)
                y += int(1.45 * size)
            y += size
    return _part(screen, image.size, rng)


class _Text:
    """Writes lines on an image, with grey edges or with edges of the three colours of a flat screen's pixels."""

    def __init__(self, image: Image.Image, rng: np.random.Generator, *, subpixels: bool) -> None:
        self.image, self.rng, self.subpixels = image, rng, subpixels
        self.draw = ImageDraw.Draw(image)

    def line(self, size: int, place: tuple[int, int], text: str, colour: Colour) -> None:
        font = _font(size if not self.subpixels else 3 * size)
        if not self.subpixels:
            self.draw.text(place, text, font=font, fill=colour)
            return
        # drawn three times as large, shrunk in height, and every third column is one colour of a pixel
        width = min(int(font.getlength(text) / 3) + 2, self.image.width - place[0])
        height = min(int(1.4 * size), self.image.height - place[1])
        if width < 1 or height < 1:
            return
        mask = Image.new("L", (3 * width, 3 * height))
        ImageDraw.Draw(mask).text((1, 0), text, font=font, fill=255)
        fine = np.asarray(mask.resize((3 * width, height), Image.Resampling.BOX), np.float32) / 255
        padded = np.pad(fine, ((0, 0), (1, 1)))
        cover = ((padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3).reshape(height, width, 3)
        box = (*place, place[0] + width, place[1] + height)
        below = np.asarray(self.image.crop(box), np.float32)
        written = below + cover * (np.array(colour, np.float32) - below)
        self.image.paste(Image.fromarray((written + 0.5).astype(np.uint8)), place)


def drawing(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draws one of several kinds of pictures.

    Args:
        image: A photograph, RGB, which a cartoon simplifies. Its size is that of the drawing.
        rng: The source of random numbers.

    Returns:
        RGB.
    """
    kinds: list[Callable[[Image.Image, np.random.Generator], Image.Image]] = [
        _shapes,
        _line_art,
        _chart,
        _cartoon,
        _gradient,
        _flat,
    ]
    return kinds[rng.choice(len(kinds), p=[0.25, 0.15, 0.2, 0.25, 0.1, 0.05])](image, rng)


def _shapes(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Coloured shapes with smooth edges."""
    width, height = image.size
    picture = Image.new("RGB", (2 * width, 2 * height), _colour(rng))
    canvas = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 40))):
        x, y = rng.uniform(-0.1, 1.1, 2) * picture.size
        reach = rng.uniform(0.02, 0.3) * min(picture.size)
        box = (x - reach, y - reach * rng.uniform(0.3, 1), x + reach, y + reach)
        outline = (0, 0, 0) if rng.random() < 0.3 else None
        kind = rng.integers(4)
        if kind == 0:
            canvas.ellipse(box, fill=_colour(rng), outline=outline, width=4)
        elif kind == 1:
            canvas.rectangle(box, fill=_colour(rng), outline=outline, width=4)
        elif kind == 2:
            canvas.rounded_rectangle(box, reach / 4, fill=_colour(rng), outline=outline, width=4)
        else:
            corners = rng.uniform(-1, 1, (int(rng.integers(3, 8)), 2)) * reach + (x, y)
            canvas.polygon([tuple(corner) for corner in corners.tolist()], fill=_colour(rng), outline=outline)
    return picture.reduce(2)


def _line_art(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The edges of the photograph as ink on paper, or curves of a pen."""
    if rng.random() < 0.5:
        smooth = image.convert("L").filter(ImageFilter.GaussianBlur(rng.uniform(1, 3)))
        edges = np.asarray(smooth.filter(ImageFilter.FIND_EDGES), np.float32)
        edges[[0, -1]] = edges[:, [0, -1]] = 0
        ink = np.clip(edges * (400 / (np.percentile(edges, 98) + 1)) - 60, 0, 255)
        return Image.fromarray((255 - ink).astype(np.uint8)).convert("RGB")
    width, height = image.size
    picture = Image.new("RGB", (2 * width, 2 * height), _grey(rng, 235, 255))
    canvas = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(5, 40))):
        steps = rng.normal(0, 0.06, (40, 2)).cumsum(0).cumsum(0) * 0.15 + rng.uniform(0, 1, 2)
        points = [tuple(point) for point in (steps * picture.size).tolist()]
        canvas.line(points, fill=_grey(rng, 0, 90), width=int(rng.integers(2, 9)), joint="curve")
    return picture.reduce(2)


def _chart(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Bars, lines or slices, with axes and labels."""
    width, height = image.size
    picture = Image.new("RGB", image.size, (255, 255, 255))
    canvas = ImageDraw.Draw(picture)
    size = int(np.clip(min(image.size) // 22, 9, 24))
    left, right, top, bottom = 4 * size, width - size, 3 * size, height - 3 * size
    kind = rng.integers(3)
    if kind == 2:
        edges = np.concatenate([[0], rng.dirichlet(np.full(int(rng.integers(3, 8)), 2.0)).cumsum()]) * 360
        radius = min(width, bottom - top) // 2 - size
        box = (width // 2 - radius, height // 2 - radius, width // 2 + radius, height // 2 + radius)
        for start, end in pairwise(edges):
            canvas.pieslice(box, start, end, fill=_colour(rng), outline=(255, 255, 255))
    else:
        for y in np.linspace(top, bottom, int(rng.integers(3, 8))):
            canvas.line((left, y, right, y), fill=(215, 215, 215))
            canvas.text((size // 2, y - size // 2), f"{rng.integers(0, 1000)}", font=_font(size), fill=(60, 60, 60))
        count = int(rng.integers(4, 20))
        places = np.linspace(left, right, count + 1)
        for _ in range(int(rng.integers(1, 4))):
            colour, values = _colour(rng), bottom - rng.uniform(0.05, 1, count) * (bottom - top)
            if kind == 0:
                for x, y, end in zip(places[:-1], values, places[1:], strict=True):
                    canvas.rectangle((x + 1, y, max(x + 1, x + 0.7 * (end - x)), bottom), fill=colour)
            else:
                canvas.line(list(zip(places[:-1].tolist(), values.tolist(), strict=True)), fill=colour, width=2)
        canvas.line((left, top, left, bottom, right, bottom), fill=(0, 0, 0), width=2)
        canvas.text((left, height - 2 * size), _words(rng, 6), font=_font(size), fill=(60, 60, 60))
    canvas.text((left, size // 2), _words(rng, 5), font=_font(int(1.3 * size)), fill=(0, 0, 0))
    return picture


def _cartoon(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The photograph in few flat colours, sometimes with black edges."""
    # drawn at half the size, which is fast and makes edges soft
    half = image.resize([max(1, side // 2) for side in image.size], Image.Resampling.BOX)
    smooth = half.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5))).filter(ImageFilter.MedianFilter(3))
    colours = int(rng.integers(4, 24))
    flat = smooth.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).convert("RGB")
    flat = flat.filter(ImageFilter.MedianFilter(5))
    if rng.random() < 0.5:
        edges = np.asarray(smooth.convert("L").filter(ImageFilter.FIND_EDGES), np.float32)
        edges[[0, -1]] = edges[:, [0, -1]] = 0
        ink = np.clip(1.6 * edges / (np.percentile(edges, 98) + 12) - 0.6, 0, 1)[..., None]
        flat = Image.fromarray((np.asarray(flat) * (1 - ink) + 0.5).astype(np.uint8))
    return flat.resize(image.size, Image.Resampling.BICUBIC)


def _gradient(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A gradient between two colours, with one shape on it half the time."""
    width, height = image.size
    direction = rng.normal(size=2)
    ramp = np.linspace(0, direction[0], width)[None] + np.linspace(0, direction[1], height)[:, None]
    ramp = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-9)
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    picture = Image.fromarray((first + ramp[..., None] * (second - first) + 0.5).astype(np.uint8))
    if rng.random() < 0.5:
        reach = min(width, height) // 4
        box = (width // 2 - reach, height // 2 - reach, width // 2 + reach, height // 2 + reach)
        ImageDraw.Draw(picture).ellipse(box, fill=_colour(rng))
    return picture


def _flat(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One colour, with one word half the time."""
    picture = Image.new("RGB", image.size, _colour(rng))
    if rng.random() < 0.5:
        size = max(12, min(image.size) // 8)
        place = (image.width // 8, image.height // 2 - size // 2)
        ImageDraw.Draw(picture).text(place, _words(rng, 2), font=_font(size), fill=_colour(rng))
    return picture


def _photograph(
    screen: Image.Image, image: Image.Image, place: tuple[int, int], rng: np.random.Generator, *, widest: int
) -> int:
    """Pastes the photograph, and returns how high it is."""
    width = int(max(40, min(widest, rng.uniform(0.3, 0.9) * screen.width)))
    height = max(20, width * image.height // image.width)
    screen.paste(image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0), place)
    return height


def _table(
    canvas: ImageDraw.ImageDraw,
    text: _Text,
    place: tuple[int, int],
    size: int,
    rng: np.random.Generator,
    ink: Colour,
    width: int,
) -> None:
    left, top = place
    for row in range(4):
        y = top + 2 * row * size
        canvas.line((left, y, width - size, y), fill=ink if row < 2 else (128, 128, 128))
        for x in range(left, width - 7 * size, 8 * size):
            text.line(size, (x, y + size // 2), _words(rng, 1) if row == 0 else f"{rng.integers(0, 9999)}", ink)


def _part(screen: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Cuts an image of the given size out of a screen that is as large or larger."""
    left, top = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(screen.size, size, strict=True))
    return screen.crop((left, top, left + size[0], top + size[1]))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(WORDS, max(1, count)))


def _grey(rng: np.random.Generator, lowest: int, highest: int) -> Colour:
    value = int(rng.integers(lowest, highest + 1))
    return value, value, value


def _shade(colour: Colour, step: int) -> Colour:
    red, green, blue = (min(255, max(0, value + step)) for value in colour)
    return red, green, blue


def _colour(rng: np.random.Generator) -> Colour:
    if rng.random() < 0.3:
        return ACCENTS[rng.integers(len(ACCENTS))]
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue
