"""Makes images unlike those of CIFAR-10, which its detector should flag: python benchmarks/make_other_images.py

It writes these files, NAME-32x32-rgb.npz, into --data-dir (data):

    mnist, fashion-mnist   the grey images of the data set with a border of two black pixels, the same in all channels
    noise                  every sub-pixel is random
    saturated              every sub-pixel is randomly 0 or 255, as after an attack that diverged
    constant               every image has one random colour
"""

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from pixeldefend.data import load_dataset

TRAIN, TEST = 1200, 2000  # images; half of the latter become test images when the file is read
SHAPE = (32, 32, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    folder = parser.parse_args().data_dir
    made = {}
    for name in ("mnist", "fashion-mnist"):
        data = load_dataset(name, folder)
        made[name] = np.concatenate([padded(data.train.x[:TRAIN]), padded(data.test.x[:TEST])])
    rng, n = np.random.default_rng(0), TRAIN + TEST
    made["noise"] = rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8)
    made["saturated"] = 255 * rng.integers(0, 2, (n, *SHAPE), dtype=np.uint8)
    made["constant"] = np.tile(rng.integers(0, 256, (n, 1, 1, 3), dtype=np.uint8), (1, *SHAPE[:2], 1))
    for name, x in made.items():
        np.savez(folder / f"{name}-32x32-rgb.npz", x=x[:TRAIN], x_test=x[TRAIN:])


def padded(x: Tensor) -> np.ndarray:
    """Pads grey images (N, 1, 28, 28) to colour images (N, 32, 32, 3)."""
    return np.repeat(np.pad(x.numpy()[:, 0], ((0, 0), (2, 2), (2, 2)))[..., None], 3, -1)


if __name__ == "__main__":
    main()
