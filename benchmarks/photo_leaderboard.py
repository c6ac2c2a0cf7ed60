"""Compares the shipped detector of photographs with baselines: python benchmarks/photo_leaderboard.py PHOTOS LEARN

All detectors see the same attacked photographs. Baselines are calibrated on the photographs of the folder LEARN, and
those that learn from an attack learn it on some of these; none of them may be among the photographs used of PHOTOS. An
entry for each detector goes to eval/results/leaderboard. With --adaptive-limit, attackers who know the shipped
detector attack it too.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from leaderboard import RESULTS

from pixeldefend.eval import Cache, entry, find_classifier, find_detector
from pixeldefend.eval.photos import PHOTO_BASELINES, Learning, attack_photographs, read_photographs, run_photographs
from pixeldefend.serialization import whole_file

CLASSIFIER = "efficientnet-lite0"
ATTACKS = ["fgsm-2", "fgsm-8", "bim-8", "pgd-1", "pgd-2", "pgd-4", "pgd-8", "pgd-l2-1.0", "deepfool-linf"]
DETECTOR_AWARE = ["blind-pgd", "joint-pgd", "selective-pgd"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("learn", type=Path)
    parser.add_argument("--cache", type=Path, help="keep attacked images here")
    parser.add_argument("--limit", type=int, default=64, help="photographs for attackers who know the classifier")
    parser.add_argument("--clean", type=int, default=350, help="clean photographs")
    parser.add_argument("--adaptive-limit", type=int, default=0, help="photographs for those who know the detector")
    parser.add_argument("--eps", type=int, nargs="+", default=[2, 8], help="their largest changes, in 8-bit steps")
    parser.add_argument("--steps", type=int, default=50, help="their steps")
    parser.add_argument("--only", nargs="+", help="these detectors only")
    arguments = parser.parse_args()
    cache = Cache(arguments.cache)
    classifier = find_classifier(CLASSIFIER)
    photographs = read_photographs(arguments.photos, classifier, limit=arguments.clean)
    learning = Learning.of(read_photographs(arguments.learn, classifier))
    victims = photographs.take(range(arguments.limit))
    attacked = attack_photographs(classifier, victims, ATTACKS, cache=cache, log=print)
    command = command_of(arguments)
    for name in arguments.only or ["photo", *PHOTO_BASELINES]:
        print(f"== {name}", flush=True)
        adaptive = dict(
            attacks=DETECTOR_AWARE, eps=arguments.eps, limit=arguments.adaptive_limit, steps=arguments.steps
        )
        results = run_photographs(
            find_detector(name, classifier, learning, cache=cache),
            classifier,
            photographs,
            learning=learning,
            attacks=ATTACKS,
            limit=arguments.limit,
            attacked=attacked,
            adaptive=adaptive if name == "photo" and arguments.adaptive_limit else None,
            cache=cache,
            log=lambda line: print(line, flush=True),
        )
        title = "likelihood ratio of profiles" if name == "photo" else name
        path = RESULTS / "leaderboard" / f"photographs-{'shipped' if name == 'photo' else name}.json"
        with whole_file(path) as file:
            file.write(json.dumps(entry(title, results, command), indent=1) + "\n")


def command_of(arguments: argparse.Namespace) -> str:
    """Returns the command that runs the same, with every setting, and of folders the name only."""
    words = ["python", "benchmarks/photo_leaderboard.py", arguments.photos.name, arguments.learn.name]
    for option in ("limit", "clean", "adaptive_limit", "eps", "steps"):
        values = getattr(arguments, option)
        words += [f"--{option.replace('_', '-')}", *map(str, values if isinstance(values, list) else [values])]
    return shlex.join(words)


if __name__ == "__main__":
    main()
