"""Image files: what is read, and what is refused as what."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import bomb
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixeldefend.errors import IMAGE_ERROR_KINDS, ImageError
from pixeldefend.images import MAX_BYTES, decode_image, read_image, to_batch

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
RGB = np.stack([GREY, GREY.T, 255 - GREY], -1)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


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


def test_modes_are_converted_without_loss_or_refused_by_name():
    grey = Image.fromarray(GREY)
    assert np.array_equal(read_image(encoded(grey.convert("P"))), np.stack([GREY] * 3, -1))
    assert set(np.unique(read_image(encoded(grey.convert("1"))))) <= {0, 255}
    opaque = Image.fromarray(RGB).convert("RGBA")
    assert np.array_equal(read_image(encoded(opaque)), RGB)
    opaque.putalpha(128)
    for image, file_format in [
        (opaque, "PNG"),
        (Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
    ]:
        assert kind_of(encoded(image, file_format)) == "mode"
    with pytest.raises(ImageError) as caught:
        to_batch(Image.fromarray(GREY.astype(np.uint16) * 257))
    assert caught.value.kind == "mode"


def test_transparent_palette_is_refused_and_an_opaque_one_is_not():
    image = Image.fromarray(GREY).convert("P")
    assert kind_of(encoded(image, transparency=int(np.asarray(image)[0, 0]))) == "mode"


def test_sixteen_bit_rgb_is_refused_rather_than_halved():
    raw = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    assert kind_of(png) == "mode"


def kind_of(data: bytes, read=read_image) -> str:
    """Returns the kind of the error with which a file is refused."""
    with pytest.raises(ImageError) as caught:
        read(data)
    assert caught.value.kind in IMAGE_ERROR_KINDS
    return caught.value.kind


def scans(n: int, size: int = 64) -> bytes:
    """A progressive JPEG with n further scans of a few bytes each, all of them empty."""
    data = encoded(Image.fromarray(np.zeros((size, size), np.uint8)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    length = 2 + int.from_bytes(data[last + 2 : last + 4], "big")
    return data[:-2] + n * (data[last : last + length] + b"\0") + data[-2:]


def test_a_jpeg_of_many_scans_or_segments_is_refused_before_it_is_decoded(monkeypatch):
    assert read_image(scans(0)).shape == (64, 64)
    profile = encoded(Image.fromarray(RGB), "JPEG", icc_profile=b"\xff\xda\xff\xd9" * 500)  # no scans, and no end
    assert read_image(profile).shape == (8, 8, 3)
    hidden = b"\xff\xd8\xff\xe0\0\x04\xff\xd9" + scans(60_000)[2:]  # an end within a segment is none
    empty = b"\xff\xd8" + b"\xff\xef\0\x02" * 2_000_000 + scans(0)[2:]
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("it was opened"))
    for data in (scans(120), scans(60_000), hidden, empty):
        assert kind_of(data) == "too large"


def test_the_size_is_had_without_decoding():
    sizes = []

    def check(height: int, width: int) -> None:
        sizes.append((height, width))
        raise ImageError("not this size", "size")

    for data in (encoded(Image.fromarray(RGB[:4])), bomb(3000, 2000)):  # the pixels of a bomb are not there
        assert kind_of(data, lambda data: decode_image(data, check_size=check)) == "size"
    assert sizes == [(4, 8), (2000, 3000)]
    assert decode_image(encoded(Image.fromarray(RGB)), check_size=lambda height, width: None).frames[0].shape == (
        8,
        8,
        3,
    )
    for data, kind in [(b"", "empty"), (b"text", "format"), (bomb(10_000, 10_000), "too large")]:
        assert kind_of(data, lambda data: decode_image(data, check_size=check)) == kind


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
        assert kind_of(data) == "mode"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"just text", "format"),
        (encoded(Image.fromarray(GREY), "TIFF"), "mode"),
        (encoded(Image.fromarray(RGB))[:-30], "damaged"),
        (encoded(Image.fromarray(RGB))[:-9], "damaged"),
        (encoded(Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "JPEG")[:-200], "damaged"),
        (bomb(20_000, 20_000), "too large"),
        (bomb(10_000, 10_000), "too large"),
        (bytes(MAX_BYTES + 1), "too large"),
    ],
)
def test_hostile_files_are_refused(data, kind):
    assert kind_of(data) == kind


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_read_or_refused_with_an_image_error(data):
    original = encoded(Image.fromarray(RGB), data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP"])))
    position = data.draw(st.integers(0, len(original) - 1))
    damaged = bytearray(original)
    damaged[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ImageError):  # anything else would end a screening
        assert read_image(bytes(damaged)).dtype == np.uint8


def test_damaged_pil_images_are_refused_too():
    image = Image.open(io.BytesIO(encoded(Image.fromarray(np.zeros((64, 64), np.uint8)), "BMP")[:-500]))
    with pytest.raises(ImageError) as caught:
        to_batch(image)
    assert caught.value.kind == "damaged"


def test_missing_files_and_folders_are_os_errors(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png")
    with pytest.raises(OSError, match="it is not a file"):  # the type is that of any failed read
        read_image(tmp_path)
