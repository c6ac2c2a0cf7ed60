"""Attackers who know the detector, counted."""

from collections import Counter

import numpy as np
import pytest
import torch
from helpers import Brightness, clean_images

from pixeldefend import Detector
from pixeldefend.data import Images
from pixeldefend.errors import DataError, ParameterError
from pixeldefend.eval import ADAPTIVE, Cache, as_detector, run_adaptive, run_benchmark
from pixeldefend.eval.adaptive import AdaptiveAttack, detector_aware_rows
from pixeldefend.eval.adaptive.checks import run_checks
from pixeldefend.eval.adaptive.outcome import FPRS, Outcome
from pixeldefend.eval.adaptive.presets import resolve_attacks
from pixeldefend.eval.adaptive.runner import thresholds_of

RATES = [f"evasion_rate_at_fpr_{fpr}" for fpr in FPRS]


class Recorder(Cache):
    """Keeps nothing, and remembers what it was asked for."""

    def __init__(self):
        super().__init__(None)
        self.keys = []

    def __call__(self, key, make):
        self.keys.append(key)
        return super().__call__(key, make)


def test_rows_of_attackers_who_know_the_detector(results):
    rows = {(row["attack"], row["eps"]): row for row in results["adaptive"]["rows"]}
    assert len(rows) == 5 * 3 + 2
    for row in rows.values():
        # a higher false-alarm rate is harder to evade, and whatever evades is misclassified
        assert row["misclassified"] >= row[RATES[0]] >= row[RATES[1]] >= row[RATES[2]]
        low, high = row[f"{RATES[1]}_ci"]
        assert 0 <= low <= row[RATES[1]] <= high <= 1
        if row["against"] == "purifier + classifier":
            assert row[RATES[1]] == row["misclassified"]
    assert rows["bpda-pgd", 64]["images"] == 2
    assert rows["joint-pgd", 64][RATES[1]] >= rows["blind-pgd", 64][RATES[1]]
    for row in results["adaptive"]["robustness"]:
        assert row["accuracy"] <= row["clean_accuracy"] <= 1
    aware = detector_aware_rows(results["adaptive"])
    assert {row["attack"] for row in aware} == {"joint-pgd", "selective-pgd", "orthogonal-pgd"}
    assert detector_aware_rows(None) == []


def test_a_larger_budget_does_no_worse(results):
    adaptive = results["adaptive"]
    for name in {row["attack"] for row in adaptive["rows"]} - {"blind-pgd"}:
        for key in ("misclassified", *RATES, "queries"):
            by_budget = [row[key] for row in adaptive["rows"] if row["attack"] == name]
            assert by_budget == sorted(by_budget)


def outcome(*evaded: bool) -> Outcome:
    return Outcome(np.array(evaded), {fpr: np.array(evaded) for fpr in FPRS}, np.ones(len(evaded), int))


def test_checks_fail_where_they_should():
    good = {"blind-pgd": {2: outcome(False), 32: outcome(False)}, "joint-pgd": {2: outcome(False), 32: outcome(True)}}
    bad = {"blind-pgd": {2: outcome(True), 32: outcome(True)}, "joint-pgd": {2: outcome(True), 32: outcome(False)}}

    def converged(steps):
        return np.array([True] * 15 + [steps > 40])

    def still_rising(steps):
        return np.array([steps > 40])

    assert {check["passed"] for check in run_checks([2, 32], good, 40, converged)} == {True}
    assert {check["what"] for check in run_checks([2, 32], bad, 40, still_rising) if not check["passed"]} == {
        "nearly every image evades within 32/255",
        "knowing the detector helps at 32/255",
        "joint-pgd: twice the steps add little",
    }


def test_wrong_settings_are_refused(detector, data):
    for settings, named in (
        (dict(attacks=["nope"]), "selective-pgd"),  # names what there is
        (dict(attacks=["transfer-pgd"]), "surrogate"),
        (dict(eps=[]), "eps"),
        (dict(eps=[0]), "eps"),
        (dict(expensive_eps=[256]), "eps"),
        (dict(purify_eps=256), "eps"),
        *((dict([(name, 0)]), name) for name in ("limit", "expensive_limit", "steps", "restarts")),
    ):
        with pytest.raises(ParameterError, match=named):
            run_adaptive(detector, Brightness(), data.test, **settings)
    wrong = Images(data.test.x, 1 - data.test.y, data.test.index)
    with pytest.raises(DataError):
        run_adaptive(detector, Brightness(), wrong)


