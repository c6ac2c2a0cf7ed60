"""Whole files pass, and damaged ones do not, whatever Pillow is told to forgive."""

import contextlib
import io
import itertools
import re
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageFile

from pixeldefend.errors import ImageError
from pixeldefend.images import decode_image, read_image
from pixeldefend.images.integrity import (
    MAX_ANIMATION_BYTES,
    MAX_CHUNKS,
    MAX_SCANS,
    MAX_SEGMENTS,
    check_container,
)


def verdict(data: bytes) -> np.ndarray:
    """Returns the pixels of a whole file of at most 256 x 256; raises ImageError for any other."""
    return read_image(data, max_pixels=2**16, frames="first", convert=True)


def kind_of(data: bytes) -> str:
    """Returns the kind of the error with which a file is refused."""
    with pytest.raises(ImageError) as caught:
        verdict(data)
    return caught.value.kind


@pytest.fixture(params=[False, True], ids=["strict", "lenient"], autouse=True)
def switch(request, monkeypatch):
    """Every test here runs with both values of the switch that lets Pillow load truncated images."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)
    return request.param


# A corpus of small files


def picture(seed: int, height: int, width: int, channels: int = 4) -> np.ndarray:
    """Returns smooth stripes with a patch of noise, and with flat parts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 120 * np.sin(x / a + y / b + a) for a, b in rng.uniform(2, 9, (channels, 2))]
    pixels = np.stack(waves, -1)
    pixels[: height // 3, : width // 3] = rng.integers(0, 256, channels)
    pixels[height // 2 :, width // 2 :] += rng.normal(0, 40, pixels[height // 2 :, width // 2 :].shape)
    return pixels.clip(0, 255).astype(np.uint8)


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


SIZES = [(1, 1), (8, 8), (28, 28), (17, 31), (32, 32)]


def jpegs() -> Iterator[bytes]:
    qualities, restarts = (30, 95), ({}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 1})
    for i, (mode, quality, progressive, optimize, restart, subsampling) in enumerate(
        product(("L", "RGB", "CMYK"), qualities, (False, True), (False, True), restarts, (0, 1, 2))
    ):
        if mode == "RGB" or subsampling == 0:
            image = Image.fromarray(picture(i, *SIZES[i % 5])).convert("RGB").convert(mode)
            options = {"subsampling": subsampling} if mode == "RGB" else {}
            yield saved(
                image, "JPEG", quality=quality, progressive=progressive, optimize=optimize, **restart, **options
            )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, interlaced: int, raw: bytes, *before: bytes) -> bytes:
    """Returns a PNG of given rows, with other chunks before its data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    packed = zlib.compress(raw)
    data = [chunk(b"IDAT", packed[i : i + 100]) for i in range(0, len(packed), 100)]
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *before, *data, chunk(b"IEND", b"")])


def interlaced_rows(width: int, height: int, bits: int, seed: int) -> bytes:
    """Returns random rows of the seven passes of a PNG, each behind its filter."""
    rng, rows = np.random.default_rng(seed), []
    for x, y, across, down in [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]:
        length = (len(range(x, width, across)) * bits + 7) // 8
        rows += [bytes([i % 5]) + rng.bytes(length) for i in range(len(range(y, height, down))) if length]
    return b"".join(rows)


def pngs() -> Iterator[bytes]:
    for i, (mode, size) in enumerate(product(("1", "L", "LA", "P", "RGB", "RGBA"), SIZES)):
        image = Image.fromarray(picture(i, *size)).convert("RGB").convert(mode)
        yield saved(image, "PNG", compress_level=i % 10)
        yield saved(image, "PNG", optimize=True)
        yield saved(image, "PNG", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)] * (i % 3))
    for i, size in enumerate(SIZES):
        yield saved(Image.fromarray(picture(i, *size, 1)[:, :, 0].astype(np.uint16) * 257), "PNG")
        for depth, colour, samples in [
            (1, 0, 1),
            (2, 0, 1),
            (4, 0, 1),
            (8, 0, 1),
            (16, 0, 1),
            (8, 2, 3),
            (16, 2, 3),
            (8, 4, 2),
            (8, 6, 4),
            (16, 6, 4),
        ]:
            yield png(size[1], size[0], depth, colour, 1, interlaced_rows(size[1], size[0], depth * samples, i))


def webps() -> Iterator[bytes]:
    for i, (mode, size) in enumerate(product(("RGB", "RGBA"), SIZES)):
        image = Image.fromarray(picture(i, *size)).convert(mode)
        yield saved(image, "WEBP", lossless=True)
        for quality in (10, 80):
            yield saved(image, "WEBP", quality=quality)
        yield saved(image, "WEBP", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)])


def runs(width: int, height: int, packed: bool) -> bytes:
    """Returns a BMP of run lengths: a run, pixels, and a jump to the end of the row, for each row."""
    rows = b""
    for _ in range(height):
        rows += bytes([4, 0x12, 0, 3, 1, 2] + ([] if packed else [3, 0]) + [0, 2, width - 7, 0, 0, 0])
    palette = bytes(range(64)) if packed else bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 4 if packed else 8, 2 if packed else 1, 0, 0, 0, 0, 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIII", b"BM", start + len(rows) + 2, 0, start) + header + palette + rows + b"\0\1"


def bmps() -> Iterator[bytes]:
    for i, (mode, size) in enumerate(product(("1", "L", "P", "RGB", "RGBA"), SIZES)):
        data = saved(Image.fromarray(picture(i, *size)).convert("RGB").convert(mode), "BMP")
        yield data
        yield data[:22] + struct.pack("<i", -size[0]) + data[26:]  # its rows from the top
    for packed in (False, True):
        yield runs(20, 9, packed)


def gifs() -> Iterator[bytes]:
    for i, (mode, size) in enumerate(product(("1", "L", "P", "RGB"), SIZES)):
        image = Image.fromarray(picture(i, *size)).convert("RGB").convert(mode)
        yield saved(image, "GIF", interlace=i % 2)
        yield saved(image, "GIF", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)] * (i % 3))


CORPUS = [*jpegs(), *pngs(), *webps(), *bmps(), *gifs()]


def test_whole_files_pass_and_keep_their_pixels():
    assert len(CORPUS) > 300
    for data in CORPUS:
        decoded = decode_image(data, frames="first", convert=True)
        (pixels,) = decoded.frames
        with Image.open(io.BytesIO(data)) as image:
            assert pixels.shape[:2] == (image.height, image.width)
            if decoded.conversion is None:
                assert np.array_equal(pixels, np.asarray(image.convert("L" if pixels.ndim == 2 else "RGB")))


def test_what_follows_the_end_is_ignored():
    for data in CORPUS[::7]:
        for rest in (b"\0", b"\xff\xd9", data):
            assert np.array_equal(verdict(data + rest), verdict(data))


def test_no_cut_gets_a_verdict():
    rng = np.random.default_rng(1)
    for data in CORPUS:
        for length in {*rng.integers(2, len(data), 15), len(data) - 1, len(data) - 2}:
            kind_of(data[: int(length)])


def test_no_flipped_bit_of_a_png_gets_a_verdict():
    rng = np.random.default_rng(2)
    for data in pngs():
        for bit in rng.integers(0, 8 * len(data), 40):
            kind_of(flipped(data, int(bit)))


def test_a_flipped_bit_of_another_format_is_found_or_decodes_whole():
    rng = np.random.default_rng(3)
    for data in [*jpegs(), *webps(), *bmps(), *gifs()]:
        for bit in rng.integers(0, 8 * len(data), 5):
            with contextlib.suppress(ImageError):  # any other error would end a screening
                assert verdict(flipped(data, int(bit))).dtype == np.uint8


def flipped(data: bytes, bit: int) -> bytes:
    """Returns the data with another bit."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# JPEG


