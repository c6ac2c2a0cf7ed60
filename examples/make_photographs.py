"""Makes the 20 photographs in examples/photographs: python examples/make_photographs.py FOLDER CAMERAS

FOLDER holds images.csv and images of the development set of the NIPS 2017 competition on adversarial attacks, which
photographers published under CC BY 2.0. EfficientNet-Lite0 classifies those used here correctly. In the order of their
names, the first eight are clean and get a history each; of the others, each attack takes the first photograph that it
turns into one that is misclassified after rounding to 8 bits. CAMERAS holds the files of
https://github.com/drewnoakes/metadata-extractor-images; two of them are copied. No model of pixeldefend was trained or
calibrated on any of these photographs, and the detector is not asked. ATTRIBUTION.md names the photographers.
"""

import argparse
import csv
import re
import shutil
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
    "resized": "resized",
    "resized_jpeg": "resized, JPEG",
    "resized_webp": "resized, WebP",
    "jpeg_twice": "JPEG twice",
    "grey": "grey",
    "off_grid": "cropped off the grid of an earlier JPEG",
    "screenshot": "in a screenshot",
}
CAMERAS = {"camera_nokia": "Nokia 3110c (Mobile Phone).jpg", "camera_sony": "Sony DCR-PC110E (2).jpg"}
DREW = "[Drew Noakes and contributors](https://github.com/drewnoakes/metadata-extractor-images)"
ATTACKED = ("fgsm-8", "fgsm-2", "bim-4", "pgd-8", "pgd-2", "pgd-1", "apgd-ce-4", "pgd-l2-1.0", "cw-l2", "square-8")
SUFFIXES = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}
OUT = Path(__file__).parent / "photographs"
HEADER = """# Photographs

The photographs `clean_camera_*` come straight from cameras. They are from a collection whose files may be used however
one wishes. The others come from the development set of the
[NIPS 2017 competition on adversarial attacks](https://www.kaggle.com/c/nips-2017-non-targeted-adversarial-attack). Each
is under [CC BY 2.0](https://creativecommons.org/licenses/by/2.0/) by the photographer named here. The competition
cropped them to 299 x 299 pixels; pixeldefend changed them as the table says.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cameras", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder
    classifier = imagenet_classifier("efficientnet-lite0")
    with (folder / "images.csv").open(encoding="utf-8") as file:
        rows = {row["ImageId"]: row for row in csv.DictReader(file)}
    free = [path for path in sorted(folder.glob("*.png")) if is_correct(classifier, path, rows[path.stem])]
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.*"):
        old.unlink()

    cells = []
    for name, source in CAMERAS.items():
        file = OUT / f"clean_{name}.jpg"
        shutil.copyfile(arguments.cameras / source, file)
        cells.append((file.name, "clean: straight from a camera", DREW, f"`{source}`"))
    for name, what in CLEAN.items():
        path = free.pop(0)
        data = path.read_bytes()
        if name != AS_IT_CAME:
            data = HISTORIES[name](Image.open(path).convert("RGB"), np.random.default_rng(0))
        file = OUT / f"clean_{name}.{SUFFIXES[data[:2]]}"
        file.write_bytes(data)
        cells.append((file.name, f"clean: {what}", *credit(rows[path.stem])))
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
        cells.append((file.name, f"attacked: {attack}", *credit(rows[path.stem])))
    (OUT / "ATTRIBUTION.md").write_text(HEADER + table(["file", "what it is", "photographer", "original"], cells))


def credit(row: dict[str, str]) -> tuple[str, str]:
    """Returns links to the photographer and to the photograph. The file has octal numbers for bytes of UTF-8."""
    author = re.sub(
        r"(?:\\\d{3})+", lambda match: bytes(int(n, 8) for n in match[0].split("\\")[1:]).decode(), row["Author"]
    )
    return f"[{author}]({row['AuthorProfileURL']})", f"[Flickr]({row['OriginalLandingURL']})"


def image_of(path: Path) -> torch.Tensor:
    """Returns an image file as uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]


def label_of(row: dict[str, str]) -> torch.Tensor:
    return torch.tensor([int(row["TrueLabel"]) - 1])  # the file counts from 1


def is_correct(classifier: torch.nn.Module, path: Path, row: dict[str, str]) -> bool:
    return bool(predict_labels(classifier, image_of(path)) == label_of(row))


if __name__ == "__main__":
    main()
