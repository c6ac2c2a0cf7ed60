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


def assert_like(row: dict, published: dict) -> None:
    """Compares the rates. Nothing is known here of the other images, and other processors round differently."""
    share = row["succeeded"] / row["attempted"]
    assert share == pytest.approx(published["succeeded"] / published["attempted"], abs=0.05)
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
    attacked = published["images"]["attacked_test"]
    for attack, row in recomputed.items():
        (expected,) = (r for r in published["rows"] if (r["attack"], r["statistic"]) == (attack, "pooled"))
        assert row["attempted"] / RECOMPUTED == pytest.approx(expected["attempted"] / attacked, abs=0.03)
        assert row["auroc"] == pytest.approx(expected["auroc"], abs=0.002)
        assert_like(row, expected)


@pytest.mark.slow
def test_rows_of_the_leaderboard_are_recomputed(recomputed):
    (shipped,) = (e for e in read_entries() if (e["data"], e["statistic"]) == ("fashion-mnist", "pooled"))
    attacked = shipped["images"]["attacked_test"]
    assert attacked == 1000
    for attack, row in recomputed.items():
        (expected,) = (r for r in shipped["rows"] if r["attack"] == attack)
        assert 0 <= expected["attempted"] - row["attempted"] <= attacked - RECOMPUTED
        assert_like(row, expected)