def test_a_jpeg_whose_data_end_early_gets_no_verdict_even_with_an_end_marker():
    rng = np.random.default_rng(4)
    for data in jpegs():
        whole = verdict(data)
        for length in [*rng.integers(2, len(data) - 2, 4), len(data) - 4, len(data) - 3]:
            passes_only_with(whole, data[: int(length)] + EOI)


def test_the_data_between_restart_markers_may_not_end_early_either():
    rng = np.random.default_rng(5)
    for data in jpegs():
        whole, marks = verdict(data), [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)]
        for place in rng.choice(marks, min(len(marks), 3), replace=False):
            for n in (1, 2):
                if data[place - n] != 0xFF and data[place - n - 1] != 0xFF:  # not a marker, and not half of a pair
                    passes_only_with(whole, data[: place - n] + data[place:])


def passes_only_with(whole: np.ndarray, data: bytes) -> None:
    """Checks that a file is refused, unless what is missing changes no pixel."""
    with contextlib.suppress(ImageError):
        assert np.array_equal(verdict(data), whole)


SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def pieces(data: bytes) -> list[bytes]:
    """Splits a JPEG at its markers, those of restarts included, and leaves out its two ends."""
    places = [found.start() for found in re.finditer(rb"\xff[^\x00\xff]", data)]
    return [data[a:b] for a, b in itertools.pairwise(places)][1:]


