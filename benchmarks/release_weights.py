"""Makes the shipped models of what was trained: python benchmarks/release_weights.py RUNS NAME [--data DATA] [--data-dir DIR]

Reads RUNS/density/density.safetensors and RUNS/classifier/classifier.safetensors, calibrates the detector on the data
set NAME (or, if its images are held in another form, DATA), measures both on its test images, and writes NAME-detector
and NAME-classifier, each .safetensors and .json, to pixeldefend/weights.
"""

import argparse
import json
from pathlib import Path

import torch

from pixeldefend import Detector, densities
from pixeldefend.classifier import ResNet
from pixeldefend.data import load_dataset
from pixeldefend.serialization import load_tensors, sha256_of

SCORES = {
    # where the model is sure of most sites, even the least noise moves several scores far: no contrast is needed
    "fashion-mnist": "pooled",
    "cifar10": "fused",
}
WEIGHTS = Path(__file__).parent.parent / "pixeldefend" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("name", choices=SCORES)
    parser.add_argument("--data")
    parser.add_argument("--data-dir", default="data")
    arguments = parser.parse_args()

    name = arguments.name
    data = load_dataset(arguments.data or name, arguments.data_dir)
    every_test_image = torch.cat([data.calibration.x, data.test.x])
    every_label = torch.cat([data.calibration.y, data.test.y])

    source = arguments.runs / "density" / "density.safetensors"
    detector = Detector(densities.load(source), statistic=SCORES[name])
    detector.fit(data.calibration.x, X_fit=data.fit.x[:2000], backends=["bfloat16"])
    verdicts = detector.judge(every_test_image)
    metrics = {
        "test_images": len(every_test_image),
        "test_bits_per_dim": verdicts.bits_per_dim.mean(),
        "clean_images": len(data.test),
        "false_alarms_at_0.01": verdicts.is_adversarial[-len(data.test) :].mean(),
    }
    target = WEIGHTS / f"{name}-detector.safetensors"
    calibration = {"images": len(data.calibration), "score": detector.statistic}
    detector.save(target, data=name, calibration=calibration, metrics=metrics, recipe=recipe(source, name))
    write_card(target)

    source = arguments.runs / "classifier" / "classifier.safetensors"
    classifier = ResNet.load(source)
    with torch.inference_mode():
        labels = torch.cat([classifier(x / 255).argmax(1) for x in every_test_image.split(250)])
    accuracy = (labels == every_label).double().mean().item()
    metrics = {"test_images": len(every_test_image), "test_accuracy": accuracy}
    target = WEIGHTS / f"{name}-classifier.safetensors"
    classifier.save(target, data=name, metrics=metrics, recipe=recipe(source, name))
    write_card(target)


def recipe(model: Path, name: str) -> dict[str, object]:
    """Returns how it was trained, on what, and with which torch."""
    return {"torch": torch.__version__, **load_tensors(model)[1]["recipe"], "data": name}


def write_card(model: Path) -> None:
    """Writes the JSON beside a model file: what is in the file's header, and the sha256 of its bytes."""
    card = {"sha256": sha256_of(model), **load_tensors(model)[1]}
    model.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(model.with_suffix(".json").read_text())


if __name__ == "__main__":
    main()
