"""Hostile files and trees through local screening, Ray and the service: one record each, and the same verdicts.

    python benchmarks/hostile.py [--files 10000] [--keep FOLDER]

The files are images of six formats with random flips, cuts, insertions and repetitions, decompression bombs, files that
only begin like images, and clean and attacked examples. Their names hold control characters, invalid UTF-8, formulas,
patterns and 255 bytes; their folders hold links, loops, pipes and sockets. Each engine runs as a process. Writes
results/hostile.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixeldefend.screening.records import to_storable

HERE = Path(__file__).parent
ROOT = HERE.parent
COMMAND = Path(sys.executable).parent / "pixeldefend"
SAMPLE = ROOT / "tests" / "data" / "fashion_mnist_test_500.npz"
LONGEST = 3600  # seconds that an engine may take: beyond it, it hangs
CLIENTS = 8

NAMES = [  # each is completed by a number, so that no two are equal
    b"plain-%d.png", b".hidden-%d.png", b"_MG_%d.jpg", b"a b %d.png", b"what?%d.png", b"star*%d.png", b"[%d].png",
    b"50%%20%d.png", b"a#%d.png", b"a;b-%d.png", b"line\nbreak-%d.png", b"\x1b[31mred-%d.png", b"\xff\xfe-%d.png",
    b"=cmd|' -C calc'!A%d.png", b"-rf%d.png", b"no-extension-%d", b"%d.parquet", b"UPPER-%d.PNG", b"'quoted'-%d.jpeg",
    "喜-%d.png".encode(), "\U0001f600-%d.webp".encode(), "\u202egnp.%d.png".encode(), b"x" * 240 + b"-%d.png",
    b"http:--a-%d.png", b"text-%d.txt", b"a,b,\"%d\".bmp", b"tab\t%d.png", b"%d.tar.gz", b"~%d", b"$(touch x)%d.png",
]  # fmt: skip


def encoded(image: np.ndarray, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bombs(draw: np.random.Generator) -> bytes:
    """A small file that claims, or inflates to, far more than it should."""
    size = int(draw.choice([28, 5000, 30000, 2**31 - 1]))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0))
    kind = draw.integers(6)
    if kind == 0:
        inflated = zlib.compress(bytes(2**22), 9)
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", inflated) + chunk(b"IEND", b"")
    if kind == 1:
        text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**22), 9))
        return b"\x89PNG\r\n\x1a\n" + header + text + chunk(b"IEND", b"")
    if kind == 2:
        empty = chunk(b"tEXt", b"") * int(draw.integers(2000))
        return b"\x89PNG\r\n\x1a\n" + header + empty + chunk(b"IEND", b"")
    if kind == 3:  # scans of a progressive JPEG
        data = encoded(np.zeros((28, 28), np.uint8), "JPEG", progressive=True)
        last = data.rindex(b"\xff\xda")
        length = 2 + int.from_bytes(data[last + 2 : last + 4], "big")
        return data[:-2] + int(draw.integers(2000)) * (data[last : last + length] + b"\0") + data[-2:]
    if kind == 4:
        return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, size, size, 1, 24, 0, 0, 0, 0, 0, 0)
    frames = [Image.fromarray(np.full((28, 28), i % 256, np.uint8)) for i in range(int(draw.integers(2, 300)))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    kind, place = draw.integers(6), int(draw.integers(len(data)))
    if kind == 0:
        changed = bytearray(data)
        for _ in range(int(draw.choice([1, 1, 1, 5, 50]))):
            changed[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
        return bytes(changed)
    if kind == 1:
        return data[:place]
    if kind == 2:  # cut, but with the end that the format has
        return data[:place] + data[-int(draw.choice([2, 12, 8])) :]
    if kind == 3:
        return data[:place] + draw.bytes(int(draw.integers(1, 64))) + data[place:]
    if kind == 4:
        other = place + int(draw.integers(len(data)))
        return data[:place] + data[other:]
    return data + draw.bytes(int(draw.integers(1, 64)))


def contents(draw: np.random.Generator, examples: list[bytes], images: np.ndarray) -> bytes:
    """The bytes of one file."""
    kind = draw.random()
    if kind < 0.1:
        return examples[int(draw.integers(len(examples)))]
    if kind < 0.15:
        return bombs(draw)
    if kind < 0.2:
        start = draw.choice([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", b"BM", b"GIF89a", b""])
        return bytes(start) + draw.bytes(int(draw.integers(200)))
    image = images[int(draw.integers(len(images)))]
    if draw.random() < 0.3:
        image = np.stack([np.roll(np.pad(image, 2), int(shift), 1) for shift in draw.integers(0, 4, 3)], -1)
    file_format = str(draw.choice(["PNG", "PNG", "JPEG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]))
    options: dict[str, Any] = {}
    if file_format == "JPEG":
        options = {"quality": int(draw.integers(30, 100)), "progressive": bool(draw.integers(2))}
        if draw.random() < 0.3:
            options["restart_marker_blocks"] = int(draw.integers(1, 5))
    if file_format == "WEBP":
        options = {"lossless": bool(draw.integers(2))}
    data = encoded(image, file_format, **options)
    return data if draw.random() < 0.2 else damaged(data, draw)


def write_tree(root: Path, n: int) -> None:
    """Writes n files, and what else a folder can hold."""
    draw = np.random.default_rng(0)
    with np.load(SAMPLE) as file:
        images = file["x"]
    examples = [path.read_bytes() for path in sorted((ROOT / "examples" / "fashion-mnist").glob("*.png"))]
    outside = root.parent / "outside"
    folders = [root, *(root / name for name in ("a", "a/b;c", "a/b;c/[d]", ".e", "_f", "a/g h", "a/\udcff"))]
    for folder in [*folders, outside, root / "empty", root / "a" / "only folders" / "empty"]:
        folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        folder = outside if i % 100 == 99 else folders[int(draw.integers(len(folders)))]
        name = os.fsdecode(NAMES[i % len(NAMES)] % i)
        (folder / name).write_bytes(contents(draw, examples, images))
    (root / "to outside").symlink_to(outside)
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to("self")
    (root / "broken.png").symlink_to("nothing")
    (root / "again.png").symlink_to(ROOT / "examples" / "fashion-mnist" / "clean_0333.png")
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(root)  # the path of a socket is short
        made.bind("socket")


def run(command: list[Any], folder: Path) -> dict[str, Any]:
    """Runs a command. Returns its status, seconds, and what shows a crash or a hang."""
    started = time.perf_counter()
    try:
        done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"hangs": 1, "crashes": 0, "status": None, "seconds": LONGEST}
    crashed = done.returncode not in (0, 1, 2) or b"Traceback" in done.stderr
    if crashed:
        print(done.stderr.decode(errors="replace")[-3000:], file=sys.stderr)
    return {
        "hangs": 0,
        "crashes": int(crashed),
        "status": done.returncode,
        "seconds": round(time.perf_counter() - started, 1),
    }


def screen_locally(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = run([COMMAND, "screen", folder / "in", "--format", "jsonl", "--output", "local.jsonl"], folder)
    return found, [json.loads(line) for line in (folder / "local.jsonl").read_text().splitlines()]


def screen_by_ray(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from pyarrow.parquet import read_table

    command = [COMMAND, "screen", folder / "in", "--engine", "ray", "--workers", 1, "--output", "ray.parquet"]
    found = run(command, folder)
    return found, read_table(folder / "ray.parquet").to_pylist()


def screen_by_service(folder: Path, paths: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Sends every file that can be read to the service."""
    log = folder / "service.log"
    limits = ["--max-pixels", 16 * 2**20, "--max-bytes", 64 * 2**20, "--deadline", 120]
    with log.open("wb") as errors:
        process = subprocess.Popen(list(map(str, [COMMAND, "serve", "--port", 0, *limits])), cwd=folder, stderr=errors)
    statuses: Counter[int] = Counter()
    hangs = 0

    def ask(path: str) -> dict[str, Any] | None:
        nonlocal hangs
        with open(path, "rb") as file:
            request = urllib.request.Request(f"{address}/v1/screen", file.read() or b"", method="POST")
        request.add_header("content-type", "application/octet-stream")
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        except OSError:
            hangs += 1
            return None
        statuses[status] += 1
        records = json.loads(body).get("records")
        return {**records[0], "path": path} if records else {"path": path, "verdict": "error", "status": status}

    started = time.perf_counter()
    try:
        while not (listening := re.search(r"http://[\d.]+:\d+", log.read_text())):
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)
        address = listening[0]
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = [answer for answer in pool.map(ask, paths) if answer is not None]
        seconds = round(time.perf_counter() - started, 1)
    finally:
        process.terminate()
        process.wait(60)
    other = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith("{")]
    found = {
        "hangs": hangs,
        "crashes": int(process.returncode not in (0, -15)) + sum(n for status, n in statuses.items() if status >= 500),
        "statuses": {str(status): n for status, n in sorted(statuses.items())},
        "log_lines_that_are_not_json": len(other),
        "seconds": seconds,
    }
    return found, answers


