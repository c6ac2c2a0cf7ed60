"""Measures what each ingredient of `residual_ratio` is worth, on the shipped density and classifier of a data set.

    python benchmarks/residual_ablation.py cifar10 --data cifar10 --cache runs/cache

No test image is used. The network learns from fewer images, and for fewer steps, than that of the shipped detector. The
last validation images are attacked; the other ones count as clean. The table goes to
benchmarks/results/residual_ablation.json.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from pixeldefend.data import Images, load_dataset
from pixeldefend.densities import Autoregressive
from pixeldefend.eval import Cache, attack_all
from pixeldefend.eval.detection import detection_rates
from pixeldefend.images import from_uint8
from pixeldefend.images.perturbations import PATTERNS
from pixeldefend.scores import Evidence, residual_ratio, with_noise
from pixeldefend.scores.residual_ratio import ResidualNetwork, ResidualRatio
from pixeldefend.zoo import load_classifier, load_density

RESULTS = Path(__file__).parent / "results" / "residual_ablation.json"
ATTACKS = ("pgd-1", "square-8", "cw-l2", "deepfool-l2", "ddn", "fmn-l0", "salt-and-pepper")
ATTACKED = 300
BATCH = 64
Copies = Sequence[Callable[[Tensor], Tensor]]


class Partial(ResidualNetwork):
    """A network that does not see everything."""

    sees: tuple[str, ...] = ()

    def forward(self, planes: Tensor, profiles: Tensor) -> Tensor:
        *predictions, values = planes.chunk(4, 1)
        if "residuals" not in self.sees:
            predictions = [torch.ones_like(part) for part in predictions]
        if "histogram" not in self.sees:
            values = torch.zeros_like(values)
        if "profile" not in self.sees:
            profiles = self.mean.expand_as(profiles)
        return super().forward(torch.cat([*predictions, values], 1), profiles)


class Deep(ResidualNetwork):
    """A network of twice the layers."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, layers=8)


def seeing(*sees: str) -> type[ResidualNetwork]:
    """Returns a network that sees only some of "residuals", "profile" and "histogram"."""
    return type("Seeing", (Partial,), {"sees": sees})


EVERY = FIRST, SECOND, FAINT, SQUARES, EXTREME = ResidualRatio.copies


def without(pattern: str) -> Copies:
    """Returns the copies of `ResidualRatio`, none of which has perturbations of one pattern."""
    patterns = {**PATTERNS, pattern: 0}
    various = [partial(copy, patterns=patterns) for copy in (FIRST, SECOND, FAINT)]
    return [*various, EXTREME] if pattern == "squares" else [*various, SQUARES, EXTREME]


# name -> copies that the network learns from, its class, and the steepness of the guard
VARIANTS: dict[str, tuple[Copies, type[ResidualNetwork], float]] = {
    "all": (EVERY, ResidualNetwork, residual_ratio.STEEP),
    "all, twice the layers": (EVERY, Deep, residual_ratio.STEEP),
    "without the guard": (EVERY, ResidualNetwork, 0.0),
    "residuals and profile": (EVERY, seeing("residuals", "profile"), 0.0),
    "residuals alone": (EVERY, seeing("residuals"), 0.0),
    "the profile alone": (EVERY, seeing("profile"), 0.0),
    "the histogram alone": (EVERY, seeing("histogram"), 0.0),
    "without extreme pixels": ([FIRST, SECOND, FAINT, SQUARES], ResidualNetwork, 0.0),
    "without the faintest perturbations": ([FIRST, SECOND, SQUARES, EXTREME], ResidualNetwork, 0.0),
    "without stripes and squares": (without("squares"), ResidualNetwork, 0.0),
    "without strided convolutions": (without("strided"), ResidualNetwork, 0.0),
    "noise of one step alone": ([with_noise], ResidualNetwork, 0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the shipped detector and classifier")
    parser.add_argument("--data", required=True, help="the data set, by name or as a file")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--images", type=int, default=4000, help="that each network learns from")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_dataset(arguments.data, arguments.data_dir)
    density = load_density(arguments.name)
    assert isinstance(density, Autoregressive)
    clean, victims = data.validation[:-ATTACKED], data.validation[-ATTACKED:]
    attacked = attack_validation(arguments, data, victims)
    planes = {name: planes_of(density, x) for name, x in {"": from_uint8(clean.x), **attacked}.items()}
    learn = from_uint8(data.fit.x[: arguments.images])
    known: dict[Any, Tensor] = {}
    settings = {"data": data.name, "images": len(learn), "steps": arguments.steps, "attacked": ATTACKED}
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = found["rows"] if {**found, "rows": None} == {**settings, "rows": None} else []  # of an interrupted run
    for name, (copies, network, steep) in VARIANTS.items():
        if name in [row["variant"] for row in rows]:
            continue
        for copy in (None, *copies):
            if copy not in known:
                known[copy] = planes_of(density, learn if copy is None else copy(learn))
        with (
            mock.patch.object(residual_ratio, "ResidualNetwork", network),
            mock.patch.object(residual_ratio, "STEPS", arguments.steps),
            mock.patch.object(residual_ratio, "STEEP", steep),
            mock.patch.object(ResidualRatio, "copies", tuple(copies)),
        ):
            score = ResidualRatio().fit(known[None], *(known[copy] for copy in copies))
            scores = {key: evaluated(score, part) for key, part in planes.items()}
        threshold = float(np.quantile(scores[""], 0.99))
        rates = {key: detection_rates(scores[""], scores[key], {0.01: threshold}) for key in attacked}
        rows.append({"variant": name, "detected": rates})
        print(name, {key: (r["auroc"], r["tpr_at_fpr_0.01"]) for key, r in rates.items()}, flush=True)
        RESULTS.write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n")


def attack_validation(arguments: argparse.Namespace, data: Any, victims: Images) -> dict[str, Tensor]:
    """Returns the attacked images that fool the classifier, by attack."""
    classifier = load_classifier(arguments.name)
    held = type(data)(**{**vars(data), "test": victims})
    made = attack_all(classifier, held, list(ATTACKS), cache=Cache(arguments.cache), log=print)
    return {attack: from_uint8(result.images[result.succeeded]) for attack, result in made.items()}


@torch.no_grad()
def planes_of(density: Autoregressive, x: Tensor) -> Tensor:
    return torch.cat([ResidualRatio().features(Evidence(density, density.to_support(part))) for part in x.split(BATCH)])


@torch.no_grad()
def evaluated(score: ResidualRatio, planes: Tensor) -> np.ndarray:
    return torch.cat([score.evaluate(part) for part in planes.split(BATCH)]).numpy()


if __name__ == "__main__":
    main()
