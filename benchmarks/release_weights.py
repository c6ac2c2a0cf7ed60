"""Makes the shipped models of what was trained: python benchmarks/release_weights.py RUNS NAME --statistic STATISTIC

It reads RUNS/density/density.safetensors and RUNS/classifier/classifier.safetensors, calibrates the detector on the
data set NAME (or DATA, if its images are held in another form), measures both models on its official test images, and
writes NAME-detector and NAME-classifier, each .safetensors and .json, to pixeldefend/weights.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pixeldefend.classifier import predict_labels
from pixeldefend.data import load_dataset
from pixeldefend.serialization import load_tensors, sha256_of
from pixeldefend.training.calibrate import calibrate
from pixeldefend.zoo import load_classifier, recipe_of

WEIGHTS = Path(__file__).parent.parent / "pixeldefend" / "weights"
FIT_IMAGES = 2000  # that a statistic learns from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("name", help="the name of the models, and of the data set that they were trained on")
    parser.add_argument("--statistic", required=True, help="the detector's")
    parser.add_argument("--data", help="the data set, if it is not found under its name")
    parser.add_argument("--data-dir", default="data")
    arguments = parser.parse_args()
    name, runs = arguments.name, arguments.runs
    data = load_dataset(arguments.data or name, arguments.data_dir)
    x = torch.cat([data.calibration.x, data.test.x])  # all official test images: the density has seen none of them
    y = torch.cat([data.calibration.y, data.test.y])

    source = runs / "density" / "density.safetensors"
    made = calibrate(source, data, statistic=arguments.statistic, backends=["bfloat16"], fit_images=FIT_IMAGES)
    metrics: dict[str, Any] = {
        "test_images": len(x),
        "test_bits_per_dim": made.detector.bits_per_dim(x).mean(),
        "clean_images": len(data.test),
        "false_alarms_at_0.01": made.metrics["test_false_alarms"],
    }
    calibration = {"images": len(data.calibration), "statistic": arguments.statistic}
    detector = WEIGHTS / f"{name}-detector.safetensors"
    notes = dict(data=name, metrics=metrics, recipe={**made.notes["recipe"], "data": name})
    made.detector.save(detector, calibration=calibration, **notes)
    write_card(detector)

    source = runs / "classifier" / "classifier.safetensors"
    classifier = load_classifier(source)
    accuracy = (predict_labels(classifier, x) == y).double().mean().item()
    metrics = {"test_images": len(x), "test_accuracy": accuracy}
    recipe = {"torch": torch.__version__, **recipe_of(str(source)), "data": name}
    path = WEIGHTS / f"{name}-classifier.safetensors"
    classifier.save(path, data=name, metrics=metrics, recipe=recipe)
    write_card(path)


def write_card(model: Path) -> None:
    """Writes the JSON beside a model file: what is in the file's header, and the sha256 of its bytes."""
    card = {"sha256": sha256_of(model), **load_tensors(model)[1]}
    model.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(model.with_suffix(".json").read_text())


if __name__ == "__main__":
    main()