def test_what_an_attack_needs_is_looked_for_before_anything_is_attacked(data, monkeypatch):
    detector = as_detector(lambda x: x.detach().flatten(1).sum(1), "sum", data, fpr=0.05)
    monkeypatch.setattr("pixeldefend.eval.run.attack_all", lambda *a, **k: pytest.fail("attacked"))
    whole = dict(attacks=["pgd-8"])
    for name in ("joint-pgd", "bpda-pgd"):  # without a gradient; without a density to purify by
        with pytest.raises(ParameterError, match=name):
            run_benchmark(detector, Brightness(), data, **whole, adaptive=dict(attacks=["spsa", name]))
    surrogate = (Brightness(), detector)
    for settings, named in (
        (dict(attacks=["transfer-pgd"], surrogate=surrogate), "surrogate has no gradient"),
        (dict(attacks=["spsa"], eps=[0]), "eps"),
        (dict(attacks=["spsa"], steps=0), "steps"),
    ):
        with pytest.raises(ParameterError, match=named):
            run_benchmark(detector, Brightness(), data, **whole, adaptive=settings)
    assert resolve_attacks(None, detector, data.test.x[:1], surrogate) == ["blind-pgd", "spsa"]
    for settings in (dict(limit=0), dict(limit=-3), dict(clean=0)):
        with pytest.raises(ParameterError, match="must be at least 1"):
            run_benchmark(detector, Brightness(), data, **whole, **settings)


def test_what_evades_within_a_budget_is_not_attacked_within_a_larger_one(detector, data):
    recorder = Recorder()
    settings = dict(attacks=["selective-pgd"], eps=[8, 32], limit=12, steps=3, chunk=1, cache=recorder)
    small, large = run_adaptive(detector, Brightness(), data.test, **settings)["rows"]
    attacked = Counter(key["eps"] for key in recorder.keys if key["fpr"] == 0.05)
    left = round(12 * (1 - small["evasion_rate_at_fpr_0.05"]))
    assert 0 < left < 12
    assert attacked == {8: 12, 32: left}
    assert large["evasion_rate_at_fpr_0.05"] > small["evasion_rate_at_fpr_0.05"]


def test_attacks_target_the_threshold_that_judges_them(tiny_density):
    x = torch.from_numpy(clean_images(700, seed=3))[:, None]
    sure = Detector(tiny_density, fpr=0.05, confidence=0.95).fit(x)
    assert thresholds_of(sure)[0.05] == -sure.offset_
    assert thresholds_of(sure)[0.5] == -sure.with_fpr(0.5).offset_
    unsure = Detector(tiny_density, fpr=0.05).fit(x)
    assert thresholds_of(sure)[0.05] > -unsure.offset_


def test_blind_attacks_start_again_where_they_have_not_succeeded(detector, data, constant, zeros):
    settings = dict(attacks=["blind-pgd"], eps=[64], limit=4, steps=7, restarts=3)
    (never,) = run_adaptive(detector, constant, zeros.test, **settings)["rows"]
    (soon,) = run_adaptive(detector, Brightness(), data.test, **settings)["rows"]
    assert (never["misclassified"], never["queries"]) == (0, 3 * 7)
    assert (soon["misclassified"], soon["queries"]) == (1, 7)


def test_transfer_is_made_for_the_surrogate_and_judged_by_the_other(detector, data, tiny_density, constant):
    other = Detector(tiny_density, statistic="bits_per_dim", fpr=0.05).fit(data.calibration.x)
    settings = dict(attacks=["transfer-pgd"], eps=[32], limit=3, steps=3)
    found = run_adaptive(detector, Brightness(), data.test, surrogate=(Brightness(), other), **settings)
    assert found["rows"][0]["misclassified"] > 0
    assert found["surrogate"]
    # what is made for a classifier that cannot be fooled moves to please the detector only
    vain = run_adaptive(detector, Brightness(), data.test, surrogate=(constant, other), **settings)
    assert vain["rows"][0]["misclassified"] < found["rows"][0]["misclassified"]


def test_a_new_adaptive_attack_is_one_line(detector, data, monkeypatch):
    monkeypatch.setitem(ADAPTIVE, "spsa-few", AdaptiveAttack("SPSA", settings={"samples": 2}))
    found = run_adaptive(detector, Brightness(), data.test, attacks=["spsa-few"], eps=[16], limit=2, steps=1)
    (row,) = found["rows"]
    assert row["attack"] == "spsa-few"
    assert row["queries"] <= 2 * 2 * 5
    with pytest.raises(ParameterError, match="spsa-few"):
        run_adaptive(detector, Brightness(), data.test, attacks=["nope"])
