"""The results that are published."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from helpers import SAMPLE

from pixeldefend import load_classifier, load_detector
from pixeldefend.data import DataSet, Images
from pixeldefend.eval import run_benchmark
from pixeldefend.eval.leaderboard import read_entries
from pixeldefend.eval.upgrade import FORMAT

RESULTS = Path(__file__).parents[2] / "eval" / "results"
FILES = sorted(RESULTS.glob("*/results.json"))


RECOMPUTED = 250  # the first test images of Fashion-MNIST: a quarter of those that the published benchmarks attacked


@pytest.fixture(scope="module")
def recomputed() -> dict[str, dict]:
    """The rows of the shipped detector, by attack: one of one step, and one that iterates."""
    with np.load(SAMPLE) as file:
        x, y = (torch.from_numpy(file[name][:RECOMPUTED]) for name in ("x", "y"))
    test = Images(x[:, None], y.long(), torch.arange(RECOMPUTED))
    nothing = test[:0]
    data = DataSet("fashion-mnist", nothing, nothing, nothing, nothing, test)
    detector, classifier = load_detector("fashion-mnist"), load_classifier("fashion-mnist")
    attacks = ["fgsm-8", "bim-8"]
    results = run_benchmark(detector, classifier, data, attacks=attacks, statistics=[detector.statistic])
    return {row["attack"]: row for row in results["rows"]}


def assert_success_like(row: dict, published: dict) -> None:
    """Compares how often an attack succeeded. Nothing is known here of the images that were not attacked again."""
    share = row["succeeded"] / row["attempted"]
    assert share == pytest.approx(published["succeeded"] / published["attempted"], abs=0.05)


def assert_detection_like(row: dict, published: dict) -> None:
    """Compares the detection rates. Other processors round differently."""
    for name in ("tpr_at_fpr_0.01", "tpr_at_fpr_0.05"):
        assert row[name] == pytest.approx(published[name], abs=0.02)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_published_results_follow_their_schema(path, schema):
    errors = jsonschema.Draft202012Validator(schema).iter_errors(json.loads(path.read_text()))
    assert [f"{error.json_path}: {error.message[:100]}" for error in errors] == []


def test_everything_published_has_the_format_of_today():
    assert FILES
    for path in RESULTS.glob("*/*.json"):
        assert json.loads(path.read_text())["format"] == FORMAT, path


@pytest.mark.slow
def test_published_rows_are_recomputed(recomputed):
    published = json.loads((RESULTS / "fashion-mnist" / "results.json").read_text())
    statistic = load_detector("fashion-mnist").statistic
    assert published["statistic"] == statistic
    attacked = published["images"]["attacked_test"]
    for attack, row in recomputed.items():
        (expected,) = (r for r in published["rows"] if (r["attack"], r["statistic"]) == (attack, statistic))
        assert row["attempted"] / RECOMPUTED == pytest.approx(expected["attempted"] / attacked, abs=0.03)
        assert row["auroc"] == pytest.approx(expected["auroc"], abs=0.002)
        assert_success_like(row, expected)
        assert_detection_like(row, expected)


@pytest.mark.slow
def test_rows_of_the_leaderboard_are_recomputed(recomputed):
    """An attack succeeds equally often against all detectors. A row of an older statistic says no more than that."""
    entries = [e for e in read_entries() if e["data"] == "fashion-mnist" and e["images"]["attacked_test"] == 1000]
    assert entries
    for entry in entries:
        for attack, row in recomputed.items():
            (expected,) = (r for r in entry["rows"] if r["attack"] == attack)
            assert 0 <= expected["attempted"] - row["attempted"] <= 1000 - RECOMPUTED
            assert_success_like(row, expected)
            if entry["statistic"] == load_detector("fashion-mnist").statistic:
                assert_detection_like(row, expected)
