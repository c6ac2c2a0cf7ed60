"""Makes the shipped models of what was trained: python benchmarks/ship.py RUNS NAME [--data-dir DIR]

Reads RUNS/density/density.safetensors and RUNS/classifier/classifier.safetensors, calibrates the detector on the data
set NAME, measures both on its test images, and writes NAME-detector and NAME-classifier, each .safetensors and .json,
to pixeldefend/weights.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from pixeldefend.classifiers import ResNet
from pixeldefend.datasets import load_dataset
from pixeldefend.storage import load_tensors, sha256_of

PROGRAM = Path(sys.executable).parent / "pixeldefend"
WEIGHTS = Path(__file__).parent.parent / "pixeldefend" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("name")
    parser.add_argument("--data-dir", default="data")
    arguments = parser.parse_args()

    detector = WEIGHTS / f"{arguments.name}-detector.safetensors"
    density = arguments.runs / "density" / "density.safetensors"
    command = [PROGRAM, "calibrate", "--density", density, "--data", arguments.name, "--out", detector]
    subprocess.run([*command, "--data-dir", arguments.data_dir], check=True)
    write_card(detector)

    source = arguments.runs / "classifier" / "classifier.safetensors"
    classifier = ResNet.load(source)
    test = load_dataset(arguments.name, arguments.data_dir).test
    with torch.inference_mode():
        right = [classifier(x / 255).argmax(1) == y for x, y in zip(test.x.split(250), test.y.split(250), strict=True)]
    recipe = {**load_tensors(source)[1]["recipe"], "torch": torch.__version__}
    metrics = {"test_images": len(test), "test_accuracy": torch.cat(right).double().mean().item()}
    target = WEIGHTS / f"{arguments.name}-classifier.safetensors"
    classifier.save(target, data=arguments.name, metrics=metrics, recipe=recipe)
    write_card(target)


def write_card(model: Path) -> None:
    """Writes the JSON beside a model file: what is in the file's header, and the sha256 of its bytes."""
    card = {"sha256": sha256_of(model), **load_tensors(model)[1]}
    model.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(model.with_suffix(".json").read_text())


if __name__ == "__main__":
    main()
