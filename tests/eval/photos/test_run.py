"""The benchmark on photographs from end to end."""

import json
from unittest import mock

import jsonschema
import pytest
import torch

from pixeldefend.attacks import ATTACKS
from pixeldefend.errors import DataError, ParameterError
from pixeldefend.eval import Cache, compare_photographs, entry, leaderboard_table, run_photographs, write_comparison
from pixeldefend.eval.photos import Learning, attack_photographs, read_photographs
from pixeldefend.eval.report import html, markdown, verdict, write_report
from pixeldefend.images.corruptions import HISTORIES

STATISTIC = "roughness"


@pytest.fixture(scope="module")
def photographs(folder, classifier):
    return read_photographs(folder, classifier)


@pytest.fixture(scope="module")
def some_histories():
    some = dict(list(HISTORIES.items())[:2])
    with mock.patch.dict(HISTORIES, some, clear=True):  # which restores their order too, unlike monkeypatch
        yield list(some)


@pytest.fixture(scope="module")
def results(detector, classifier, photographs, some_histories):
    adaptive = dict(attacks=["blind-pgd", "joint-pgd"], eps=[8], limit=2, steps=2)
    attacks = ["noise-8", "pgd-8"]
    return run_photographs(
        detector, classifier, photographs, attacks=attacks, limit=8, corruptions=True, adaptive=adaptive
    )


def test_results_follow_the_schema_of_all_benchmarks(results, schema):
    assert json.loads(json.dumps(results)) == results
    jsonschema.validate({**results, "command": "x"}, schema)
    assert (results["view"], results["labels"]) == ("16", "given")
    assert results["images"]["clean_test"] == 12
    assert results["images"]["attacked_test"] == 8
    assert results["images"]["left_out"] == 1


def test_rows_count_what_still_misleads(results):
    rows = {row["attack"]: row for row in results["rows"]}
    assert set(rows) == {"noise-8", "pgd-8"}
    assert rows["pgd-8"]["succeeded"] == rows["pgd-8"]["attempted"] > 0
    for row in rows.values():
        assert row["tpr_at_fpr_0.001"] is None
        assert row["tpr_at_fpr_0.01"] <= row["tpr_at_fpr_0.05"]
    saved = {(row["attack"], row["saved_as"]): row for row in results["resaved"]}
    assert set(saved) == {(attack, how) for attack in rows for how in ("jpeg-90", "webp-80")}
    for (attack, _), row in saved.items():
        assert row["fooling"] == rows[attack]["succeeded"]
        assert 0 <= row["still_fooling"] <= row["fooling"]
        assert (row["auroc"] is None) == (row["still_fooling"] == 0)


def test_false_alarms_are_counted_for_each_history(results, some_histories):
    found = {row["what"]: row for row in results["benign_corruptions"]}
    assert {"as it is", "attacked view, jpeg-90", "attacked view, webp-80", *some_histories} == set(found)
    for row in found.values():
        low, high = row["flagged_at_0.05_ci"]
        assert low <= row["flagged_at_0.05"] <= high
        assert row["refused"] == 0
    assert found["as it is"]["images"] == 12


def test_reports_and_leaderboards_are_written(results, tmp_path):
    write_report(results, tmp_path / "out")
    text, page = markdown(results), html(results)
    for what in ("jpeg-90", "as it is", "0.1 %", "given"):
        assert what in text
        assert what in page
    assert "at 1 % false alarms" in verdict(results).lower()
    (tmp_path / "board").mkdir()
    found = entry("mine", results, "command")
    (tmp_path / "board" / "mine.json").write_text(json.dumps(found))
    assert "view 16" in leaderboard_table(tmp_path / "board")


def test_images_at_their_own_size_are_attacked_through_the_resizing(classifier, folder, detector, tmp_path):
    photographs = read_photographs(folder, classifier, view="native", limit=4)
    cache = Cache(tmp_path)
    made = attack_photographs(classifier, photographs, ["bim-8"], cache=cache)["bim-8"]
    assert [image.shape for image in made.images] == [image.shape for image in photographs.x]
    assert made.succeeded.all()
    assert made.linf.max() <= 8 / 255 + 1e-6
    for image, attacked, linf in zip(photographs.x, made.images, made.linf, strict=True):
        assert (attacked.float() - image.float()).abs().max() / 255 == pytest.approx(float(linf))
        assert classifier(attacked[None] / 255).argmax() != classifier(image[None] / 255).argmax()
    again = attack_photographs(classifier, photographs, ["bim-8"], cache=cache)["bim-8"]
    assert all(map(torch.equal, again.images, made.images))
    results = run_photographs(detector, classifier, photographs, attacks=["bim-8"], attacked={"bim-8": made})
    assert results["view"] == "native"
    assert html(results)


def test_several_detectors_see_the_same_images(detector, classifier, photographs, tmp_path):
    compared = compare_photographs(
        {"a": detector, "b": detector.with_fpr(0.01)}, classifier, photographs, attacks=["fgsm-8"], limit=4
    )
    a, b = (compared["detectors"][name]["rows"] for name in "ab")
    assert a == b
    write_comparison(compared, tmp_path)
    assert "| a |" in (tmp_path / "comparison.md").read_text()


def test_what_cannot_be_measured_is_refused_before_anything_is_attacked(
    detector, classifier, photographs, folder, monkeypatch
):
    monkeypatch.setattr("pixeldefend.eval.photos.run.attack_photographs", lambda *a, **k: pytest.fail("attacked"))
    with pytest.raises(ParameterError):
        run_photographs(detector, classifier, photographs, attacks=["nope"])
    with pytest.raises(DataError):
        run_photographs(detector, classifier, photographs, learning=Learning.of(photographs))
    with pytest.raises(ParameterError):
        run_photographs(detector, classifier, photographs, adaptive=dict(attacks=["nope"]))
    with pytest.raises(ParameterError, match="got 0"):
        run_photographs(detector, classifier, photographs, limit=0)
    with pytest.raises(ParameterError, match="got 0"):
        compare_photographs({"a": detector}, classifier, photographs, limit=0)
    native = read_photographs(folder, classifier, view="native", limit=2)
    with pytest.raises(ParameterError):
        run_photographs(detector, classifier, native, adaptive={})


def test_the_goals_are_presets():
    steps = (1, 2, 4, 8)
    wanted = {f"{kind}-{k}" for kind in ("fgsm", "bim", "pgd", "apgd-ce", "apgd-dlr", "square") for k in steps}
    wanted |= {"pgd-l2-0.5", "pgd-l2-1.0", "cw-l2", "deepfool-l2", "deepfool-linf"}
    assert wanted <= set(ATTACKS)
