"""Measures the detector of photographs: seconds for one photograph, and peak memory at 1 and 50 megapixels.

    python benchmarks/photo_speed.py

The images are synthetic, since neither time nor memory depends on what an image shows. Each size is screened by a
process of its own, as `pixeldefend screen` does. It writes results/photo_speed.json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIZES = {"1 megapixel": (1000, 1000), "12 megapixels": (3000, 4000), "50 megapixels": (6120, 8160)}  # height, width
REPEATS = 5
OUT = Path(__file__).parent / "results" / "photo_speed.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # measures one file in this process
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(Path(arguments.one))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (height, width) in SIZES.items():
            file = Path(folder) / "image.jpg"
            rng = np.random.default_rng(0)
            small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
            small.resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
            command = [sys.executable, __file__, "--one", str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"size": name, "pixels": height * width, **json.loads(done.stdout)})
            print(rows[-1], flush=True)
    found = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }
    OUT.write_text(json.dumps(found, indent=2) + os.linesep)


def measured(file: Path) -> dict[str, float]:
    from pixeldefend import load_detector

    detector = load_detector("photo")
    seconds = {}
    for maps in (False, True):
        times = []
        for _ in range(REPEATS if file.stat().st_size < 2**21 else 1):
            start = time.perf_counter()
            detector.judge([file], maps=maps)
            times.append(time.perf_counter() - start)
        seconds["verdict and map" if maps else "verdict"] = min(times)
    return {**seconds, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
