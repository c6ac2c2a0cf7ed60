"""Measures how much accuracy purification restores to an attacked classifier (PixelDefend, Song et al. 2018).

    python benchmarks/purification.py fashion-mnist --eps 16 --eps 32 --limit 200
    python benchmarks/purification.py cifar10 --eps 2 --eps 8 --eps 16 --limit 100 --attacks fgsm-8,bim-8,pgd-8,cw-l2

The classifier (shipped, or --classifier: an adversarially trained one, say) is attacked by an attacker who does not
know of purification; then the images are purified by the shipped density. Accuracy is over all images, also those that
are misclassified unattacked. The table goes to purification.json and .md, and replaces what was measured before on the
same data and classifier.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from pixeldefend import load_detector
from pixeldefend.classifier import predict_labels
from pixeldefend.data import load_dataset
from pixeldefend.eval import Cache, attack_all, find_classifier, rate
from pixeldefend.markdown import table
from pixeldefend.purification import purify

HERE = Path(__file__).parent
ATTACKS = "fgsm-8,bim-8,pgd-8,fgsm-25,bim-25,pgd-25,deepfool-linf,deepfool-l2,cw-l2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["fashion-mnist", "cifar10"], help="the shipped detector and classifier")
    parser.add_argument("--data", help="data set, by default of the same name; a folder or an .npz")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--eps", type=int, action="append", required=True)
    parser.add_argument("--attacks", default=ATTACKS)
    parser.add_argument("--limit", type=int, default=1000, help="the first N test images")
    parser.add_argument("--classifier", help="a file, instead of the shipped one")
    parser.add_argument("--cache", type=Path, help="keep attacked images here")
    arguments = parser.parse_args()

    data = load_dataset(arguments.data or arguments.name, arguments.data_dir)
    images = data.test[: arguments.limit]
    assert images.y is not None
    classifier = find_classifier(arguments.classifier or arguments.name)
    density = load_detector(arguments.name).density
    title = arguments.name + (f", {arguments.classifier}" if arguments.classifier else "")
    command = f"python benchmarks/purification.py {arguments.name} --limit {arguments.limit}"
    command += "".join(f" --eps {eps}" for eps in arguments.eps) + f" --attacks {arguments.attacks}"
    command += f" --classifier {arguments.classifier}" if arguments.classifier else ""
    rows: list[dict[str, Any]] = []
    for attack in ("none", *arguments.attacks.split(",")):
        x = images.x
        if attack != "none":
            cache = Cache(arguments.cache)
            made = attack_all(classifier, data, [attack], limit=arguments.limit, cache=cache)[attack]
            x = torch.where(made.attempted[:, None, None, None], made.images, images.x)
        for eps in (0, *arguments.eps):
            start = time.perf_counter()
            purified = purify(x, eps, density) if eps else x
            seconds = time.perf_counter() - start
            accuracy, interval = rate(int((predict_labels(classifier, purified) == images.y).sum()), len(x))
            row = dict(data=title, attack=attack, eps=eps, images=len(x), accuracy=accuracy)
            rows.append({**row, "accuracy_ci": interval, "seconds": round(seconds, 1), "command": command})
            print(f"{attack}, purified at eps {eps}: {accuracy:.1%} in {seconds:.0f} s", flush=True)
    path = HERE / "purification.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in kept if row["data"] != title] + rows
    path.write_text(json.dumps(kept, indent=1) + "\n")
    (HERE / "purification.md").write_text(markdown(kept))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns a table for each data set: a row for each attack and the strongest, a column for each purification."""
    lines = ["# Accuracy after purification", ""]
    for data in dict.fromkeys(row["data"] for row in rows):
        found = {(row["attack"], row["eps"]): row for row in rows if row["data"] == data}
        attacks, sizes = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
        first = next(iter(found.values()))
        lines += [f"## {data}, {first['images']:,} test images", "", f"`{first['command']}`", ""]
        cells = [[attack, *(f"{found[attack, eps]['accuracy']:.1%}" for eps in sizes)] for attack in attacks]
        worst = [min((a for a in attacks if a != "none"), key=lambda a: found[a, eps]["accuracy"]) for eps in sizes]
        strongest = [f"{found[a, eps]['accuracy']:.1%} ({a})" for a, eps in zip(worst, sizes, strict=True)]
        header = ["attack", *(f"eps {eps}" if eps else "not purified" for eps in sizes)]
        lines += [table(header, [*cells, ["strongest", *strongest]])]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
