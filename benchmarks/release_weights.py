"""Makes the shipped models of small images of what was trained.

    python benchmarks/release_weights.py detector DENSITY NAME --data DATA --statistic STATISTIC
    python benchmarks/release_weights.py classifier CLASSIFIER NAME --data DATA

The first calibrates a detector of the density on the data set DATA. Both measure the model on the official test images,
and write NAME-detector or NAME-classifier, .safetensors and .json, to pixeldefend/weights.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pixeldefend.classifier import predict_labels
from pixeldefend.data import DataSet, load_dataset
from pixeldefend.serialization import load_tensors, sha256_of
from pixeldefend.training.calibrate import calibrate
from pixeldefend.zoo import load_classifier, recipe_of

WEIGHTS = Path(__file__).parent.parent / "pixeldefend" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["detector", "classifier"])
    parser.add_argument("source", help="the file of a density or a classifier, or the name of a shipped model")
    parser.add_argument("name", help="the name of the model")
    parser.add_argument("--data", required=True, help="the data set, by name or as a file")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--statistic", default="residual_ratio", help="the detector's")
    parser.add_argument("--fit-images", type=int, default=20_000, help="that the statistic learns from")
    parser.add_argument("--corruption", action="append", default=[], help="that the detector is calibrated for")
    parser.add_argument("--threads", type=int, help="that torch uses")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = load_dataset(arguments.data, arguments.data_dir)
    if arguments.kind == "detector":
        write_detector(arguments, data)
    else:
        write_classifier(arguments, data)


def write_detector(arguments: argparse.Namespace, data: DataSet) -> None:
    """Calibrates a detector, measures it and writes it with its card."""
    statistic, corruptions = arguments.statistic, arguments.corruption
    options: dict[str, Any] = {"corruptions": corruptions, "fit_images": arguments.fit_images}
    made = calibrate(arguments.source, data, statistic=statistic, backends=["bfloat16"], **options)
    # all official test images: the density has seen none of them
    x = torch.cat([data.calibration.x, data.test.x])
    metrics: dict[str, Any] = {
        "test_images": len(x),
        "test_bits_per_dim": made.detector.bits_per_dim(x).mean(),
        "clean_images": len(data.test),
        "false_alarms_at_0.01": made.metrics["test_false_alarms"],
    }
    calibration = {"images": len(data.calibration), "statistic": statistic, "fit_images": arguments.fit_images}
    path = WEIGHTS / f"{arguments.name}-detector.safetensors"
    recipe = {**made.notes["recipe"], "data": data.name}
    made.detector.save(path, data=data.name, calibration=calibration, metrics=metrics, recipe=recipe)
    write_card(path)


def write_classifier(arguments: argparse.Namespace, data: DataSet) -> None:
    """Measures a classifier and writes it with its card."""
    x, y = torch.cat([data.calibration.x, data.test.x]), torch.cat([data.calibration.y, data.test.y])
    classifier = load_classifier(arguments.source)
    accuracy = (predict_labels(classifier, x) == y).double().mean().item()
    metrics = {"test_images": len(x), "test_accuracy": accuracy}
    recipe = {"torch": torch.__version__, **recipe_of(arguments.source), "data": data.name}
    path = WEIGHTS / f"{arguments.name}-classifier.safetensors"
    classifier.save(path, data=data.name, metrics=metrics, recipe=recipe)
    write_card(path)


def write_card(model: Path) -> None:
    """Writes the JSON beside a model file: what is in the file's header, and the sha256 of its bytes."""
    card = {"sha256": sha256_of(model), **load_tensors(model)[1]}
    model.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(model.with_suffix(".json").read_text())


if __name__ == "__main__":
    main()
