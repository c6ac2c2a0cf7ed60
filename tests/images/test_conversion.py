"""Formats and modes that are refused by name, or converted as stated."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile

from pixeldefend.errors import ImageError, MissingExtraError, ParameterError
from pixeldefend.images import MAX_FRAMES, decode_image, read_image, to_batch

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
RGB = np.stack([GREY, GREY.T, 255 - GREY], -1)
DEEP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1021


def encoded(image: Image.Image | np.ndarray, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def translucent(alpha: int) -> Image.Image:
    image = Image.fromarray(RGB)
    image.putalpha(alpha)
    return image


def deep_png(colour_type: int, channels: int) -> bytes:
    """A PNG with 16 bits a channel, which Pillow cannot write in colour."""
    import zlib

    values = np.arange(8 * 8 * channels, dtype=">u2").reshape(8, -1) * 257
    raw = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, colour_type, 0, 0, 0)), (b"IDAT", zlib.compress(raw))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [*chunks, (b"IEND", b"")]
    )


def bmp_565() -> bytes:
    pixels = np.arange(64, dtype="<u2") * 1021
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 16, 0, 128, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 128, 0, 0, 54) + header + pixels.tobytes()


def pages(*images: np.ndarray, file_format: str, **options) -> bytes:
    first, *others = map(Image.fromarray, images)
    return encoded(first, file_format, save_all=True, append_images=others, **options)


REFUSED = {  # what a file is -> the file, the words of the refusal, the words of the conversion
    "translucent": (encoded(translucent(128)), "translucent", "transparency flattened onto white"),
    "CMYK": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "CMYK", "CMYK to RGB"),
    "16-bit grey": (encoded(DEEP), "16-bit grey", "16-bit grey to 8 bits"),
    "16-bit colour": (deep_png(2, 3), "16-bit colour", "16-bit colour to 8 bits"),
    "16-bit translucent": (
        deep_png(6, 4),
        "16-bit colour",
        "16-bit colour to 8 bits; transparency flattened onto white",
    ),
    "16-bit BMP": (bmp_565(), "a BMP with 5 or 6 bits", "16-bit colour (a BMP with 5 or 6 bits for each) to 8 bits"),
    "TIFF": (encoded(RGB, "TIFF"), "TIFF", "TIFF decoded to 8 bits"),
    "16-bit TIFF": (encoded(DEEP, "TIFF"), "TIFF", "TIFF decoded to 8 bits; 16-bit grey to 8 bits"),
    "AVIF": (encoded(RGB, "AVIF"), "AVIF", "AVIF decoded to 8 bits"),
}


@pytest.mark.parametrize(("data", "words", "conversion"), REFUSED.values(), ids=REFUSED)
def test_an_image_that_needs_a_conversion_is_refused_by_name_or_converted(data, words, conversion):
    with pytest.raises(ImageError) as refused:
        read_image(data)
    assert words in str(refused.value)
    assert refused.value.kind == "mode"
    decoded = decode_image(data, convert=True)
    assert decoded.conversion == conversion
    assert decoded.frames[0].dtype == np.uint8


def test_the_conversions_are_those_that_are_stated():
    assert np.array_equal(read_image(encoded(DEEP), convert=True), DEEP >> 8)
    assert np.array_equal(read_image(encoded(DEEP, "TIFF"), convert=True), DEEP >> 8)
    assert np.array_equal(read_image(deep_png(2, 3), convert=True), np.arange(192).reshape(8, 8, 3))
    flat = read_image(encoded(translucent(51)), convert=True)
    assert np.abs(flat.astype(int) - np.round(255 - 0.2 * (255 - RGB.astype(float)))).max() <= 1
    assert (read_image(encoded(translucent(0)), convert=True) == 255).all()
    cmyk = Image.fromarray(RGB).convert("CMYK")
    assert np.array_equal(read_image(encoded(cmyk, "TIFF"), convert=True), np.asarray(cmyk.convert("RGB")))
    transparent = encoded(Image.fromarray(DEEP), transparency=int(DEEP[2, 3]))
    expected = DEEP >> 8
    expected[2, 3] = 255
    assert np.array_equal(read_image(transparent, convert=True), expected)


def test_what_has_no_conversion_is_refused_all_the_same():
    for image in (np.ones((8, 8), np.float32), np.ones((8, 8), np.int32)):
        with pytest.raises(ImageError, match=r"mode [IF]") as refused:
            read_image(encoded(image, "TIFF"), convert=True)
        assert refused.value.kind == "mode"


def test_heic(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    big = np.kron(RGB, np.ones((8, 8, 1), np.uint8))
    pillow_heif.from_pillow(Image.fromarray(big)).save(buffer, quality=90)
    data = buffer.getvalue()
    with pytest.raises(ImageError, match="HEIC"):
        read_image(data)
    decoded = decode_image(data, convert=True)
    assert decoded.frames[0].shape == (64, 64, 3)
    assert decoded.conversion == "HEIC decoded to 8 bits"
    assert np.abs(decoded.frames[0].astype(int) - big).mean() < 16
    for cut in (40, len(data) // 2, len(data) - 1):
        with pytest.raises(ImageError):
            read_image(data[:cut], convert=True)
    with pytest.raises(ImageError) as refused:
        read_image(data, convert=True, max_pixels=1000)
    assert refused.value.kind == "too large"
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(MissingExtraError, match=r"pixeldefend\[heic\]"):
        read_image(data, convert=True)


ANIMATED = {
    "GIF": pages(GREY, 255 - GREY, GREY.T, file_format="GIF"),
    "APNG": pages(RGB, 255 - RGB, RGB[::-1].copy(), file_format="PNG"),
    "WebP": pages(RGB, 255 - RGB, RGB[::-1].copy(), file_format="WEBP", lossless=True),
}


@pytest.mark.parametrize("data", ANIMATED.values(), ids=ANIMATED)
def test_the_frames_of_an_animation_are_refused_or_decoded(data):
    with pytest.raises(ImageError, match="3 frames") as refused:
        read_image(data)
    assert refused.value.kind == "mode"
    first, every = decode_image(data, frames="first"), decode_image(data, frames="all")
    assert len(first.frames) == 1
    assert len(every.frames) == 3
    assert np.array_equal(first.frames[0], every.frames[0])
    colour = every.frames[0] if every.frames[0].ndim == 3 else np.stack([every.frames[0]] * 3, -1)
    expected = RGB if data != ANIMATED["GIF"] else np.stack([GREY] * 3, -1)
    assert np.array_equal(colour, expected)
    assert np.array_equal(every.frames[1], 255 - expected)
    assert every.conversion is None
    with pytest.raises(ImageError) as refused:
        decode_image(data, frames="all", max_pixels=100)  # one frame has 64
    assert refused.value.kind == "too large"


def test_a_bound_on_frames():
    many = [np.full((2, 2), i % 256, np.uint8) for i in range(MAX_FRAMES + 1)]
    data = pages(*many, file_format="GIF")
    assert len(decode_image(data, frames="first").frames) == 1
    with pytest.raises(ImageError, match=str(MAX_FRAMES)) as refused:
        decode_image(data, frames="all")
    assert refused.value.kind == "too large"
    with pytest.raises(ParameterError, match="last"):
        decode_image(data, frames="last")


def test_still_gif_images_are_screened_and_the_pages_of_a_tiff_are_like_frames():
    assert np.array_equal(read_image(encoded(GREY, "GIF")), np.stack([GREY] * 3, -1))
    two = pages(GREY, GREY.T, file_format="TIFF")
    with pytest.raises(ImageError, match="2 pages"):
        read_image(two, convert=True)
    assert np.array_equal(decode_image(two, convert=True, frames="all").frames[1], GREY.T)


def test_the_first_picture_of_an_mpo_file_is_read():
    alone = encoded(RGB, "JPEG", quality=95)
    both = pages(RGB, 255 - RGB, file_format="MPO", quality=95)
    assert np.array_equal(read_image(both), read_image(alone))
    with Image.open(io.BytesIO(both)) as image:
        assert image.format == "MPO"
        assert np.allclose(to_batch(image)[0], to_batch(alone)[0])


def test_metadata_do_not_decide_whether_an_image_is_read():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    block = exif.tobytes()
    odd = block[:8] + b"\xff\xff" + block[10:]  # far more entries than there are
    for file_format, options in [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})]:
        plain = encoded(RGB[:4], file_format, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(
                read_image(encoded(RGB[:4], file_format, exif=block, **options)), np.rot90(read_image(plain), -1)
            )
            for broken in (odd, block[:20], b"Exif\0\0", b"Exif\0\0II*\0" + b"\xff" * 8):
                assert read_image(encoded(RGB[:4], file_format, exif=broken, **options)).dtype == np.uint8


def test_every_exif_orientation_is_that_of_pillow():
    from PIL import ImageOps

    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        block = exif.tobytes()
        if orientation == 6:  # as a number of 4 bytes, of the other order
            entry = struct.pack(">HHII", 0x0112, 4, 1, orientation)
            block = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
        data = encoded(RGB[:4], exif=block)
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(read_image(data), np.asarray(ImageOps.exif_transpose(image)))


def test_pillows_switches_change_nothing(monkeypatch):
    whole = {f: encoded(np.kron(RGB, np.ones((4, 4, 1), np.uint8)), f) for f in ("PNG", "JPEG", "BMP", "GIF", "TIFF")}
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for limit in (None, 10):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for file_format, data in whole.items():
            if limit is not None and file_format in ("GIF", "TIFF"):  # Pillow applies a limit that the user has set
                continue
            assert read_image(data, convert=True).shape == (32, 32, 3)
            with pytest.raises(ImageError) as refused:
                read_image(data, convert=True, max_pixels=1000)
            assert refused.value.kind == "too large"
            for cut in (len(data) // 2, len(data) - 40):
                with pytest.raises(ImageError):
                    read_image(data[:cut], convert=True)


def test_the_pages_of_a_tiff_share_the_limits():
    small, large = Image.fromarray(GREY[:1, :1]), Image.fromarray(GREY)
    data = encoded(small, "TIFF", save_all=True, append_images=[large] * 3)
    assert len(decode_image(data, frames="all", convert=True, max_pixels=3 * GREY.size + 1).frames) == 4
    with pytest.raises(ImageError, match="together") as caught:
        decode_image(data, frames="all", convert=True, max_pixels=3 * GREY.size)
    assert caught.value.kind == "too large"
    many = encoded(small, "TIFF", save_all=True, append_images=[small] * MAX_FRAMES)
    for frames in (None, "all"):
        with pytest.raises(ImageError, match="more than") as caught:
            decode_image(many, frames=frames, convert=True)
        assert caught.value.kind == "too large"
    assert len(decode_image(many, frames="first", convert=True).frames) == 1


@pytest.mark.parametrize("lenient", [False, True])
def test_a_tiff_that_lacks_pixels_is_damaged(monkeypatch, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    strips, rows, lengths = 273, 278, 279
    whole = encoded(Image.fromarray(GREY), "TIFF")
    tags = Image.open(io.BytesIO(whole)).tag_v2

    def with_tag(tag: int, value: int) -> bytes:
        place = whole.index(struct.pack("<HHI", tag, tags.tagtype[tag], 1)) + 8
        return whole[:place] + struct.pack("<I", value) + whole[place + 4 :]

    read_image(whole, convert=True)
    for data in (with_tag(rows, GREY.shape[0] // 2), with_tag(lengths, 1)[: tags[strips][0] + GREY.size - 1]):
        with pytest.raises(ImageError) as caught:
            read_image(data, convert=True)
        assert caught.value.kind == "damaged"
