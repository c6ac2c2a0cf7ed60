import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SAMPLE, Brightness, clean_images, randomised
from scipy.stats import beta, norm
from sklearn.metrics import roc_auc_score

from pixeldefend import load_classifier, load_detector
from pixeldefend.data import DataSet, Images
from pixeldefend.densities import build
from pixeldefend.detectors import Detector
from pixeldefend.eval import auroc, rate, run_benchmark, write_report
from pixeldefend.eval.benchmark import _detection, _oracle
from pixeldefend.eval.metrics import promised_interval
from pixeldefend.images.corruptions import CORRUPTIONS
from pixeldefend.scores import EXPENSIVE, SCORES

RESULTS = Path(__file__).parent.parent / "eval" / "results" / "fashion-mnist" / "results.json"


def test_auroc_and_its_interval():
    random = np.random.RandomState(0)
    truth = norm.cdf(1 / np.sqrt(2))  # of N(0, 1) against N(1, 1)
    covered = 0
    for _ in range(200):
        clean, attacked = random.randn(60), random.randn(50) + 1
        area, (low, high) = auroc(clean, attacked)
        assert area == pytest.approx(roc_auc_score([0] * 60 + [1] * 50, np.r_[clean, attacked]))
        assert 0 <= low <= area <= high <= 1
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.99
    assert auroc(np.zeros(5), np.ones(5)) == (1.0, rate(5, 5)[1])


def test_rate_and_its_interval():
    value, (low, high) = rate(3, 50)
    assert value == 0.06
    assert low == pytest.approx(beta.ppf(0.025, 3, 48))
    assert high == pytest.approx(beta.ppf(0.975, 4, 47))


def test_the_promised_interval_counts_both_draws():
    random = np.random.RandomState(0)
    low, high = promised_interval(10, 199, 400)
    rates = [(random.rand(400) > np.sort(random.rand(199))[-10]).mean() for _ in range(2000)]
    assert 0.92 <= np.mean([low <= r <= high for r in rates]) <= 0.98


