"""The results that are published."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from helpers import SAMPLE

from pixeldefend import load_classifier, load_detector
from pixeldefend.attacks import craft
from pixeldefend.classifier import predict_labels
from pixeldefend.data import DataSet, Images
from pixeldefend.eval import run_benchmark
from pixeldefend.eval.leaderboard import read_entries
from pixeldefend.eval.upgrade import FORMAT

RESULTS = Path(__file__).parents[2] / "eval" / "results"
FILES = sorted(RESULTS.glob("*/results.json"))


@pytest.fixture(scope="module")
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """The first 500 test images of Fashion-MNIST, which are half of those that the published benchmarks attacked."""
    with np.load(SAMPLE) as file:
        return torch.from_numpy(file["x"])[:, None], torch.from_numpy(file["y"]).long()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_published_results_follow_their_schema(path, schema):
    errors = jsonschema.Draft202012Validator(schema).iter_errors(json.loads(path.read_text()))
    assert [f"{error.json_path}: {error.message[:100]}" for error in errors] == []


def test_everything_published_has_the_format_of_today():
    assert FILES
    for path in RESULTS.glob("*/*.json"):
        assert json.loads(path.read_text())["format"] == FORMAT, path


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["fgsm-8", "pgd-2"])
def test_a_published_row_is_recomputed(attack, sample):
    detector = load_detector("fashion-mnist")
    published = json.loads((RESULTS / "fashion-mnist" / "results.json").read_text())
    expected = next(r for r in published["rows"] if (r["attack"], r["statistic"]) == (attack, detector.statistic))
    test = Images(*sample, torch.arange(500))
    nothing = test[:0]
    data = DataSet("fashion-mnist", nothing, nothing, nothing, nothing, test)
    results = run_benchmark(
        detector, load_classifier("fashion-mnist"), data, attacks=[attack], statistics=[detector.statistic]
    )
    (row,) = results["rows"]
    # of half of the images, and other processors round differently
    share = row["succeeded"] / row["attempted"]
    attacked = published["images"]["attacked_test"]
    assert row["attempted"] / 500 == pytest.approx(expected["attempted"] / attacked, abs=0.03)
    assert share == pytest.approx(expected["succeeded"] / expected["attempted"], abs=0.04)
    assert row["auroc"] == pytest.approx(expected["auroc"], abs=0.002)
    for name in ("tpr_at_fpr_0.01", "tpr_at_fpr_0.05"):
        assert row[name] == pytest.approx(expected[name], abs=0.02)


@pytest.mark.slow
def test_a_row_of_the_leaderboard_is_recomputed(sample):
    (shipped,) = (e for e in read_entries() if (e["data"], e["statistic"]) == ("fashion-mnist", "pooled"))
    assert shipped["images"]["attacked_test"] == 1000
    row = next(row for row in shipped["rows"] if row["attack"] == "fgsm-8")
    x, y = sample
    detector, classifier = load_detector("fashion-mnist"), load_classifier("fashion-mnist")
    correct = predict_labels(classifier, x) == y
    assert 0 <= row["attempted"] - int(correct.sum()) <= 500
    made = craft(classifier, x[correct], y[correct], "fgsm-8")
    # nothing is known here of the other half, but that it is like this one: three standard deviations of the share
    assert made.succeeded.double().mean().item() == pytest.approx(row["succeeded"] / row["attempted"], abs=0.05)
    scores = -detector.score_samples(made.images[made.succeeded])
    for fpr in (0.01, 0.05):
        found = (scores > -detector.with_fpr(fpr).offset_).mean()
        assert found == pytest.approx(row[f"tpr_at_fpr_{fpr}"], abs=0.02)
