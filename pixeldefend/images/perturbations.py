"""Synthetic perturbations, from which a likelihood ratio learns what perturbed images look like.

No attack is run and no trained network is asked. Every perturbation is random: its pattern (independent, correlated in
space or between channels, of high frequencies, of stripes and squares, or spread by a random strided convolution, as
the gradient of a network is), its scale (of the image, or coarser, as if a classifier saw the image smaller), its form
(signs, clipped, several signed steps, normal), its size (0.5 to 16 grey levels) and its place (everywhere, in a region,
in textured or in flat areas, at few sub-pixels, off a black or white background).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..ambient import torch_defaults

SIZES = {1: 0.3, 1.5: 0.1, 2: 0.25, 3: 0.1, 4: 0.1, 8: 0.1, 16: 0.05}  # in grey levels -> how often
FAINT_SIZES = {0.5: 0.25, 0.7: 0.25, 1: 0.3, 1.5: 0.2}  # the same; rounding undoes much of such perturbations
LARGE_SIZES = {2: 0.2, 4: 0.3, 8: 0.3, 16: 0.2}  # the same; attacks that see no gradient need such perturbations
PATTERNS = {"independent": 1, "smooth": 1, "shared": 1, "rough": 1, "squares": 1, "strided": 3}  # how often, relatively
SQUARES = {"squares": 1}
LARGEST_SHARE = 1 / 12  # of the pixels of an image, which get other values
SMALLER = 0.25  # the share of perturbations that are made as if the classifier saw a smaller image
SCALES = (1.05, 6.0)  # how much smaller
FLAT = 0.25  # above this share of black and white sub-pixels, half the perturbations leave these as they are


@torch_defaults()
def perturbed(
    x: Tensor, *, seed: int, sizes: Mapping[float, float] = SIZES, patterns: Mapping[str, float] = PATTERNS
) -> Tensor:
    """Perturbs each image in a way of its own; a few stay as they are.

    Args:
        x: (N, C, H, W) uint8, with sides of at least 8.
        seed: The seed of all random numbers.
        sizes: The sizes of perturbations in grey levels, and how often each occurs; the shares sum to 1.
        patterns: The patterns, keys of `PATTERNS`, and how often each occurs, relatively.

    Returns:
        (N, C, H, W) uint8.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    views, backgrounds = (np.random.default_rng([seed, stream]) for stream in (1, 2))
    images = []
    for image in x.float():
        # of grey images that are stored in colour, half the perturbations are grey too
        is_grey = len(image) > 1 and bool((image == image[:1]).all()) and rng.random() < 0.5
        image = image[:1] if is_grey else image
        moved = _perturbation(image, _view(image, views), sizes, patterns, rng, generator)
        value = image / 255
        if ((value == 0) | (value == 1)).float().mean() > FLAT and backgrounds.random() < 0.5:
            moved = moved * 4 * value * (1 - value)  # as attacks do that search among the arctanh of the values
        moved = image + moved
        images.append(moved.round().clamp(0, 255).expand(x.shape[1:]))
    return torch.stack(images).to(torch.uint8) if len(images) else x


@torch_defaults()
def with_extreme_pixels(x: Tensor, *, seed: int) -> Tensor:
    """Gives a few pixels or sub-pixels of each image other values, mostly black and white.

    Args:
        x: (N, C, H, W) uint8.
        seed: The seed of all random numbers.

    Returns:
        (N, C, H, W) uint8.
    """
    rng = np.random.default_rng(seed)
    images = x.clone().numpy()
    for image in images:
        c, h, w = image.shape
        count = round(math.exp(rng.uniform(0, math.log(max(1, LARGEST_SHARE * h * w)))))
        rows, columns = rng.integers(h, size=count), rng.integers(w, size=count)
        kind = rng.choice(["pixels", "channels", "any value"])
        if kind == "pixels":
            image[:, rows, columns] = 255 * rng.integers(2, size=count)
        elif kind == "channels":
            values = 255 * rng.integers(2, size=(c, count))
            image[:, rows, columns] = np.where(rng.random((c, count)) < 0.7, values, image[:, rows, columns])
        else:
            image[rng.integers(c, size=count), rows, columns] = rng.integers(256, size=count)
    return torch.from_numpy(images)


