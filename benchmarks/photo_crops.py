"""Cuts the crops that the density of photographs learns from: python benchmarks/photo_crops.py OUT.npz FOLDER ...

The photographs of the part "train" get random histories (`pixeldefend.training.photographs`).
"""

import argparse

import numpy as np

from pixeldefend.training.photographs import crops, photographs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--count", type=int, default=65536)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    paths = photographs(arguments.folders, "train")
    x = np.empty((arguments.count, arguments.side, arguments.side, 3), np.uint8)
    for place, crop in enumerate(crops(paths, arguments.count, arguments.side, seed=arguments.seed)):
        x[place] = crop
    np.savez(arguments.out, x=x)


if __name__ == "__main__":
    main()
