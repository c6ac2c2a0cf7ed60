"""Do ordinary clients look like a query attack? 10,000 test images of Fashion-MNIST in sequence, as one client's.

    python benchmarks/queries.py [--data-dir data] [--images 10000]

Prints how many are named, and how near the fifth nearest among the 1,000 before each ever comes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from pixeldefend.datasets import load_dataset
from pixeldefend.serving.queries import QueryAttacks, fingerprint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["fashion-mnist", "cifar10"])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    for name in arguments.data:
        data = load_dataset(name, arguments.data_dir)
        x = torch.cat([data.calibration.x, data.test.x, data.validation.x])[: arguments.images]
        images = [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in x.numpy()]
        watch = QueryAttacks()
        named = sum(watch.is_attack("a client", image) for image in images)
        prints = np.stack([fingerprint(image) for image in images])
        fifth = []
        for i in range(1000, len(prints), 7):
            distances = np.sqrt(((prints[i - 1000 : i] - prints[i]) ** 2).mean(1))
            fifth.append(np.partition(distances, 4)[4])
        least, usual = np.quantile(fifth, [0, 0.001])
        print(f"{name}: {named} of {len(images)} named; the fifth nearest: least {least:.3f}, one in 1,000 {usual:.3f}")


if __name__ == "__main__":
    main()
