"""Ray on this machine's cores, a worker each with one thread, against one process on one core.

    python benchmarks/cluster.py [--images 50000] [--workers 2]

The files are the sample's 500 images of Fashion-MNIST with one pixel changed, one in 1,000 of them broken. A
process that may use every core decodes on another core than it scores on, so it is measured, too. Writes ray.json and
ray.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image

from pixeldefend.markdown import table

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).parent / "pixeldefend"
SAMPLE = HERE.parent / "tests" / "data" / "fashion_mnist_test_500.npz"


def write_files(folder: Path, n: int) -> None:
    with np.load(SAMPLE) as file:
        images = file["x"]
    random = np.random.RandomState(0)
    for i in range(n):
        path = folder / f"{i // 1000:03d}" / f"{i:06d}.png"
        path.parent.mkdir(exist_ok=True)
        if i % 1000 == 500:
            path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
            continue
        image = images[i % len(images)].copy()
        image[tuple(random.randint(0, 28, 2))] = random.randint(256)
        Image.fromarray(image).save(path)


def timed(command: list[Any], folder: Path, on_one_core: bool = False) -> tuple[float, list[float]]:
    """Returns the seconds it took, and the memory of it and its children, MiB, every other second."""
    memory: list[float] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    cores = ["taskset", "--cpu-list", min(os.sched_getaffinity(0))] if on_one_core else []
    process = subprocess.Popen(
        list(map(str, [*cores, *command])), cwd=folder, stdout=subprocess.DEVNULL, env=environment
    )
    done = threading.Event()

    def watch() -> None:
        while not done.wait(2):
            memory.append(sum(_private(pid) for pid in _family(process.pid)) / 1024)

    watching = threading.Thread(target=watch)
    watching.start()
    status = process.wait()
    done.set()
    watching.join()
    assert status in (0, 1, 2), status
    return time.perf_counter() - started, memory


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in _family(int(child)))]


def _private(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(n) for n in re.findall(r"^Private_\w+:\s+(\d+)", text, re.M))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        write_files(folder / "in", arguments.images)
        screen = [COMMAND, "screen", "in", "--detector", "fashion-mnist"]
        several, memory = timed(
            [*screen, "--engine", "ray", "--workers", arguments.workers, "--output", "out.parquet"], folder
        )
        alone_command = [*screen, "--format", "csv", "--output", "out.csv"]
        free, _ = timed(alone_command, folder)
        one, _ = timed(alone_command, folder, on_one_core=True)
        found = pandas.read_parquet(folder / "out.parquet")
        alone = pandas.read_csv(folder / "out.csv")
    assert len(found) == len(alone) == arguments.images
    found["path"] = found["path"].str.extract(r"(\d+\.png)$")[0]
    alone["path"] = alone["path"].str.extract(r"(\d+\.png)$")[0]
    both = found.merge(alone, on="path")
    half = len(memory) // 2
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "images": arguments.images,
        "workers": arguments.workers,
        "seconds_one_core": one,
        "seconds_one_process": free,
        "seconds_ray": several,
        "ratio": one / several,
        "broken_files": int((alone["verdict"] == "error").sum()),
        "error_records": int((found["verdict"] == "error").sum()),
        "verdicts_that_differ": int((both["verdict_x"] != both["verdict_y"]).sum()),
        "mib_second_quarter": float(np.median(memory[half // 2 : half])),
        "mib_last_quarter": float(np.median(memory[half + half // 2 :])),
    }
    (HERE / "ray.json").write_text(json.dumps(results, indent=1) + "\n")
    made_by = f"`python benchmarks/cluster.py --images {arguments.images}`; start-up is counted"
    memory_row = f"{results['mib_second_quarter']:.0f} -> {results['mib_last_quarter']:.0f} MiB"
    ratios = f"{one / several:.2f} and {free / several:.2f}"
    rows = [
        (f"{arguments.images} files of 28 x 28, one process on one core", f"{one:.0f} s"),
        ("the same process with one thread that scores, and one that decodes", f"{free:.0f} s"),
        (f"Ray, {arguments.workers} workers with a thread each", f"{several:.0f} s, {ratios} times as fast"),
        ("broken files, error records", f"{results['broken_files']}, {results['error_records']}"),
        ("verdicts that differ", results["verdicts_that_differ"]),
        ("private memory of all processes, second quarter of the run -> last", memory_row),
    ]
    text = f"# Screening by Ray\n\n{results['machine']}. Made by {made_by}.\n\n{table(('', ''), rows)}"
    (HERE / "ray.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