@dataclass(frozen=True)
class View:
    """What a classifier sees of an image: a part of it, shrunk.

    Args:
        scale: How much it is shrunk, at least 1.
        margins: How many pixels the classifier does not see: left, right, top, bottom.
    """

    scale: float = 1.0
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)

    def pattern(
        self,
        shape: torch.Size,
        patterns: Mapping[str, float],
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns a random pattern that reaches an image as a gradient does, from what the classifier sees of it.

        Args:
            shape: (C, H, W), of the image.
            patterns: As for `perturbed`.
            rng: The source of choices.
            generator: The source of the pattern.

        Returns:
            (C, H, W).
        """
        left, right, top, bottom = self.margins
        size = shape[1] - top - bottom, shape[2] - left - right
        small = torch.Size([shape[0], *(max(8, round(side / self.scale)) for side in size)])
        pattern = _pattern(small, patterns, rng, generator)
        if small == shape:
            return pattern
        # bilinear interpolation is the gradient of the antialiased shrinking of `imagenet.resized_and_cropped`
        pattern = F.interpolate(pattern[None], size, mode="bilinear")[0]
        return F.pad(pattern / (pattern.std() + 1e-6), self.margins)


def _view(image: Tensor, rng: np.random.Generator) -> View:
    if rng.random() >= SMALLER:
        return View()
    scale = math.exp(rng.uniform(*np.log(SCALES)))
    if rng.random() >= 0.5:
        return View(scale)
    _, h, w = image.shape  # the classifier crops the middle
    left, right, top, bottom = (int(rng.uniform(0, 0.3) * length) for length in (w, w, h, h))
    return View(scale, (left, right, top, bottom))


def _perturbation(
    image: Tensor,
    view: View,
    sizes: Mapping[float, float],
    patterns: Mapping[str, float],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> Tensor:
    """Returns (C, H, W) in grey levels."""
    size = float(rng.choice(list(sizes), p=list(sizes.values())))
    pattern = view.pattern(image.shape, patterns, rng, generator)
    form = rng.choice(["signs", "clipped", "steps", "normal"], p=[0.4, 0.2, 0.2, 0.2])
    if form == "signs":
        moved = size * pattern.sign()
    elif form == "clipped":
        moved = (size * rng.uniform(0.6, 2) * pattern).clamp(-size, size)
    elif form == "steps":  # an iterative attack takes many small steps, not all in the same direction
        total = pattern.sign()
        for _ in range(rng.integers(1, 4)):
            total = total + rng.uniform(0.3, 1) * view.pattern(image.shape, patterns, rng, generator).sign()
        moved = (size * rng.uniform(0.5, 1) * total).clamp(-size, size)
    else:
        moved = 0.6 * size * pattern
    if rng.random() < 0.3:
        moved = moved * _place(image, rng, generator)
    if rng.random() < 0.15:
        moved = moved * (torch.rand(image.shape, generator=generator) < rng.uniform(0.1, 0.6))
    return moved


def _pattern(
    shape: torch.Size, patterns: Mapping[str, float], rng: np.random.Generator, generator: torch.Generator
) -> Tensor:
    """Returns a random pattern, (C, H, W), of variance 1."""

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    c, h, w = shape
    kind = rng.choice(list(patterns), p=[count / sum(patterns.values()) for count in patterns.values()])
    if kind == "independent":
        pattern = normal(c, h, w)
    elif kind == "smooth":
        sigma = rng.uniform(0.4, 2)
        reach = math.ceil(2 * sigma)
        bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
        pattern = F.conv2d(normal(c, 1, h, w), (bell[:, None] * bell)[None, None], padding=reach)[:, 0]
    elif kind == "shared":
        share = rng.uniform(0.3, 1)
        pattern = share * normal(1, h, w) + (1 - share) * normal(c, h, w)
    elif kind == "rough":
        pattern = normal(c, h, w)
        pattern = pattern - rng.uniform(-0.6, 0.9) * 0.5 * (pattern.roll(1, 1) + pattern.roll(1, 2))
    elif kind == "squares":  # stripes a pixel wide, and squares in front of them
        stripes = normal(c, 1, w) if rng.random() < 0.75 else normal(c, h, 1)
        pattern = stripes.sign().repeat(1, h // stripes.shape[1], w // stripes.shape[2])
        for _ in range(rng.integers(0, 100)):
            side = max(1, round(math.sqrt(h * w * math.exp(rng.uniform(-9, -2)))))
            top, left = (int(rng.integers(max(1, length - side + 1))) for length in (h, w))
            pattern[:, top : top + side, left : left + side] = normal(c, 1, 1).sign()
    else:
        stride = int(rng.choice([1, 2, 4], p=[0.25, 0.5, 0.25]))
        side, features = max(stride, int(rng.choice([3, 5, 7]))), int(rng.integers(2, 16))
        gradient = normal(1, features, h // stride + 3, w // stride + 3)
        if rng.random() < 0.5:  # units that are off send nothing back
            gradient = gradient * (normal(*gradient.shape) > rng.uniform(-0.5, 1))
        kernel = normal(features, c, side, side)
        if rng.random() < 0.4:
            kernel = 0.4 * kernel + kernel.mean(1, keepdim=True)
        pattern = F.conv_transpose2d(gradient, kernel, stride=stride)[0, :, 2 : 2 + h, 2 : 2 + w]
    return pattern / (pattern.std() + 1e-6)


def _place(image: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Returns (1, H, W) in [0, 1], the strength of a perturbation in each place: a region, or where it is textured."""
    _, h, w = image.shape
    height = F.interpolate(torch.randn(1, 1, 4, 4, generator=generator), (h, w), mode="bilinear")[0]
    if rng.random() < 0.5:
        grey = image.mean(0, keepdim=True)[None]
        texture = F.avg_pool2d((grey - F.avg_pool2d(grey, 5, 1, 2)).abs(), 9, 1, 4)[0]
        sign = rng.choice([-1, 1])
        height = sign * (texture - texture.mean()) / (texture.std() + 1e-3) + 0.5 * height
    return torch.sigmoid(4 * (height - rng.uniform(-1, 0.3)))
