"""The benchmark from end to end."""

import dataclasses
import json
import math

import jsonschema
import pytest
import torch
from helpers import Brightness

from pixeldefend.attacks import ATTACKS, Attack
from pixeldefend.data import Images
from pixeldefend.errors import DataError, ParameterError
from pixeldefend.eval import SUITES, run_benchmark, write_report
from pixeldefend.eval.report import html, markdown
from pixeldefend.images.corruptions import CORRUPTIONS

STATISTICS = ["bits_per_dim", "excess_surprisal", "typicality", "pit_tails"]


def noisy(x: torch.Tensor) -> torch.Tensor:
    return torch.randint(0, 256, x.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole(detector, data):
    """Everything but attacks that know the detector."""
    other = dataclasses.replace(data, name="noise", test=dataclasses.replace(data.test, x=noisy(data.test.x)))
    return run_benchmark(
        detector,
        Brightness(),
        data,
        attacks=["noise-8", "pgd-8"],
        statistics=STATISTICS,
        clean=30,
        corruptions=True,
        other_data=[other],
        oracle=True,
        by_class=True,
    )


def test_there_is_a_row_for_every_attack_and_statistic(whole):
    keys = {(row["attack"], row["statistic"]) for row in whole["rows"]}
    assert keys == {(attack, name) for attack in ("noise-8", "pgd-8") for name in STATISTICS}
    for row in whole["rows"]:
        assert 0 < row["succeeded"] <= row["attempted"] <= 30
        for name in ("auroc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.05", "auroc_all", "tpr_all_at_fpr_0.01"):
            low, high = row[f"{name}_ci"]
            assert 0 <= low <= row[name] <= high <= 1
        # over all, those that did not succeed count too
        detected, total = row["tpr_at_fpr_0.05"] * row["succeeded"], row["tpr_all_at_fpr_0.05"] * row["attempted"]
        assert 0 <= round(total - detected, 6) <= row["attempted"] - row["succeeded"]
    control = next(r for r in whole["rows"] if (r["attack"], r["statistic"]) == ("noise-8", "excess_surprisal"))
    assert control["is_control"]
    assert control["auroc"] > 0.6
    assert control["attempted"] == control["succeeded"]


def test_what_else_is_flagged(whole):
    benign = {row["what"]: row for row in whole["benign_corruptions"] if row["statistic"] == "excess_surprisal"}
    assert set(benign) == set(CORRUPTIONS)
    (noise,) = (row for row in whole["other_data"] if row["statistic"] == "excess_surprisal")
    assert (noise["what"], noise["images"], noise["flagged_at_0.01"]) == ("noise", 30, 1)


def test_false_alarms_by_class_add_up(whole, data):
    assert {row["class"] for row in whole["by_class"]} == set(data.test.y.tolist())
    overall = sum(row["images"] * row["flagged_at_0.05"] for row in whole["by_class"]) / 30
    alarm = next(a for a in whole["false_alarms"] if (a["statistic"], a["fpr"]) == ("excess_surprisal", 0.05))
    assert overall == pytest.approx(alarm["observed"])


def test_an_oracle_is_fitted_to_each_attack(whole):
    assert {row["attack"] for row in whole["oracle"]} == {"noise-8", "pgd-8"}
    assert all(row["auroc"] > 0.7 for row in whole["oracle"])


def test_its_own_calibration_is_kept(whole, detector):
    assert whole["thresholds"]["excess_surprisal"]["0.05"] == pytest.approx(-detector.offset_)


def test_results_are_plain_and_follow_their_schema(whole, results, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    for found in (whole, results):
        assert json.loads(json.dumps(found)) == found
        jsonschema.validate({**found, "command": "x"}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**found, "unheard_of": 1}, schema)


def test_the_tables_of_results_md(whole, tmp_path):
    write_report(whole, tmp_path / "out")
    made = ["report.html", "results.json", "results.md", "roc.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == made
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == whole
    report = (tmp_path / "out" / "results.md").read_text()
    assert report.count("\n| pit_tails |") == 4  # in two tables, and twice in that of false alarms
    assert report.count("\n| *oracle* |") == 2
    for what in ("jpeg-75", "noise"):
        assert f"\n| {what} |" in report


def test_an_attack_that_never_succeeds_is_a_row_without_rates(detector, constant, zeros, tmp_path):
    results = run_benchmark(detector, constant, zeros, attacks=["fgsm-1"], statistics=[])
    (row,) = results["rows"]
    assert (row["attempted"], row["succeeded"], row["auroc"], row["tpr_at_fpr_0.05"]) == (30, 0, None, None)
    write_report(results, tmp_path)


def test_bad_arguments_are_refused_before_anything_is_attacked(detector, data, monkeypatch):
    monkeypatch.setattr("pixeldefend.eval.run.attack_all", lambda *a, **k: pytest.fail("attacked"))

    def refused(error, **settings):
        with pytest.raises(error):
            run_benchmark(detector, Brightness(), settings.pop("data", data), **settings)

    lines = []
    refused(ParameterError, attacks=["nope"])
    refused(ParameterError, statistics=["nope"])
    refused(ParameterError, adaptive=dict(attacks=["nope"]), log=lines.append)
    assert not lines
    refused(DataError, data=dataclasses.replace(data, test=Images(data.test.x, None, data.test.index)))
    small = dataclasses.replace(data.test, x=torch.zeros(3, 1, 9, 9, dtype=torch.uint8))
    refused(DataError, other_data=[dataclasses.replace(data, test=small)])
    labelled = dataclasses.replace(small, y=torch.zeros(3).long())  # the detector takes 8 x 8
    refused(DataError, data=dataclasses.replace(data, test=labelled), log=lines.append)
    assert not lines
    refused(ParameterError, other_data=[data, data])


def test_a_new_attack_is_known_everywhere(detector, data, monkeypatch):
    with pytest.raises(ParameterError, match="salt-and-pepper"):  # names what there is
        run_benchmark(detector, Brightness(), data, attacks=["fgsm-3"])
    monkeypatch.setitem(ATTACKS, "fgsm-3", Attack("LinfFastGradientAttack", 3 / 255))
    results = run_benchmark(detector, Brightness(), data, attacks=["fgsm-3"], statistics=[], limit=10)
    (row,) = results["rows"]
    assert row["attack"] == "fgsm-3"
    assert row["linf_median"] == pytest.approx(3 / 255, abs=1e-6)


def test_suites_hold_arguments_that_exist():
    for suite in SUITES.values():
        assert set(suite.get("attacks", [])) <= set(ATTACKS)
        assert set(suite) <= set(run_benchmark.__kwdefaults__)


def test_a_density_of_other_training_images_is_warned_of(detector, data):
    settings = dict(attacks=["noise-8"], statistics=[], limit=10)
    for recipe, warned in (({}, 0), ({"train_sha256": data.train.digest()}, 0), ({"train_sha256": "0" * 64}, 1)):
        results = run_benchmark(detector, Brightness(), data, recipe=recipe, **settings)
        assert len(results["warnings"]) == warned
    for written in (markdown(results), html(results)):
        assert results["warnings"][0] in written


def test_modes_and_weights_are_left_as_they_were(detector, data):
    classifier = Brightness().train()
    run_benchmark(detector, classifier, data, attacks=["pgd-8"], statistics=[], limit=5)
    assert classifier.training
    assert not detector.density.training
    assert detector.classifier is None


def test_accuracy_and_bits_are_those_of_the_clean_images(whole, detector, data):
    assert whole["classifier_accuracy"] == 1
    assert math.isclose(whole["bits_per_dim"], detector.bits_per_dim(data.test.x).mean(), rel_tol=1e-5)
