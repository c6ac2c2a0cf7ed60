"""Makes the 40 images in examples/fashion-mnist: python examples/make_fashion_mnist.py [--data-dir DIR]

They come from Fashion-MNIST test images that were used neither to train nor to calibrate, in the order of
`load_dataset`. The shipped classifier classifies all of them correctly. Clean examples are the first such images;
attacked ones are the first that an attack with a fixed seed turns into images that are misclassified after rounding to
8 bits. No image serves twice, and the detector is not asked. Numbers in file names are positions in the official test
set. Fashion-MNIST: Copyright 2017 Zalando SE, MIT licence (examples/fashion-mnist/LICENSE).
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from pixeldefend import load_classifier
from pixeldefend.attacks import craft
from pixeldefend.classifier import predict_labels
from pixeldefend.data import load_dataset

# file name -> attack; four of each
KINDS = {"fgsm": "fgsm-8", "pgd": "pgd-8", "bim": "bim-8", "deepfool": "deepfool-l2", "cw": "cw-l2"}
EACH = 4
CLEAN = 20
POOL = 200  # test images that the examples are taken from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    folder = Path(__file__).parent / "fashion-mnist"
    test = load_dataset("fashion-mnist", parser.parse_args().data_dir).test[:POOL]
    classifier = load_classifier("fashion-mnist")

    for old in folder.glob("*.png"):
        old.unlink()
    free = predict_labels(classifier, test.x) == test.y
    for i in free.nonzero()[:CLEAN, 0].tolist():
        save(test.x[i], folder / f"clean_{test.index[i]:04d}.png")
        free[i] = False
    for kind, attack in KINDS.items():
        wanted = EACH
        for candidates in free.nonzero()[:, 0].split(16):
            attacked = craft(classifier, test.x[candidates], test.y[candidates], attack, seed=0)
            for i in attacked.succeeded.nonzero()[:wanted, 0].tolist():
                save(attacked.images[i], folder / f"{kind}_{test.index[candidates[i]]:04d}.png")
                free[candidates[i]] = False
                wanted -= 1
            if not wanted:
                break
        else:
            raise RuntimeError(f"{attack} fools the classifier on too few of {POOL} images: {wanted} more are needed")


def save(image: torch.Tensor, path: Path) -> None:
    Image.fromarray(image[0].numpy()).save(path)


if __name__ == "__main__":
    main()