def there(folder: Path) -> Counter[str]:
    """Counts what the tree holds, found without pixeldefend: real paths of regular files."""
    found: Counter[str] = Counter()
    for top in (folder / "in", folder / "outside"):
        for path, _, names in os.walk(top):
            for name in names:
                whole = os.path.join(path, name)
                if os.path.isfile(whole) and not os.path.islink(whole):
                    found[os.path.realpath(whole)] += 1
    example = folder / "in" / "again.png"  # a link to a file elsewhere
    found[os.path.realpath(example)] += 1
    return found


def compare(
    local: list[dict[str, Any]], other: list[dict[str, Any]], key: Callable[[str], str]
) -> dict[str, int | float]:
    """Compares the records of another engine with the local ones."""
    by_path = {key(record["path"]): record for record in other}
    pairs = [(record, by_path.get(key(record["path"]))) for record in local]
    both = [(one, two) for one, two in pairs if two is not None]
    differences = [abs(one["p_value"] - two["p_value"]) for one, two in both if one["p_value"] and two.get("p_value")]
    return {
        "records": len(other),
        "missing": sum(two is None for _, two in pairs),
        "repeated": len(other) - len(by_path),
        "verdicts_that_differ": sum(one["verdict"] != two["verdict"] for one, two in both),
        "kinds_of_error_that_differ": sum(one["error_kind"] != two.get("error_kind") for one, two in both),
        "largest_difference_of_p": max(differences, default=0.0),
    }