def noisy(x: torch.Tensor) -> torch.Tensor:
    return torch.randint(0, 256, x.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def dataset(n: int = 60) -> DataSet:
    def images(count, seed):
        x = torch.from_numpy(clean_images(count, seed))[:, None]
        return Images(x, Brightness()(x / 255).argmax(1), torch.arange(count))

    return DataSet("ramps", images(10, 1), images(10, 5), images(60, 2), images(120, 3), images(n, 4))


def test_a_benchmark_end_to_end(tiny_detector, tmp_path):
    data = dataset()
    other = dataclasses.replace(data, name="noise", test=dataclasses.replace(data.test, x=noisy(data.test.x)))
    results = run_benchmark(
        tiny_detector.with_fpr(0.05),
        Brightness(),
        data,
        attacks=["noise-8", "pgd-8"],
        clean=60,
        controls=True,
        others=[other],
        oracle=True,
        by_class=True,
    )
    assert {(row["attack"], row["score"]) for row in results["rows"]} == {
        (attack, score) for attack in ("noise-8", "pgd-8") for score in SCORES if score not in EXPENSIVE
    }
    flagged = {row["what"]: row for row in results["controls"] if row["score"] == "excess_surprisal"}
    assert set(flagged) == {*CORRUPTIONS, "noise"}
    assert flagged["noise"]["flagged_at_0.01"] == 1
    assert flagged["noise"]["images"] == 60
    assert {row["class"] for row in results["by_class"]} == set(data.test.y[:60].tolist())
    assert sum(row["images"] for row in results["by_class"]) == 60
    overall = sum(row["images"] * row["flagged_at_0.05"] for row in results["by_class"]) / 60
    alarm = next(a for a in results["false_alarms"] if (a["score"], a["fpr"]) == ("excess_surprisal", 0.05))
    assert overall == pytest.approx(alarm["observed"])
    assert {row["attack"] for row in results["oracle"]} == {"noise-8", "pgd-8"}
    assert all(row["auroc"] > 0.8 for row in results["oracle"])
    for row in results["rows"]:
        assert 0 < row["succeeded"] <= row["attempted"] <= 60
        for name in ("auroc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.05", "auroc_all", "tpr_all_at_fpr_0.01"):
            low, high = row[f"{name}_ci"]
            assert 0 <= low <= row[name] <= high <= 1
        # over all, those that did not fool count too
        detected, total = row["tpr_at_fpr_0.05"] * row["succeeded"], row["tpr_all_at_fpr_0.05"] * row["attempted"]
        assert 0 <= round(total - detected, 6) <= row["attempted"] - row["succeeded"]
    noise = next(row for row in results["rows"] if (row["attack"], row["score"]) == ("noise-8", "excess_surprisal"))
    assert noise["auroc"] > 0.8
    assert noise["attempted"] == noise["succeeded"]
    # its own calibration is kept; the others are calibrated on the calibration images
    assert results["thresholds"]["excess_surprisal"]["0.05"] == pytest.approx(-tiny_detector.offset_)
    assert json.loads(json.dumps(results)) == results
    write_report(results, tmp_path / "out")
    made = ["report.html", "results.json", "results.md", "roc.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == made
    report = (tmp_path / "out" / "results.md").read_text()
    assert report.count("\n| pgd-8 |") == 2  # its own score and bits/dim; the others are in the second table
    assert report.count("\n| pit_tails |") == 4  # of which two say false alarms
    assert report.count("\n| *oracle* |") == 2
    assert "\n| jpeg-75 |" in report
    assert "False alarms of excess_surprisal by class" in report
    small = dataclasses.replace(data.test, x=torch.zeros(3, 1, 9, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"holds images of shape \(1, 9, 9\)"):
        run_benchmark(
            tiny_detector, Brightness(), data, attacks=["noise-8"], others=[dataclasses.replace(data, test=small)]
        )


def test_an_attack_that_never_succeeds_is_a_row_without_rates(tiny_detector, tmp_path):
    class Stubborn(Brightness):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2) + 0 * super().forward(x)

    data = dataset(20)
    data = DataSet(
        data.name,
        data.train,
        data.validation,
        data.fit,
        data.calibration,
        Images(data.test.x, torch.zeros(20).long(), data.test.index),
    )
    results = run_benchmark(tiny_detector, Stubborn(), data, attacks=["fgsm-1"], scores=["excess_surprisal"])
    (row,) = results["rows"]
    assert (row["attempted"], row["succeeded"], row["auroc"], row["tpr_at_fpr_0.05"]) == (20, 0, None, None)
    write_report(results, tmp_path)


def test_unknown_names_and_unlabelled_data_are_refused(tiny_detector):
    with pytest.raises(ValueError, match="unknown name 'nope'"):
        run_benchmark(tiny_detector, Brightness(), dataset(), attacks=["nope"])
    said = []
    with pytest.raises(ValueError, match="unknown attack 'nope'"):
        run_benchmark(tiny_detector, Brightness(), dataset(), adaptive=dict(attacks=["nope"]), log=said.append)
    assert not said  # before any of the attacks on the classifier
    data = dataset()
    unlabelled = DataSet(
        "x", data.train, data.validation, data.fit, data.calibration, Images(data.test.x, None, data.test.index)
    )
    with pytest.raises(ValueError, match="has no labels"):
        run_benchmark(tiny_detector, Brightness(), unlabelled)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["fgsm-8", "pgd-2"])
def test_a_published_row_is_recomputed(attack):
    """From the first half of the test images that the published benchmark attacked, and the shipped models."""
    detector = load_detector("fashion-mnist")
    published = json.loads(RESULTS.read_text())
    expected = next(r for r in published["rows"] if (r["attack"], r["score"]) == (attack, detector.statistic))
    with np.load(SAMPLE) as file:
        test = Images(torch.from_numpy(file["x"])[:, None], torch.from_numpy(file["y"]).long(), torch.arange(500))
    nothing = test[:0]
    data = DataSet("fashion-mnist", nothing, nothing, nothing, nothing, test)
    results = run_benchmark(
        detector,
        load_classifier("fashion-mnist"),
        data,
        attacks=[attack],
        scores=[detector.statistic],
    )
    (row,) = results["rows"]
    # of half of the images, and other processors round differently
    share = row["succeeded"] / row["attempted"]
    assert row["attempted"] / 500 == pytest.approx(
        expected["attempted"] / published["images"]["attacked_test"], abs=0.03
    )
    assert share == pytest.approx(expected["succeeded"] / expected["attempted"], abs=0.04)
    assert row["auroc"] == pytest.approx(expected["auroc"], abs=0.002)
    for name in ("tpr_at_fpr_0.01", "tpr_at_fpr_0.05"):
        assert row[name] == pytest.approx(expected[name], abs=0.02)


def test_an_oracle_learns_nothing_from_noise():
    random = np.random.RandomState(0)
    base, jitter = random.randn(300, 3), 0.01 * random.randn(250, 3)
    clean = {str(k): base[:, k] for k in range(3)}
    attacked = {str(k): base[:250, k] + jitter[:, k] for k in range(3)}
    found = _oracle(clean, attacked, np.arange(250))
    assert 0.4 < found["auroc"] < 0.6
    assert found["tpr_at_fpr_0.01"] < 0.06


def test_detection_over_no_image_is_none():
    row = _detection(np.arange(9.0), np.empty(0), {0.01: 8.0}, "_all")
    assert set(row) == {"auroc_all", "auroc_all_ci", "tpr_all_at_fpr_0.01", "tpr_all_at_fpr_0.01_ci"}
    assert set(row.values()) == {None}


def test_a_density_of_other_training_images_is_warned_of(tiny_detector, tmp_path):
    settings = dict(attacks=["noise-8"], scores=[], limit=10)
    data = dataset()
    for recipe, warned in (({}, 0), ({"train_sha256": data.train.digest()}, 0), ({"train_sha256": "0" * 64}, 1)):
        results = run_benchmark(tiny_detector, Brightness(), data, recipe=recipe, **settings)
        assert len(results["warnings"]) == warned
    write_report(results, tmp_path)
    for name in ("results.md", "report.html"):
        assert "trained on other images than ramps" in (tmp_path / name).read_text()


def test_scores_that_a_density_does_not_have_are_left_out(tiny_detector):
    data = dataset()
    few = dataclasses.replace(data, fit=data.fit[:20])
    lines = []
    results = run_benchmark(tiny_detector, Brightness(), few, attacks=["noise-8"], limit=20, log=lines.append)
    assert "fused" not in {row["score"] for row in results["rows"]}
    assert any(line.startswith("without fused: it needs 50 images") for line in lines)
    binary = randomised(build({"model": "fvsbn", "event_shape": [1, 8, 8], "head": "bernoulli"}))
    detector = Detector(binary, statistic="bits_per_dim", fpr=0.05).fit(data.calibration.x)
    results = run_benchmark(detector, Brightness(), data, attacks=["noise-8"], limit=20)
    assert {row["score"] for row in results["rows"]} == set(SCORES) - set(EXPENSIVE) - {"surprisal_given_length"}