def joined(parts: list[bytes]) -> bytes:
    return b"".join([SOI, *parts, EOI])


IMAGE = Image.fromarray(picture(0, 20, 36, 3))
PLAIN = pieces(saved(IMAGE, "JPEG", optimize=True))
PROGRESSIVE = pieces(saved(IMAGE, "JPEG", progressive=True))
RESTARTED = pieces(saved(IMAGE, "JPEG", restart_marker_blocks=1))
STANDARD = pieces(saved(IMAGE, "JPEG"))  # with the standard Huffman tables


def without(parts: list[bytes], marker: int, which: slice = slice(None)) -> bytes:
    """Returns a JPEG without some of the parts that begin with a marker."""
    left_out = [i for i, part in enumerate(parts) if part[1] == marker][which]
    return joined([part for i, part in enumerate(parts) if i not in left_out])


def in_front_of_scan(parts: list[bytes], *more: bytes) -> bytes:
    place = next(i for i, part in enumerate(parts) if part[1] == 0xDA)
    return joined([*parts[:place], *more, *parts[place:]])


def renamed(part: bytes) -> bytes:
    """Returns a part of a JPEG with one name for all components."""
    start, step = {0xC0: (10, 3), 0xDA: (5, 2)}.get(part[1], (0, 0))
    renamed = bytearray(part)
    for i in range(3 if start else 0):
        renamed[start + step * i] = 1
    return bytes(renamed)


@pytest.mark.parametrize(
    ("data", "like"),
    [
        (joined([*PLAIN, b"\0" * 30]), PLAIN),  # cameras fill up the last sector
        (b"".join([SOI, *(b"\xff" * i + part for i, part in enumerate(PLAIN)), b"\xff" * 9, EOI]), PLAIN),
        (b"".join([SOI, *(b"\xff" * i + part for i, part in enumerate(RESTARTED)), b"\xff" * 9, EOI]), RESTARTED),
        (joined([*RESTARTED, bytes([0xFF, 0xD0 + (RESTARTED[-1][1] + 1) % 8])]), RESTARTED),  # as some cameras end
        (in_front_of_scan(PLAIN, b"\xff\xe1\0\x08" + EOI + SOI + b"\xff\xda"), PLAIN),  # a thumbnail
        (joined(PLAIN).replace(b"\xff\xc0", b"\xff\xc1"), PLAIN),
        (joined([*map(renamed, PLAIN)]), PLAIN),
        (without(STANDARD, 0xC4), STANDARD),  # a frame of motion JPEG
        (joined(PLAIN) + joined(STANDARD), PLAIN),  # MPO
    ],
    ids=[
        "padded",
        "filled",
        "filled restarts",
        "last restart",
        "thumbnail",
        "sequential",
        "names",
        "motion JPEG",
        "MPO",
    ],
)
def test_what_real_encoders_write_passes(data, like):
    assert np.array_equal(verdict(data), verdict(joined(like)))


@pytest.mark.parametrize(
    "data",
    [
        SOI + EOI,
        without(PLAIN, 0xC0),
        without(PLAIN, 0xDA),
        without(PLAIN, 0xDB),  # libjpeg finds this one
        without(PLAIN, 0xC4, slice(1)),  # and would take the standard table for this one
        without(PROGRESSIVE, 0xC4),
        *(without(PROGRESSIVE, 0xDA, slice(i, i + 1)) for i in range(10)),
        without(PROGRESSIVE, 0xDA, slice(1, None)),
        joined([*PROGRESSIVE, PROGRESSIVE[-1]]),
        without(RESTARTED, 0xD1, slice(1)),
        without(RESTARTED, 0xDD),
        joined([*RESTARTED, b"\xff\xd0"]),
        joined([*RESTARTED[:-1], RESTARTED[-2], RESTARTED[-1]]),
        joined([*RESTARTED[:-2], RESTARTED[-1], RESTARTED[-2]]),
        joined([*PLAIN, b"\xff\xd0"]),
        in_front_of_scan(PLAIN, b"junk"),
        in_front_of_scan(PLAIN, *(part for part in PLAIN if part[1] == 0xC0)),
        in_front_of_scan(PLAIN, b"\xff\x02\0\x02"),
        in_front_of_scan(PLAIN, SOI),
        in_front_of_scan(PLAIN, b"\xff\xe1\0\0"),
    ],
)
def test_a_jpeg_that_lacks_a_part_or_has_a_wrong_one_is_damaged(data):
    assert kind_of(data) == "damaged"


