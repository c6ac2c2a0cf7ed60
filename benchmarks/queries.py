"""Measures whether ordinary clients look like a query attack: one client sends the images of a data set.

    python benchmarks/queries.py [--data fashion-mnist data/cifar10.npz] [--data-dir data] [--images 10000]

It counts the images that are named, and measures the distance of the fifth nearest among the 1,000 images before each
one: an image is named when that distance is at most `QueryAttacks.within`. It writes queries.md beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from pixeldefend.data import load_dataset
from pixeldefend.markdown import table
from pixeldefend.serving.query_detection import QueryAttacks, fingerprint

HERE = Path(__file__).parent


def measure(name: str, data_dir: Path, n: int) -> list[str]:
    """Returns a row of the table for the first n images of a data set."""
    data = load_dataset(name, data_dir)
    x = torch.cat([data.calibration.x, data.test.x, data.validation.x, data.fit.x])[:n]
    images = [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in x.numpy()]
    detection = QueryAttacks()
    named = sum(detection.is_attack("a client", image) for image in images)
    prints = np.stack([fingerprint(image) for image in images])
    fifth = []
    for i in range(detection.window, len(prints), 7):
        distances = np.sqrt(((prints[i - detection.window : i] - prints[i]) ** 2).mean(1))
        fifth.append(np.partition(distances, 4)[4])
    least, usual = np.quantile(fifth, [0, 0.001])
    return [data.name, f"{named} of {len(images)}", f"{least:.3f}", f"{usual:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["fashion-mnist", "cifar10"])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    lines = [
        "# Ordinary images that one client sends in sequence",
        "",
        f"Made by `python benchmarks/queries.py --data {' '.join(arguments.data)} --images {arguments.images}`.",
        f"An image is named when the fifth nearest of the client's last 1,000 is within {QueryAttacks().within}.",
        "The goal is that none is named.",
        "`tests/serving/test_query_detection.py` tests HopSkipJump and the boundary attack.",
        "",
        table(
            ["images", "named", "least distance of the fifth nearest", "0.1 % quantile"],
            [measure(name, arguments.data_dir, arguments.images) for name in arguments.data],
        ).rstrip(),
    ]
    (HERE / "queries.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
