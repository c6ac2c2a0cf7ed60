"""Measures the leaderboard: shipped detectors and baselines under one protocol.

    python benchmarks/leaderboard.py fashion-mnist --cache runs/cache

This takes hours; with `--cache` an interrupted run continues where it stopped. The first test images are attacked by
attackers who know the classifier, and the first few of them by attackers who know the detector too. The shipped
detector is also attacked, on fewer images, by expensive attacks. An entry for each detector goes to
eval/results/leaderboard, and a report of the shipped one to eval/results/NAME-adaptive.

Attacks by transfer need models that were trained separately, with other seeds or of other kinds:

    pixeldefend train classifier --data fashion-mnist --out runs/other --width 16 --epochs 4 --seed 1
    pixeldefend train density --data fashion-mnist --out runs/other --model gated_pixelcnn --epochs 2 --seed 1
    python benchmarks/leaderboard.py fashion-mnist --only fashion-mnist --cache runs/cache \\
        --surrogate-classifier runs/other/classifier.safetensors --surrogate-density runs/other/density.safetensors
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from pixeldefend import Detector, load_detector
from pixeldefend.data import load_dataset
from pixeldefend.eval import (
    BASELINES,
    Cache,
    entry,
    find_classifier,
    find_detector,
    run_benchmark,
    write_report,
)
from pixeldefend.serialization import whole_file
from pixeldefend.zoo import load_density, recipe_of

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
    "salt-and-pepper",
    "square-8",
    "ead-l1",
    "ddn",
    "apgd-ce-4",
    "mi-fgsm-4",
    "ti-fgsm-4",
]
DETECTOR_AWARE = ["blind-pgd", "joint-pgd", "selective-pgd", "orthogonal-pgd"]
EXPENSIVE = ["spsa", "bpda-pgd", "bpda-joint-pgd"]
NOT_PUBLISHED = ("name", "data_dir", "cache")  # options of this machine only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["fashion-mnist", "cifar10"])
    parser.add_argument("--data", help="data set, by default of the same name; a folder or an .npz")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, help="keep attacked images here")
    parser.add_argument("--limit", type=int, default=1000, help="images for attackers who know the classifier")
    parser.add_argument("--adaptive-limit", type=int, default=40, help="images for attackers who know the detector")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument(
        "--eps", type=int, nargs="+", default=[2, 4, 8], help="8-bit steps; 16 and 32 are added for the shipped one"
    )
    parser.add_argument("--expensive-limit", type=int, default=10, help="images for expensive attacks")
    parser.add_argument(
        "--expensive-eps", type=int, nargs="*", default=[8], help="8-bit steps; none to leave expensive attacks out"
    )
    parser.add_argument("--surrogate-classifier", help="a classifier's file, for attacks by transfer")
    parser.add_argument("--surrogate-density", help="a density's file, for attacks by transfer")
    parser.add_argument("--only", nargs="+", help="these detectors only")
    arguments = parser.parse_args()
    if (arguments.surrogate_classifier is None) != (arguments.surrogate_density is None):
        parser.error("--surrogate-classifier and --surrogate-density go together")
    data = load_dataset(arguments.data or arguments.name, arguments.data_dir)
    classifier = find_classifier(arguments.name)
    shipped = load_detector(arguments.name)
    density = shipped.density
    detectors: dict[str, Any] = {
        arguments.name: lambda: shipped,
        "bits-per-dim": lambda: Detector(density, statistic="bits_per_dim").fit(data.calibration.x),
        **{name: lambda name=name: find_detector(name, classifier, data) for name in BASELINES},
    }
    command = command_of(arguments)
    for name in arguments.only or detectors:
        print(f"== {name}", flush=True)
        own = name == arguments.name
        adaptive: dict[str, Any] = dict(attacks=DETECTOR_AWARE, eps=arguments.eps, limit=arguments.adaptive_limit)
        adaptive |= dict(steps=arguments.steps, restarts=arguments.restarts)
        if own:
            # whether the evasion rate rises to 1 is checked for the shipped detector
            adaptive["eps"] = [*arguments.eps, 16, 32]
        if own and arguments.expensive_eps:
            adaptive |= dict(
                attacks=DETECTOR_AWARE + EXPENSIVE,
                expensive_eps=arguments.expensive_eps,
                expensive_limit=arguments.expensive_limit,
            )
            if arguments.surrogate_classifier:
                adaptive["attacks"] = [*adaptive["attacks"], "transfer-pgd"]
                adaptive["surrogate"] = surrogate(arguments, shipped, data)
        results = run_benchmark(
            detectors[name](),
            classifier,
            data,
            attacks=ATTACKS,
            statistics=["bits_per_dim"] if own else [],
            limit=arguments.limit,
            clean=min(2500, len(data.test)),
            adaptive=adaptive,
            recipe=recipe_of(arguments.name) if own or name == "bits-per-dim" else None,
            cache=Cache(arguments.cache),
            log=lambda line: print(line, flush=True),
        )
        if own:
            write_report({**results, "command": command}, RESULTS / f"{arguments.name}-adaptive")
        title = "PixelCNN++, " + results["statistic"] if own or name == "bits-per-dim" else name
        (RESULTS / "leaderboard").mkdir(parents=True, exist_ok=True)
        path = RESULTS / "leaderboard" / f"{arguments.name}-{'shipped' if own else name}.json"
        with whole_file(path) as file:
            file.write(json.dumps(entry(title, results, command), indent=1) + "\n")


def surrogate(arguments: argparse.Namespace, shipped: Detector, data: Any) -> tuple[Any, Detector]:
    """Returns a classifier and a detector with the shipped one's statistic, calibrated on the same images."""
    detector = Detector(load_density(arguments.surrogate_density), statistic=shipped.statistic, fpr=shipped.fpr)
    detector.fit(data.calibration.x, X_fit=data.fit.x)
    return find_classifier(arguments.surrogate_classifier), detector


def command_of(arguments: argparse.Namespace) -> str:
    """Returns the command that runs the same, with every setting, and of files the name only."""
    words = ["python", "benchmarks/leaderboard.py", arguments.name]
    for option, value in vars(arguments).items():
        if option not in NOT_PUBLISHED and value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{option.replace('_', '-')}", *(Path(str(item)).name for item in values)]
    return shlex.join(words)


if __name__ == "__main__":
    main()