def test_jpegs_whose_end_cannot_be_told_are_not_screened():
    for marker in (0xC3, 0xC9, 0xCA):
        assert kind_of(joined(PLAIN).replace(b"\xff\xc0", bytes([0xFF, marker]))) == "format"


def test_the_limits_of_a_jpeg():
    assert kind_of(joined([*PROGRESSIVE, *[PROGRESSIVE[-1]] * MAX_SCANS])) == "too large"
    assert kind_of(in_front_of_scan(PLAIN, *[b"\xff\xe1\0\x02"] * MAX_SEGMENTS)) == "too large"
    assert verdict(in_front_of_scan(PLAIN, *[b"\xff\xe1\0\x02"] * 1000)).shape == (20, 36, 3)


# PNG

END = chunk(b"IEND", b"")
ROWS = bytes(5 * 5)  # of a grey image of 4 x 5: a filter and four pixels, five times over


def grey(*chunks: bytes, size: tuple[int, int] = (4, 5)) -> bytes:
    """Returns a grey PNG of given chunks after its header."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)) + b"".join(chunks)


def idat(raw: bytes = ROWS, rest: bytes = b"") -> bytes:
    return chunk(b"IDAT", zlib.compress(raw) + rest)


def frame(sequence: int, *box: int) -> bytes:
    """Returns the chunk that begins a frame: width, height, left and top."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, *box, 1, 10, 0, 0))


def fdat(sequence: int, raw: bytes) -> bytes:
    return chunk(b"fdAT", struct.pack(">I", sequence) + zlib.compress(raw))


TWO, FIRST = chunk(b"acTL", struct.pack(">II", 2, 0)), frame(0, 4, 5, 0, 0)
PACKED = zlib.compress(ROWS)


@pytest.mark.parametrize(
    "data",
    [
        grey(idat(), END),
        grey(idat(rest=b"more"), END),  # behind the checksum of the data
        grey(chunk(b"IDAT", b""), *(chunk(b"IDAT", PACKED[i : i + 1]) for i in range(len(PACKED))), END),
        grey(TWO, FIRST, idat(), frame(1, 2, 3, 2, 2), fdat(2, bytes(3 * 3)), END),
        grey(TWO, idat(), frame(0, 4, 5, 0, 0), fdat(1, ROWS), frame(2, 1, 1, 0, 0), fdat(3, bytes(2)), END),
        grey(FIRST, TWO, idat(), frame(1, 4, 5, 0, 0), fdat(2, ROWS), END),
    ],
)
def test_a_whole_png_passes(data):
    check_container(data, "PNG")


