"""Makes grey data sets look like CIFAR-10: python benchmarks/make_rgb_mnist.py [--data-dir data]

The images are unlike all that a detector of CIFAR-10 knows, which should flag them. It writes mnist-32x32-rgb.npz and
fashion-mnist-32x32-rgb.npz beside the data: 28 x 28 images with a border of two black pixels, the same in all channels.
"""

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from pixeldefend.data import load_dataset

TRAIN, TEST = 1200, 2000  # images; half of the latter become test images when the file is read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    for name in ("mnist", "fashion-mnist"):
        data = load_dataset(name, arguments.data_dir)
        path = arguments.data_dir / f"{name}-32x32-rgb.npz"
        np.savez(path, x=padded(data.train.x[:TRAIN]), x_test=padded(data.test.x[:TEST]))


def padded(x: Tensor) -> np.ndarray:
    """Pads grey images (N, 1, 28, 28) to colour images (N, 32, 32, 3)."""
    return np.repeat(np.pad(x.numpy()[:, 0], ((0, 0), (2, 2), (2, 2)))[..., None], 3, -1)


if __name__ == "__main__":
    main()
