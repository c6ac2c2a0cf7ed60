"""Do ordinary clients look like a query attack? Images of a data set in sequence, as one client's.

    python benchmarks/queries.py [--data fashion-mnist data/cifar10.npz] [--data-dir data] [--images 10000]

Counts how many are named, and how near the fifth nearest among the 1,000 before each ever comes: an image is named when
that is within `QueryAttacks.within`. Test images come first, then others that the density has not learnt from. Writes
queries.md beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from pixeldefend.data import load_dataset
from pixeldefend.serving.query_detection import QueryAttacks, fingerprint

HERE = Path(__file__).parent


def measured(name: str, data_dir: Path, n: int) -> str:
    """Returns a row of the table."""
    data = load_dataset(name, data_dir)
    x = torch.cat([data.calibration.x, data.test.x, data.validation.x, data.fit.x])[:n]
    images = [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in x.numpy()]
    watch = QueryAttacks()
    named = sum(watch.is_attack("a client", image) for image in images)
    prints = np.stack([fingerprint(image) for image in images])
    fifth = []
    for i in range(watch.window, len(prints), 7):
        distances = np.sqrt(((prints[i - watch.window : i] - prints[i]) ** 2).mean(1))
        fifth.append(np.partition(distances, 4)[4])
    least, usual = np.quantile(fifth, [0, 0.001])
    return f"| {data.name} | {named} of {len(images)} | {least:.3f} | {usual:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["fashion-mnist", "cifar10"])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    lines = [
        "# Ordinary images in sequence, as one client's",
        "",
        f"Made by `python benchmarks/queries.py --data {' '.join(arguments.data)} --images {arguments.images}`.",
        f"An image is named when the fifth nearest of the client's last 1,000 is within {QueryAttacks().within}.",
        "The goal is none. HopSkipJump and the boundary attack are in `tests/test_queries.py`.",
        "",
        "| images | named | fifth nearest, the least distance | ... of one in 1,000 |",
        "| --- | --- | --- | --- |",
        *(measured(name, arguments.data_dir, arguments.images) for name in arguments.data),
    ]
    (HERE / "queries.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
