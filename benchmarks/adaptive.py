"""How often an attacker who knows classifier and detector gets by both: the shipped ones, at 5 % false alarms.

    python benchmarks/adaptive.py fashion-mnist --limit 24 --steps 40

Of the first test images that are read rightly and not flagged, the share for which the 8-bit image within eps is read
wrongly and not flagged. Writes adaptive.json and adaptive.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import foolbox
import torch
from foolbox.criteria import Misclassification

from pixeldefend import load_classifier, load_detector
from pixeldefend.attacks import JointPGD, OrthogonalPGD, SelectivePGD, Undetected, craft
from pixeldefend.datasets import load_dataset
from pixeldefend.eval import rate

HERE = Path(__file__).parent
AWARE = {"joint": JointPGD, "selective": SelectivePGD, "orthogonal": OrthogonalPGD}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["fashion-mnist", "cifar10"], help="of the shipped detector and classifier")
    parser.add_argument("--data", help="data set, by default of the same name; a folder or an .npz")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--eps", type=int, nargs="+", default=[2, 4, 8], help="in steps of the 8-bit grid")
    parser.add_argument("--fpr", type=float, default=0.05)
    arguments = parser.parse_args()

    images = load_dataset(arguments.data or arguments.name, arguments.data_dir).test[: 2 * arguments.limit]
    classifier, detector = load_classifier(arguments.name), load_detector(arguments.name).with_fpr(arguments.fpr)
    x, y = images.x / 255, images.y
    with torch.no_grad():
        usable = (classifier(x).argmax(1) == y) & ~torch.from_numpy(detector.is_adversarial(x))
    x, y = x[usable][: arguments.limit], y[usable][: arguments.limit]
    model = foolbox.PyTorchModel(classifier.eval(), bounds=(0, 1))
    both = Misclassification(y) & Undetected(detector)
    eps = " ".join(map(str, arguments.eps))
    command = f"python benchmarks/adaptive.py {arguments.name} --limit {arguments.limit} --steps {arguments.steps}"
    command += f" --eps {eps} --fpr {arguments.fpr:g}"
    rows: list[dict[str, Any]] = []

    def add(attack: str, eps: int, found: torch.Tensor) -> None:
        with torch.no_grad():
            fooled, evaded = classifier(found).argmax(1) != y, both(found, classifier(found))
        success, interval = rate(int(evaded.sum()), len(x))
        row = dict(data=arguments.name, attack=attack, eps=eps, images=len(x), fooled=fooled.double().mean().item())
        rows.append({**row, "success": success, "success_ci": interval, "command": command})
        print(f"{attack} at {eps}/255: {success:.0%} fool and are not flagged", flush=True)

    for budget in arguments.eps:
        add("pgd, blind", budget, craft(classifier, images.x[usable][: len(x)], y, f"pgd-{budget}").images / 255)
        for name, attack in AWARE.items():
            made = attack(detector, steps=arguments.steps)
            add(f"{name} PGD", budget, made(model, x, both, epsilons=budget / 255)[1])
    path = HERE / "adaptive.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in kept if row["data"] != arguments.name] + rows
    path.write_text(json.dumps(kept, indent=1) + "\n")
    (HERE / "adaptive.md").write_text(markdown(kept))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns one table a data set: an attack a row, a budget a column."""
    lines = ["# Attackers who know the detector", ""]
    for data in dict.fromkeys(row["data"] for row in rows):
        found = {(row["attack"], row["eps"]): row for row in rows if row["data"] == data}
        attacks, budgets = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
        first = next(iter(found.values()))
        lines += [f"## {data}, {first['images']} test images", "", f"`{first['command']}`", ""]
        lines += ["Fooled and not flagged, with 95 % intervals; in brackets: fooled, flagged or not.", ""]
        lines += [
            "| attack | " + " | ".join(f"{eps}/255" for eps in budgets) + " |",
            "| --- |" + " --- |" * len(budgets),
        ]
        for attack in attacks:
            cells = []
            for eps in budgets:
                row = found[attack, eps]
                low, high = row["success_ci"]
                cells.append(f"{row['success']:.0%} [{low:.0%}, {high:.0%}] ({row['fooled']:.0%})")
            lines.append(f"| {attack} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
