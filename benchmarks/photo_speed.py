"""Measures `pixeldefend screen` on one photograph: seconds, and peak memory from 1 to 50 megapixels.

    python benchmarks/photo_speed.py

The images are synthetic, since neither time nor memory depends on what an image shows. Each run is a process of its
own; its time is without start-up, after a small image. It writes results/photo_speed.json.
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

from pixeldefend.densities.kernels import has_numba
from pixeldefend.process import prepare_process

SIZES = {"1 megapixel": (1000, 1000), "12 megapixels": (3000, 4000), "50 megapixels": (6120, 8160)}  # height, width
RUNS = {"verdict": False, "verdict and map": True}
OUT = Path(__file__).parent / "results" / "photo_speed.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # what this process measures: a folder and a run
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measured(Path(arguments.run[0]), RUNS[arguments.run[1]])))
        return
    prepare_process()  # processes that this one starts get its environment
    rows = []
    for name, (height, width) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8))
            small.resize((256, 256)).save(Path(folder) / "0.jpg", quality=90)
            small.resize((width, height), Image.Resampling.BICUBIC).save(Path(folder) / "1.jpg", quality=90)
            row = {"size": name, "pixels": height * width}
            for run in RUNS:
                command = [sys.executable, __file__, "--run", folder, run]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row[run] = json.loads(done.stdout)
            rows.append(row)
            print(row, flush=True)
    found = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numba": has_numba(),
        "rows": rows,
    }
    OUT.write_text(json.dumps(found, indent=2) + os.linesep)


def measured(folder: Path, maps: bool) -> dict[str, float]:
    """Screens two files, and returns the seconds for the second and the peak memory."""
    from pixeldefend.screening import screen
    from pixeldefend.screening.figures import save_heat_map

    for file in sorted(folder.glob("*.jpg")):
        start = time.perf_counter()
        for screened in screen([str(file)], batch_size=1, maps=maps):
            if maps:
                save_heat_map(screened, folder)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
