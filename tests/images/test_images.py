"""The door: what comes in, what is refused, and that nothing changes a pixel on the way."""

import contextlib
import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import bomb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pixeldefend.images import MAX_BYTES, image_size, match_channels, read_image, to_batch, to_uint8

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


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP"])
def test_rgb_files(file_format, tmp_path):
    options = {"lossless": True} if file_format == "WEBP" else {}
    path = tmp_path / "x.bin"  # the content decides, not the name
    path.write_bytes(encoded(Image.fromarray(RGB), file_format, **options))
    assert np.array_equal(read_image(path), RGB)
    assert to_batch(path)[0].shape == (1, 3, 8, 8)
    assert to_batch(str(path))[1] is True


def test_jpeg():
    assert read_image(encoded(Image.fromarray(RGB), "JPEG")).shape == (8, 8, 3)


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
    ("x", "message"),
    [
        (np.zeros(8, np.uint8), r"shape \(8,\); wanted \(H, W\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"shape \(2, 8, 8, 4\)"),
        (np.zeros((8, 8), np.int64), "dtype int64; wanted uint8"),
        (np.zeros((8, 8), bool), "dtype bool"),
        (np.zeros((8, 8), np.complex64), "dtype complex64"),
        (np.full((8, 8), np.nan), "NaN"),
        (np.full((8, 8), 200.0), r"from 200 to 200; wanted \[0, 1\]; divide by 255"),
        (np.full((8, 8), -0.5), r"from -0.5 to -0.5"),
        (torch.full((1, 8, 8), float("inf")), "infinite"),
        (torch.zeros(8, 8), r"torch tensor of shape \(8, 8\)"),
        (torch.zeros(5, 8, 8), r"wanted \(1 or 3, H, W\)"),
        (torch.zeros(1, 8, 8, dtype=torch.int32), "dtype torch.int32"),
        ([1, 2, 3], "got builtins.list; wanted a path"),
        (None, "NoneType"),
    ],
)
def test_what_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        to_batch(x)


def test_modes_are_converted_without_loss_or_refused_by_name():
    grey = Image.fromarray(GREY)
    assert np.array_equal(read_image(encoded(grey.convert("P"))), np.stack([GREY] * 3, -1))
    assert set(np.unique(read_image(encoded(grey.convert("1"))))) <= {0, 255}
    opaque = Image.fromarray(RGB).convert("RGBA")
    assert np.array_equal(read_image(encoded(opaque)), RGB)
    opaque.putalpha(128)
    for image, file_format, message in [
        (opaque, "PNG", "translucent"),
        (Image.fromarray(RGB).convert("CMYK"), "JPEG", "mode CMYK"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG", "16-bit"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_image(encoded(image, file_format))
    with pytest.raises(ValueError, match="16-bit or deeper"):
        to_batch(Image.fromarray(GREY.astype(np.uint16) * 257))


def test_transparent_palette_is_refused_and_an_opaque_one_is_not():
    image = Image.fromarray(GREY).convert("P")
    with pytest.raises(ValueError, match="translucent"):
        read_image(encoded(image, transparency=int(np.asarray(image)[0, 0])))


@pytest.mark.parametrize(
    "before",
    [[], [(b"tEXt", b"a\0b")], [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))]],
    ids=["plain", "after a text", "after a header of 8 bits"],
)
def test_sixteen_bit_rgb_is_refused_rather_than_halved(before):
    raw = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    chunks = [*before, (b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with pytest.raises(ValueError, match="16-bit"):
        read_image(png)


def scans(n: int, size: int = 64) -> bytes:
    """A progressive JPEG with n further scans of a few bytes each, all of them empty."""
    data = encoded(Image.fromarray(np.zeros((size, size), np.uint8)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    length = 2 + int.from_bytes(data[last + 2 : last + 4], "big")
    return data[:-2] + n * (data[last : last + length] + b"\0") + data[-2:]


def test_a_jpeg_of_many_scans_or_segments_is_refused_before_it_is_decoded():
    assert read_image(scans(0)).shape == (64, 64)
    profile = encoded(Image.fromarray(RGB), "JPEG", icc_profile=b"\xff\xda\xff\xd9" * 500)  # no scans, and no end
    assert read_image(profile).shape == (8, 8, 3)
    hidden = b"\xff\xd8\xff\xe0\0\x04\xff\xd9" + scans(60_000)[2:]  # an end within a segment is none
    started = time.perf_counter()
    empty = b"\xff\xd8" + b"\xff\xef\0\x02" * 2_000_000 + scans(0)[2:]
    for data, what in [(scans(120), "scans"), (scans(60_000), "scans"), (hidden, "scans"), (empty, "segments")]:
        with pytest.raises(ValueError, match=rf"more than 10+ {what}"):
            read_image(data)
    assert time.perf_counter() - started < 1


def test_the_size_is_had_without_decoding():
    assert image_size(encoded(Image.fromarray(RGB[:4]))) == (4, 8)
    assert image_size(bomb(3000, 2000)) == (2000, 3000)  # its pixels are not there
    for data, reason in [(b"", "empty"), (b"text", "not a PNG"), (bomb(5_000, 5_000), "pixels that are decoded")]:
        with pytest.raises(ValueError, match=reason):
            image_size(data)


def test_exif_orientation_is_applied():
    image = Image.fromarray(RGB[:4])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    turned = read_image(encoded(image, exif=exif))
    assert np.array_equal(turned, np.rot90(RGB[:4], -1))


def test_animations_are_refused():
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for file_format in ("PNG", "WEBP"):
        data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match="animated"):
            read_image(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"just text", "not a PNG, JPEG, WEBP or BMP"),
        (encoded(Image.fromarray(GREY), "GIF"), "not a PNG"),
        (encoded(Image.fromarray(GREY), "TIFF"), "not a PNG"),
        (encoded(Image.fromarray(RGB))[:-30], "truncated or damaged"),
        (encoded(Image.fromarray(RGB))[:-9], "truncated or damaged"),
        (encoded(Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "JPEG")[:-200], "truncated or damaged"),
        (bomb(20_000, 20_000), "bomb"),
        (bomb(5_000, 5_000), "pixels that are decoded"),
        (bytes(MAX_BYTES + 1), "bytes, more than"),
    ],
)
def test_hostile_files_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        read_image(data)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_read_or_refused_with_a_value_error(data):
    original = encoded(Image.fromarray(RGB), data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP"])))
    position = data.draw(st.integers(0, len(original) - 1))
    damaged = bytearray(original)
    damaged[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ValueError):  # anything else would end a screening
        assert read_image(bytes(damaged)).dtype == np.uint8


def test_floats_are_put_on_the_grid_that_files_have():
    batch, _ = to_batch(np.full((2, 2), 100.3 / 255))
    assert torch.equal(batch, torch.full((1, 1, 2, 2), 100) / 255)


def test_damaged_pil_images_are_refused_too():
    image = Image.open(io.BytesIO(encoded(Image.fromarray(np.zeros((64, 64), np.uint8)), "BMP")[:-500]))
    with pytest.raises(ValueError, match="truncated or damaged"):
        to_batch(image)


def test_missing_files_and_folders_are_os_errors(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(OSError, match="is not a file"):
        read_image(tmp_path)


def test_channels_change_only_where_no_colour_is_lost():
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(match_channels(match_channels(grey, 3), 1), grey)
    with pytest.raises(ValueError, match="in colour"):
        match_channels(torch.rand(2, 3, 4, 4), 1)
