"""The leaderboard: shipped detectors and baselines under one protocol (hours; `--keep` makes it resumable).

    python benchmarks/leaderboard.py fashion-mnist --keep runs/kept

The first 1,000 test images are attacked by those who know the classifier, the first of them by those who know the
detector too. Writes an entry a detector to eval/results/leaderboard, and a report to eval/results/NAME-adaptive.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pixeldefend import Detector, load_classifier, load_detector
from pixeldefend.datasets import load_dataset
from pixeldefend.eval import BASELINES, Kept, entry, find_detector, run_benchmark, write_report

RESULTS = Path(__file__).parent.parent / "eval" / "results"
ATTACKS = [
    "fgsm-8",
    "bim-8",
    "pgd-2",
    "pgd-4",
    "pgd-8",
    "pgd-l2-0.25",
    "pgd-l2-0.5",
    "deepfool-linf",
    "deepfool-l2",
    "cw-l2",
    "fmn-l0",
]
KNOWING = ["blind-pgd", "joint-pgd", "selective-pgd", "orthogonal-pgd"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["fashion-mnist", "cifar10"])
    parser.add_argument("--data", help="data set, by default of the same name; a folder or an .npz")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--keep", type=Path, help="keep attacked images here")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--adaptive-limit", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--eps", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--only", nargs="+", help="these detectors alone")
    arguments = parser.parse_args()
    data = load_dataset(arguments.data or arguments.name, arguments.data_dir)
    classifier, shipped = load_classifier(arguments.name), load_detector(arguments.name)
    density = shipped.density
    detectors: dict[str, Any] = {
        arguments.name: lambda: shipped,
        "bits-per-dim": lambda: Detector(density, score="bits_per_dim").fit(data.calibration.x),
        **{name: lambda name=name: find_detector(name, classifier, data) for name in BASELINES},
    }
    settings = f"--limit {arguments.limit} --adaptive-limit {arguments.adaptive_limit} --steps {arguments.steps}"
    command = f"python benchmarks/leaderboard.py {arguments.name} {settings} --eps {' '.join(map(str, arguments.eps))}"
    (RESULTS / "leaderboard").mkdir(parents=True, exist_ok=True)
    for name in arguments.only or detectors:
        print(f"== {name}", flush=True)
        own = name == arguments.name
        # that success rises to 1 is looked at for the detector that is shipped
        eps = [*arguments.eps, 16, 32] if own else arguments.eps
        results = run_benchmark(
            detectors[name](),
            classifier,
            data,
            attacks=ATTACKS,
            scores=["bits_per_dim"] if own else [],
            limit=arguments.limit,
            clean=min(2500, len(data.test)),
            adaptive=dict(attacks=KNOWING, eps=eps, limit=arguments.adaptive_limit, steps=arguments.steps),
            kept=Kept(arguments.keep),
            log=lambda line: print(line, flush=True),
        )
        title = "PixelCNN++, " + results["score"] if own or name == "bits-per-dim" else name
        found = json.dumps(entry(title, results, command), indent=1)
        (RESULTS / "leaderboard" / f"{arguments.name}-{'shipped' if own else name}.json").write_text(found + "\n")
        if own:
            write_report({**results, "command": command}, RESULTS / f"{arguments.name}-adaptive")


if __name__ == "__main__":
    main()