def measure(folder: Path, n: int) -> dict[str, Any]:
    (folder / "in").mkdir()
    home = os.getcwd()
    write_tree(folder / "in", n)
    os.chdir(home)
    expected = there(folder)
    found, local = screen_locally(folder)
    real = Counter(os.path.realpath(record["path"]) for record in local if os.path.isfile(record["path"]))
    skipped = expected - real  # what is not an image by its name and by its bytes
    engines = {"local": found | {"records": len(local), "repeated": sum((real - expected).values())}}
    found, records = screen_by_ray(folder)
    engines["ray"] = found | compare(local, records, lambda path: to_storable(os.path.abspath(path)))
    readable = [record["path"] for record in local if os.path.isfile(record["path"])]
    found, records = screen_by_service(folder, readable)
    files = [record for record in local if os.path.isfile(record["path"])]
    engines["service"] = found | compare(files, records, str)
    return {
        "made_by": f"python benchmarks/hostile.py --files {n}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "files": sum(expected.values()),
        "not_images": sum(skipped.values()),
        "verdicts": dict(Counter(record["verdict"] for record in local)),
        "kinds_of_error": dict(Counter(record["error_kind"] for record in local if record["error_kind"])),
        "internal_errors": sum(record["error_kind"] == "internal" for record in local),
        "engines": engines,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="an empty folder for the files, which are kept")
    arguments = parser.parse_args()
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        results = measure(arguments.keep.resolve(), arguments.files)
    else:
        with tempfile.TemporaryDirectory() as name:
            results = measure(Path(name).resolve(), arguments.files)
    text = json.dumps(results, indent=1)
    (HERE / "results" / "hostile.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