@pytest.mark.parametrize(
    "data",
    [
        grey(idat()),
        grey(END),
        grey(END)[:8] + END,
        grey(chunk(b"IDAT", b""), END),
        grey(idat(), END)[:-1],
        grey(idat(), chunk(b"tEXt", b"a\0b")[:-1] + b"!", END),
        grey(chunk(b"tEXt", b"a\0b")[:-1] + b"!", idat(), END),
        grey(idat(ROWS[1:]), END),
        grey(idat(ROWS + b"\0"), END),
        grey(idat(b"\5" + ROWS[1:]), END),
        grey(idat(ROWS[:20] + b"\5" + ROWS[21:]), END),
        grey(chunk(b"IDAT", PACKED[:-1] + b"!"), END),
        grey(chunk(b"IDAT", PACKED[:-1]), END),
        grey(chunk(b"IDAT", PACKED[:8]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", PACKED[8:]), END),
        grey(grey()[8:], idat(), END),
        grey(idat(), grey()[8:], END),
        b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"a\0b") + grey(idat(), END)[8:],
        b"\x89PNG\n\x1a\n" + grey(idat(), END)[8:],
        grey(idat(b""), END, size=(0, 5)),
        png(4, 5, 3, 0, 0, ROWS),
        png(4, 5, 8, 1, 0, ROWS),
        png(4, 5, 8, 0, 2, interlaced_rows(4, 5, 8, 0)),
        png(5, 5, 8, 0, 1, interlaced_rows(5, 5, 8, 0)[:-1]),
        png(5, 5, 8, 0, 1, interlaced_rows(5, 5, 8, 0)[:-6] + b"\7" + bytes(5)),
        grey(TWO, FIRST, idat(), END),
        grey(TWO, FIRST, idat(), frame(1, 2, 3, 2, 2), END),
        grey(TWO, FIRST, idat(), frame(1, 2, 3, 2, 2), fdat(2, bytes(8)), END),
        grey(TWO, FIRST, idat(), frame(1, 2, 3, 2, 2), fdat(3, bytes(9)), END),
        grey(TWO, FIRST, idat(), frame(2, 2, 3, 2, 2), fdat(3, bytes(9)), END),
        grey(TWO, FIRST, idat(), frame(1, 2, 3, 2, 3), fdat(2, bytes(9)), END),
        grey(TWO, FIRST, idat(), frame(1, 0, 3, 2, 2), fdat(2, bytes(9)), END),
        grey(TWO, frame(0, 2, 3, 2, 2), idat(), frame(1, 2, 3, 2, 2), fdat(2, bytes(9)), END),
        grey(TWO, FIRST, fdat(1, ROWS), idat(), END),
        grey(TWO, FIRST, idat(), fdat(1, ROWS), END),
        grey(idat(), FIRST, fdat(1, ROWS), END),
    ],
)
def test_a_png_that_breaks_a_rule_is_damaged(data):
    assert kind_of(data) == "damaged"


def test_a_png_is_never_decompressed_beyond_its_size():
    bomb = grey(idat(bytes(2**25)), END)
    tracemalloc.start()
    try:
        assert kind_of(bomb) == "damaged"
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_the_limits_of_a_png():
    assert kind_of(grey(*[chunk(b"tEXt", b"")] * MAX_CHUNKS, idat(), END)) == "too large"
    side = 2**14
    frames = [frame(2 * i, side, side, 0, 0) + fdat(2 * i + 1, b"") for i in range(MAX_ANIMATION_BYTES // side**2 + 1)]
    count = chunk(b"acTL", struct.pack(">II", len(frames), 0))
    assert kind_of(grey(count, idat(), *frames, END, size=(side, side))) == "too large"
    high = 2**20  # each row has one bit of pixels, and a byte for its filter
    frames = [frame(2 * i, 1, high, 0, 0) + fdat(2 * i + 1, b"") for i in range(MAX_ANIMATION_BYTES // (2 * high) + 1)]
    count = chunk(b"acTL", struct.pack(">II", len(frames), 0))
    assert kind_of(grey(count, idat(), *frames, END, size=(1, high))) == "too large"


# WebP, BMP and GIF


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


WEBP = saved(IMAGE, "WEBP")
VP8 = WEBP[20 : 20 + int.from_bytes(WEBP[16:20], "little")]


def test_a_webp_has_all_its_chunks():
    assert np.array_equal(verdict(riff((b"VP8 ", VP8))), verdict(WEBP))
    for data in [
        riff((b"VP8 ", VP8), size=len(VP8) + 13),
        riff((b"VP8 ", VP8), size=len(VP8) + 11),
        riff((b"VP8 ", VP8), (b"EXIF", b"abc"))[:-1],
        riff((b"VP8 ", VP8), (b"EXIF", b"abc"))[:-4],
        riff((b"EXIF", b"abcd")),
        riff((b"VP8 ", VP8[:100])),  # libwebp finds this one
        riff((b"VP8 ", VP8[:-20])),
        riff(*[(b"EXIF", b"")] * 10, (b"VP8 ", b"")),
    ]:
        assert kind_of(data) == "damaged"
    assert kind_of(riff((b"VP8 ", VP8), *[(b"NONE", b"")] * MAX_CHUNKS)) == "too large"


def bmp(bits: int, compression: int, rows: bytes, *, size: int = 40, palette: bytes = b"", start: int = -1) -> bytes:
    """Returns a BMP of 5 x 3."""
    if size == 12:
        header = struct.pack("<IHHHH", 12, 5, 3, 1, bits)
    else:
        header = struct.pack("<IiiHHIIiiII", size, 5, 3, 1, bits, compression, 0, 0, 0, 0, 0)
        header += bytes(max(0, size - 40))
    head = header + palette
    return struct.pack("<2sIII", b"BM", 0, 0, 14 + len(head) if start < 0 else start) + head + rows


MASKS = struct.pack("<III", 0xF800, 0x7E0, 0x1F)


@pytest.mark.parametrize(
    "data",
    [
        bmp(24, 0, bytes(16 * 3)),
        bmp(24, 0, bytes(16 * 3), start=0),
        bmp(24, 0, bytes(16 * 3), size=12),
        bmp(32, 0, bytes(20 * 3), size=124),
        bmp(16, 3, bytes(12 * 3), palette=MASKS),
        bmp(16, 3, bytes(12 * 3), palette=MASKS, start=0),
        bmp(8, 0, bytes(8 * 3), palette=bytes(1024)),
        bmp(8, 0, bytes(8 * 3), palette=bytes(1024), start=54),  # as if there were no palette
        bmp(8, 0, bytes(8 * 3), palette=bytes(768), size=12),
        bmp(1, 0, bytes(4 * 3), palette=bytes(8)),
        bmp(8, 1, b"\5\1\0\0\5\1\0\0\5\1", palette=bytes(1024)),  # no end marker, but all rows
        bmp(8, 1, b"\7\1\0\0\7\1\0\0\7\1\0\0\0\1", palette=bytes(1024)),  # ImageMagick wrote longer runs
    ],
)
def test_a_bmp_has_all_its_rows(data):
    verdict(data)
    for n in (1, 2, 5):
        assert kind_of(data[:-n] if data[30] != 1 else data.removesuffix(b"\0\0\0\1")[:-n]) == "damaged"
    longer = data[:2] + struct.pack("<I", len(data) + 1) + data[6:]
    assert kind_of(longer) == "damaged"


def test_run_lengths_of_a_bmp_are_bounded():
    assert kind_of(bmp(8, 1, b"\0\0" * 2**22, palette=bytes(1024))) == "too large"


def gif(*blocks: bytes, canvas: tuple[int, int] = (4, 4)) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + bytes(6) + b"".join(blocks)


def lzw(*codes: int) -> bytes:
    """Returns the data of a frame whose codes have 3 bits, as they have while clear codes forbid longer ones."""
    bits = sum(code << 3 * i for i, code in enumerate(codes))
    data = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    return bytes([2, len(data)]) + data + b"\0"


def gif_frame(*codes: int, box: tuple[int, int, int, int] = (0, 0, 4, 4)) -> bytes:
    return b"," + struct.pack("<HHHHB", *box, 0) + lzw(*codes)


CLEAR, LAST = 4, 5
FULL = gif_frame(*[CLEAR, 0] * 16, LAST)
COMMENT = b"!\xfe\3abc\0"


def test_a_gif_has_all_pixels_of_all_frames():
    small = gif_frame(CLEAR, 1, LAST, box=(3, 3, 1, 1))
    for data in [gif(FULL, b";"), gif(COMMENT, FULL, COMMENT, small, b";rest"), gif(FULL, b";", canvas=(1, 1))]:
        check_container(data, "GIF")
        assert verdict(data).shape[:2] == (4, 4)
    for data in [
        gif(b";"),
        gif(FULL),
        gif(FULL, b"\0;"),
        gif(FULL, COMMENT),
        gif(FULL, COMMENT[:-1]),
        gif(FULL[:-1], b";"),
        gif(FULL, FULL[:-1] + b";"),
        gif(gif_frame(*[CLEAR, 0] * 15, LAST), b";"),
        gif(gif_frame(*[CLEAR, 0] * 13), b";"),
        gif(gif_frame(CLEAR, 0, 7), b";"),  # a code that is not yet defined
        gif(FULL, gif_frame(CLEAR, 1, LAST, box=(4, 3, 1, 1)), b";"),
        gif(FULL, gif_frame(LAST, box=(3, 3, 1, 1)), b";"),
    ]:
        assert kind_of(data) == "damaged"


def test_the_limits_of_a_gif():
    for data in [
        gif(*[COMMENT] * MAX_CHUNKS, FULL, b";"),
        gif(FULL, *[gif_frame(LAST, box=(0, 0, 2**15, 2**15 + 1))], b";", canvas=(2**16 - 1, 2**16 - 1)),
    ]:
        assert kind_of(data) == "too large"
