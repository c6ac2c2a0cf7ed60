"""How fast `pixeldefend screen` is, and where its time goes: python benchmarks/screening.py [--files 10000]

Writes 28 x 28 PNG files (the Fashion-MNIST test images of the tests, over and over) to a temporary folder and screens
them as a process. In the same run it times the network alone on the same images, and scoring alone (network, head,
entropies, p-values), so that all figures are ratios of one run on one machine. Prints JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pixeldefend import Detector, load_detector
from pixeldefend.densities import build

SAMPLE = Path(__file__).parent.parent / "tests" / "data" / "fashion_mnist_test_500.npz"
PROGRAM = Path(sys.executable).parent / "pixeldefend"
WAIT = "import os, subprocess, sys; print(os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)[2].ru_maxrss)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--backend", default="float32")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.files, arguments.backend), indent=1))


def measure(n: int, backend: str) -> dict[str, float | str]:
    """n: files. Returns what is printed."""
    with np.load(SAMPLE) as file:
        images = file["x"]
    x = torch.from_numpy(images[np.arange(n) % len(images)])[:, None]
    detector = load_detector("fashion-mnist", backend=backend)
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(x[:, 0].numpy()):
            Image.fromarray(image).save(f"{folder}/{i:06d}.png")
        screening, peak_memory = screened(folder, n, "--backend", backend)
    with torch.inference_mode():
        detector.density.net(x[:64] / 255)  # warm up
        started = time.perf_counter()
        for batch in x.split(64):
            detector.density.net(batch / 255)
        network = time.perf_counter() - started
    started = time.perf_counter()
    detector.judge(x)
    scoring = time.perf_counter() - started
    return {
        "files": n,
        "backend": backend,
        "peak_memory_mib": round(peak_memory),
        "files_a_second": round(n / screening),
        "share_of_the_network": round(network / screening, 3),
        "share_of_scoring": round(scoring / screening, 3),
        "screening_seconds": round(screening, 2),
        "network_seconds": round(network, 2),
        "scoring_seconds": round(scoring, 2),
        "help_seconds": round(help_seconds(), 3),
        "threads": torch.get_num_threads(),
    }


def memory(few: int, many: int) -> tuple[float, float]:
    """Returns the peak memory, in MiB, of screening so few and so many files: of 8 x 8 pixels, by a small density, so
    that it does not take long."""
    density = build({"model": "fvsbn", "event_shape": [1, 8, 8], "head": "logistics"})
    images = np.random.RandomState(0).randint(0, 256, (200, 8, 8)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        detector = Path(folder, "small.safetensors")
        Detector(density, statistic="bits_per_dim").fit(images).save(detector)
        peaks = []
        for n in (few, many):
            files = Path(folder, str(n))
            files.mkdir()
            for i in range(n):
                Image.fromarray(images[i % len(images)]).save(files / f"{i:06d}.png")
            peaks.append(screened(str(files), n, "--detector", str(detector))[1])
    return peaks[0], peaks[1]


def screened(folder: str, n: int, *options: str) -> tuple[float, float]:
    """Screens the n images of a folder as a process. Returns the seconds and the peak memory in MiB that it took."""
    command = [PROGRAM, "screen", folder, "--format", "jsonl", "--output", f"{folder}.jsonl", *options]
    started = time.perf_counter()
    # a child's peak includes what its parent held when it was started: it is started by a small one, which prints it
    waiting = [sys.executable, "-c", WAIT, *map(str, command)]
    peak = int(subprocess.run(waiting, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
    seconds = time.perf_counter() - started
    verdicts = [json.loads(line)["verdict"] for line in Path(f"{folder}.jsonl").read_text().splitlines()]
    Path(f"{folder}.jsonl").unlink()
    assert len(verdicts) == n
    assert "error" not in verdicts
    return seconds, peak / 1024


def help_seconds() -> float:
    """The median of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([PROGRAM, "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
