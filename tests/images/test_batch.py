"""Images of any kind as a batch: nothing changes a pixel on the way."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image

from pixeldefend.errors import ImageError
from pixeldefend.images import match_channels, quantize, to_batch, to_uint8

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
RGB = np.stack([GREY, GREY.T, 255 - GREY], -1)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
@settings(deadline=None, max_examples=30)
def test_grey_pixels_survive_every_lossless_way_in(pixels):
    expected = torch.from_numpy(pixels)[None, None] / 255
    ways = [
        encoded(Image.fromarray(pixels)),
        encoded(Image.fromarray(pixels), "BMP"),
        Image.fromarray(pixels),
        pixels,
        pixels[None, ..., None],
        torch.from_numpy(pixels)[None],
        torch.from_numpy(pixels)[None, None],
        pixels / 255.0,
        (pixels / 255.0).astype(np.float32),
    ]
    for way in ways:
        batch, _ = to_batch(way)
        torch.testing.assert_close(batch, expected)
        assert torch.equal(to_uint8(batch), torch.from_numpy(pixels)[None, None])


@pytest.mark.parametrize(
    ("x", "shape", "single"),
    [
        (GREY, (1, 1, 8, 8), True),
        (RGB, (1, 3, 8, 8), True),
        (np.stack([GREY] * 5), (5, 1, 8, 8), False),
        (np.stack([RGB] * 5), (5, 3, 8, 8), False),
        (np.zeros((2, 8, 9, 1), np.uint8), (2, 1, 8, 9), False),
        (torch.zeros(3, 8, 9), (1, 3, 8, 9), True),
        (torch.zeros(1, 8, 9, dtype=torch.uint8), (1, 1, 8, 9), True),
        (torch.zeros(4, 3, 8, 9, dtype=torch.float64), (4, 3, 8, 9), False),
        (np.zeros((0, 8, 8), np.uint8), (0, 1, 8, 8), False),
        (np.zeros((8, 8), np.float16), (1, 1, 8, 8), True),
        (np.zeros((8, 8), ">f4"), (1, 1, 8, 8), True),
        (GREY[::-1, ::2], (1, 1, 8, 4), True),
    ],
)
def test_shapes(x, shape, single):
    batch, was_single = to_batch(x)
    assert tuple(batch.shape) == shape
    assert batch.dtype == torch.float32
    assert was_single is single


@pytest.mark.parametrize(
    ("x", "kind", "value"),
    [
        (np.zeros(8, np.uint8), "format", r"\(8,\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), "format", r"\(2, 8, 8, 4\)"),
        (np.zeros((8, 8), np.int64), "mode", "int64"),
        (np.zeros((8, 8), bool), "mode", "bool"),
        (np.zeros((8, 8), np.complex64), "mode", "complex64"),
        (torch.zeros(1, 8, 8, dtype=torch.int32), "mode", "int32"),
        (np.full((8, 8), np.nan), "range", "NaN"),
        (torch.full((1, 8, 8), float("inf")), "range", "infinite"),
        (np.full((8, 8), 200.0), "range", "200 to 200"),
        (np.full((8, 8), -0.5), "range", "-0.5 to -0.5"),
        (np.full((8, 8), 1 + 2e-7, np.float32), "range", "1.0000002 to 1.0000002"),
        (np.full((8, 8), -1e-8, np.float32), "range", "-1e-08 to -1e-08"),
        (np.full((8, 8), 1 + 2e-7), "range", "1.0000002 to 1.0000002"),
        (torch.full((1, 8, 8), 1.001).half(), "range", "1.0009766 to 1.0009766"),
        (torch.full((1, 8, 8), 1.005).bfloat16(), "range", "1.0078125 to 1.0078125"),
        (torch.zeros(1, 8, 8, device="meta"), "format", "'meta'"),
        (torch.zeros(8, 8), "format", r"\(8, 8\)"),
        (torch.zeros(5, 8, 8), "format", r"\(5, 8, 8\)"),
        ([1, 2, 3], "format", "list"),
        (None, "format", "NoneType"),
    ],
)
def test_what_is_refused_is_named(x, kind, value):
    with pytest.raises(ImageError, match=value) as caught:
        to_batch(x)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("value", "advice"), [(200.0, "divide by 255"), (1.001, "clip"), (-1e-7, "clip"), (-1.0, None), (300.0, None)]
)
def test_advice_fits_the_values(value, advice):
    with pytest.raises(ImageError) as caught:
        to_batch(np.full((8, 8), value))
    given = [words for words in ("divide by 255", "clip") if words in str(caught.value)]
    assert given == ([advice] if advice else [])


def test_the_grid_is_that_of_uint8():
    x = torch.rand(5, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantize(x), to_uint8(x) / 255)
    assert torch.equal(quantize(quantize(x)), quantize(x))
    assert (quantize(x) - x).abs().max() <= 0.5 / 255 + 1e-6
    assert quantize(x.double()).dtype == torch.double


def test_floats_are_put_on_the_grid_that_files_have():
    batch, _ = to_batch(np.full((2, 2), 100.3 / 255))
    assert torch.equal(batch, torch.full((1, 1, 2, 2), 100) / 255)


def test_channels_change_only_where_no_colour_is_lost():
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(match_channels(match_channels(grey, 3), 1), grey)
    with pytest.raises(ImageError) as caught:
        match_channels(torch.rand(2, 3, 4, 4), 1)
    assert caught.value.kind == "size"
