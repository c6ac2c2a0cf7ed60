"""Makes the 20 photographs in examples/photographs: python examples/make_photographs.py FOLDER

FOLDER holds images.csv and images of the development set of the NIPS 2017 competition on adversarial attacks, which
photographers published under CC BY 2.0. No model of pixeldefend was trained or calibrated on them. EfficientNet-Lite0
classifies all 20 correctly. In the order of their names, the first ten are clean and get a history each; of the others,
each attack takes the first photograph that it turns into one that is misclassified after rounding to 8 bits. The
detector is not asked. ATTRIBUTION.md names the photographers.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pixeldefend.attacks import ATTACKS, craft
from pixeldefend.classifier import predict_labels
from pixeldefend.imagenet import imagenet_classifier
from pixeldefend.images.corruptions import HISTORIES
from pixeldefend.markdown import table

AS_IT_CAME = "as_it_came"
CLEAN = {
    AS_IT_CAME: "as published for the competition, 299 x 299",
    "camera": "as if straight from a camera, JPEG",
    "resized": "resized",
    "resized_jpeg": "resized, JPEG",
    "resized_webp": "resized, WebP",
    "jpeg_twice": "JPEG twice",
    "grey": "grey",
    "sharpened": "sharpened",
    "off_grid": "cropped off the grid of an earlier JPEG",
    "screenshot": "in a screenshot",
}
ATTACKED = ("fgsm-8", "fgsm-2", "bim-4", "pgd-8", "pgd-2", "pgd-1", "apgd-ce-4", "pgd-l2-1.0", "cw-l2", "square-8")
SUFFIXES = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}
OUT = Path(__file__).parent / "photographs"
HEADER = """# Photographs

These photographs come from the development set of the
[NIPS 2017 competition on adversarial attacks](https://www.kaggle.com/c/nips-2017-non-targeted-adversarial-attack). Each
is under [CC BY 2.0](https://creativecommons.org/licenses/by/2.0/) by the photographer named here. The competition
cropped them to 299 x 299 pixels; pixeldefend changed them as the table says.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    classifier = imagenet_classifier("efficientnet-lite0")
    with (folder / "images.csv").open(encoding="utf-8") as file:
        rows = {row["ImageId"]: row for row in csv.DictReader(file)}
    free = [path for path in sorted(folder.glob("*.png")) if is_correct(classifier, path, rows[path.stem])]
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.*"):
        old.unlink()

    made = []
    for name, what in CLEAN.items():
        path = free.pop(0)
        data = path.read_bytes()
        if name != AS_IT_CAME:
            data = HISTORIES[name](Image.open(path).convert("RGB"), np.random.default_rng(0))
        file = OUT / f"clean_{name}.{SUFFIXES[data[:2]]}"
        file.write_bytes(data)
        made.append((file, f"clean: {what}", rows[path.stem]))
    for attack in ATTACKED:
        for path in free:
            x, y = image_of(path), label_of(rows[path.stem])
            attacked = craft(classifier, x, y, ATTACKS[attack], seed=0)
            if attacked.succeeded[0]:
                break
        else:
            raise RuntimeError(f"{attack} fools the classifier on none of the photographs that are left")
        free.remove(path)
        file = OUT / f"attacked_{attack}.png"
        Image.fromarray(attacked.images[0].permute(1, 2, 0).numpy()).save(file, optimize=True)
        made.append((file, f"attacked: {attack}", rows[path.stem]))
    cells = [
        (file.name, what, f"[{row['Author']}]({row['AuthorProfileURL']})", f"[Flickr]({row['OriginalLandingURL']})")
        for file, what, row in made
    ]
    (OUT / "ATTRIBUTION.md").write_text(HEADER + table(["file", "what it is", "photographer", "original"], cells))


def image_of(path: Path) -> torch.Tensor:
    """Returns an image file as uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]


def label_of(row: dict[str, str]) -> torch.Tensor:
    return torch.tensor([int(row["TrueLabel"]) - 1])  # the file counts from 1


def is_correct(classifier: torch.nn.Module, path: Path, row: dict[str, str]) -> bool:
    return bool(predict_labels(classifier, image_of(path)) == label_of(row))


if __name__ == "__main__":
    main()
