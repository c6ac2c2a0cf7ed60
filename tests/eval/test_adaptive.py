"""Attackers who know the detector, in the benchmark; the page it writes; and what else takes part in it."""

import importlib.resources
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from helpers import SAMPLE, Brightness, clean_images
from torch import nn
from typer.testing import CliRunner

import pixeldefend.eval
from pixeldefend import Detector, load_classifier, load_detector
from pixeldefend.attacks import craft
from pixeldefend.cli import app
from pixeldefend.data import DataSet, Images
from pixeldefend.eval import (
    ADAPTIVE,
    BASELINES,
    SUITES,
    Cache,
    compare,
    entry,
    find_classifier,
    find_detector,
    leaderboard_table,
    run_adaptive,
    run_benchmark,
    side_by_side,
    write_comparison,
    write_report,
)
from pixeldefend.eval.adapters import as_detector
from pixeldefend.eval.adaptive.runner import _Runner
from pixeldefend.eval.report import html, verdict
from pixeldefend.serialization import load_tensors
from pixeldefend.training.loop import worst_within

RESULTS = Path(__file__).parent.parent / "eval" / "results"
SCHEMA = json.loads((importlib.resources.files("pixeldefend.eval") / "results.schema.json").read_text())


def ramps(n: int = 40) -> DataSet:
    def images(count, seed):
        x = torch.from_numpy(clean_images(count, seed))[:, None]
        return Images(x, Brightness()(x / 255).argmax(1), torch.arange(count))

    return DataSet("ramps", images(200, 1), images(10, 5), images(60, 2), images(199, 3), images(n, 4))


@pytest.fixture(scope="module")
def data():
    return ramps()


@pytest.fixture(scope="module")
def detector(tiny_density, data):
    return Detector(tiny_density, fpr=0.05).fit(data.calibration.x)


@pytest.fixture(scope="module")
def results(detector, data):
    chosen = [name for name in ADAPTIVE if name not in ("transfer-pgd", "spsa")]
    adaptive = dict(
        attacks=chosen, eps=[2, 8, 64], limit=8, expensive_eps=[8, 64], expensive_limit=3, purify_eps=4, steps=8
    )
    return run_benchmark(
        detector, Brightness(), data, attacks=["noise-8", "pgd-8"], scores=["bits_per_dim"], adaptive=adaptive
    )


def test_rows_of_those_who_know_the_detector(results):
    adaptive = results["adaptive"]
    rows = {(row["attack"], row["eps"]): row for row in adaptive["rows"]}
    assert len(rows) == 5 * 3 + 2 * 2
    for row in rows.values():
        # stricter detectors are harder to get by, and who gets by has fooled
        assert row["success_at_fpr_0.01"] >= row["success_at_fpr_0.05"] >= row["success_at_fpr_0.5"]
        low, high = row["success_at_fpr_0.05_ci"]
        assert 0 <= low <= row["success_at_fpr_0.05"] <= high <= 1
        if row["against"] == "purifier + classifier":
            assert row["success_at_fpr_0.05"] == row["fooled"]
    assert rows["bpda-pgd", 64]["images"] == 3
    assert rows["joint-pgd", 64]["success_at_fpr_0.05"] >= rows["blind-pgd", 64]["success_at_fpr_0.05"]
    for row in adaptive["robustness"]:
        assert row["accuracy"] <= row["clean_accuracy"] <= 1
    assert {check["passed"] for check in adaptive["checks"]} <= {True, False}
    assert any("more steps" in check["what"] for check in adaptive["checks"])
    for name in {row["attack"] for row in adaptive["rows"]} - {"blind-pgd"}:
        for key in ("fooled", "success_at_fpr_0.01", "success_at_fpr_0.05", "success_at_fpr_0.5", "queries"):
            by_budget = [row[key] for row in adaptive["rows"] if row["attack"] == name]
            assert by_budget == sorted(by_budget)
        assert next(c["passed"] for c in adaptive["checks"] if c["what"] == f"{name}: more budget does no worse")


def test_results_follow_their_schema(results, detector, data):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate({**results, "command": "x"}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**results, "unheard_of": 1}, SCHEMA)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/results.json")), ids=lambda path: path.parent.name)
def test_published_results_follow_their_schema(path):
    errors = jsonschema.Draft202012Validator(SCHEMA).iter_errors(json.loads(path.read_text()))
    assert [f"{error.json_path}: {error.message[:100]}" for error in errors] == []


def test_two_runs_give_the_same_and_an_interrupted_one_goes_on(detector, data, tmp_path):
    settings = dict(
        attacks=["pgd-8"], scores=[], limit=20, adaptive=dict(attacks=["joint-pgd"], eps=[8], limit=6, steps=5)
    )

    def run(cache=None):
        found = run_benchmark(detector, Brightness(), data, cache=cache, **settings)
        return {name: value for name, value in found.items() if name != "milliseconds"}

    first = run()
    assert run() == first
    folder = tmp_path / "cache"
    assert run(Cache(folder)) == first
    files = sorted(folder.iterdir())
    times = [path.stat().st_mtime_ns for path in files]
    files[0].write_bytes(b"half a file")  # a run that was cut short
    assert run(Cache(folder)) == first
    assert [path.stat().st_mtime_ns for path in files[1:]] == times[1:]


def test_kept_things_are_told_apart_by_their_keys(tmp_path):
    cache = Cache(tmp_path)
    assert cache({"a": 1}, lambda: {"x": torch.ones(2)})["x"].tolist() == [1, 1]
    assert cache({"a": 2}, lambda: {"x": torch.zeros(2)})["x"].tolist() == [0, 0]
    assert cache({"a": 1}, lambda: pytest.fail("made again"))["x"].tolist() == [1, 1]


def test_wrong_settings_are_refused(detector, data):
    for settings, message in (
        (dict(attacks=["nope"]), "unknown attack 'nope'"),
        (dict(attacks=["transfer-pgd"]), "needs a surrogate"),
        (dict(eps=[]), "eps must be"),
        (dict(eps=[0]), "eps must be"),
        (dict(expensive_eps=[256]), "eps must be"),
    ):
        with pytest.raises(ValueError, match=message):
            run_adaptive(detector, Brightness(), data.test, **settings)
    wrong = Images(data.test.x, 1 - data.test.y, data.test.index)
    with pytest.raises(ValueError, match="reads none of"):
        run_adaptive(detector, Brightness(), wrong)


def test_a_score_without_a_gradient_is_refused_before_anything_is_attacked(data, monkeypatch):
    detector = as_detector(lambda x: x.detach().flatten(1).sum(1), "sum", data, fpr=0.05)
    monkeypatch.setattr("pixeldefend.eval.benchmark.attack_all", lambda *a, **k: pytest.fail("attacked"))
    with pytest.raises(ValueError, match="no gradient, which joint-pgd would follow; take spsa"):
        run_benchmark(detector, Brightness(), data, attacks=["pgd-8"], adaptive=dict(attacks=["spsa", "joint-pgd"]))


def test_what_gets_by_within_a_budget_is_not_attacked_within_a_larger_one(detector, data, monkeypatch):
    made, asked = _Runner.made, []

    def watched(self, name, images, eps, fpr, *rest):
        asked.append((eps, fpr, len(images)))
        return made(self, name, images, eps, fpr, *rest)

    monkeypatch.setattr(_Runner, "made", watched)
    settings = dict(attacks=["selective-pgd"], eps=[2, 32], limit=20, steps=4)
    small, large = run_adaptive(detector, Brightness(), data.test, **settings)["rows"]
    left = round(20 * (1 - small["success_at_fpr_0.05"]))
    assert 0 < left < 20
    assert [n for eps, fpr, n in asked if fpr == 0.05] == [20, left]
    assert large["success_at_fpr_0.05"] > small["success_at_fpr_0.05"]


def test_attacks_aim_at_the_threshold_that_judges_them(tiny_density):
    x = torch.from_numpy(clean_images(700, seed=3))[:, None]
    sure = Detector(tiny_density, fpr=0.05, confidence=0.95).fit(x)
    runner = _Runner(sure, Brightness(), None, 4, 5, 1, 0, 25, Cache(), print, lambda steps: steps)
    assert runner.thresholds[0.05] == -sure.offset_
    assert runner.thresholds[0.5] == -sure.with_fpr(0.5).offset_
    unsure = Detector(tiny_density, fpr=0.05).fit(x)
    assert runner.thresholds[0.05] > -unsure.offset_


def test_blind_attacks_start_again_where_they_have_not_succeeded(detector, data):
    class Stubborn(Brightness):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2) + 0 * super().forward(x)

    zeros = Images(data.test.x, torch.zeros(len(data.test)).long(), data.test.index)
    settings = dict(attacks=["blind-pgd"], eps=[64], limit=4, steps=7, restarts=3)
    (never,) = run_adaptive(detector, Stubborn(), zeros, **settings)["rows"]
    (soon,) = run_adaptive(detector, Brightness(), data.test, **settings)["rows"]
    assert (never["fooled"], never["queries"]) == (0, 3 * 7)
    assert (soon["fooled"], soon["queries"]) == (1, 7)


def test_what_is_kept_is_told_apart_by_version_and_surrogate(detector, data, tiny_density, tmp_path):
    for score in ("bits_per_dim", "excess_surprisal"):
        other = Detector(tiny_density, statistic=score, fpr=0.05).fit(data.calibration.x)
        run_adaptive(
            detector, Brightness(), data.test, attacks=["transfer-pgd"], eps=[2], limit=2, steps=1,
            surrogate=(Brightness(), other), cache=Cache(tmp_path),
        )  # fmt: skip
    keys = [load_tensors(path)[1]["key"] for path in tmp_path.iterdir()]
    assert len({key["models"] for key in keys}) == 2
    assert {key["version"] for key in keys} == {version("pixeldefend")}


def test_transfer_is_made_for_the_surrogate_and_judged_by_the_other(detector, data, tiny_density):
    other = Detector(tiny_density, statistic="bits_per_dim", fpr=0.05).fit(data.calibration.x)
    found = run_adaptive(
        detector, Brightness(), data.test, attacks=["transfer-pgd"], eps=[32], limit=6, steps=5,
        surrogate=(Brightness(), other),
    )  # fmt: skip
    (row,) = found["rows"]
    assert row["fooled"] > 0
    assert found["surrogate"]


def test_the_report_says_what_was_found(results, tmp_path):
    write_report({**results, "command": "pixeldefend benchmark <&>"}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert verdict(results) in page
    assert "&lt;&amp;&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    for row in results["adaptive"]["rows"]:
        assert f'<th scope="row">{row["attack"]}</th>' in page
    assert page.count('class="item"') == len(results["gallery"]) == 2
    assert page.count("<figure>") == 7
    assert "Attackers who know the detector" in (tmp_path / "results.md").read_text()


def test_a_benchmark_that_fails_its_own_check_says_so(results, tmp_path):
    checks = [{"what": "more steps do no worse", "passed": False, "detail": "60% and 40%"}]
    failing = {**results, "adaptive": {**results["adaptive"], "checks": checks}}
    page = html(failing)
    assert 'class="failed" role="alert"' in page
    assert "FAILS" in page
    assert "1 of the attacks' own checks FAIL" in verdict(failing)
    for name in ("a", "b"):
        write_report(failing, tmp_path / name)
    table = side_by_side([tmp_path / "a", tmp_path / "b"])
    assert "| checks of the attacks | **1 of 1 FAIL** |" in table
    assert "B FAILS its own check: more steps do no worse (60% and 40%)." in table
    (tmp_path / "entry.json").write_text(json.dumps(entry("mine", failing, "pixeldefend benchmark")))
    assert "| 8 | **1 of 1 FAIL** |" in leaderboard_table(tmp_path)


def test_a_report_without_any_success(detector, data):
    class Stubborn(Brightness):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2) + 0 * super().forward(x)

    zeros = Images(data.test.x, torch.zeros(len(data.test)).long(), data.test.index)
    settled = DataSet(data.name, data.train, data.validation, data.fit, data.calibration, zeros)
    found = run_benchmark(detector, Stubborn(), settled, attacks=["fgsm-1"], scores=[])
    assert verdict(found).startswith("No attack fooled")
    assert "<figure>" in html(found)
    jsonschema.validate(found, SCHEMA)


def test_the_page_in_a_real_browser(results, tmp_path):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine: apt-get install chromium chromium-driver")
    from selenium import webdriver

    write_report(results, tmp_path)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        for width in (390, 1200):
            browser.set_window_size(width, 900)
            browser.get((tmp_path / "report.html").as_uri())
            assert verdict(results) in browser.find_element("css selector", ".verdict").text
            loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
            assert browser.execute_script(loaded)
            # tables scroll within themselves: the page does not
            wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not browser.execute_script(wider)
        assert browser.get_log("browser") == []
    finally:
        browser.quit()


# -- baselines, and other people's -------------------------------------------------------------------------------------


class Trained(nn.Module):
    """A small classifier with a last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 2))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_calibrated_and_have_a_gradient(name, data):
    baseline = find_detector(name, Trained(), data, fpr=0.05)
    assert baseline.statistic == name
    fresh = torch.from_numpy(clean_images(400, seed=77))[:, None]
    assert 0.005 <= baseline.is_adversarial(fresh).mean() <= 0.13
    x = (data.test.x[:4] / 255).requires_grad_()
    anomaly_score = baseline.anomaly_scores(x)
    torch.autograd.grad(anomaly_score.sum(), x)
    np.testing.assert_allclose(
        -baseline.score_samples(x.detach()), anomaly_score.detach().numpy(), rtol=1e-4, atol=1e-6
    )
    # one image's score does not depend on the others'
    np.testing.assert_allclose(
        baseline.score_samples(data.test.x[:1]), baseline.score_samples(data.test.x)[:1], rtol=1e-4
    )


def test_an_autoencoder_sees_noise_and_chance_sees_nothing(data):
    noise = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8)
    assert find_detector("autoencoder", Trained(), data, fpr=0.05).is_adversarial(noise).mean() > 0.95
    assert find_detector("random", Trained(), data, fpr=0.05).is_adversarial(noise).mean() < 0.15


class Net(nn.Module):
    """As MINE's."""

    def forward(self, x):
        left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
        return 20 * torch.stack([left, right], 1)


MINE = '''
import numpy as np, torch
from torch import nn

class Flat:
    """scikit-learn's way: higher is more normal; takes arrays alone."""
    def score_samples(self, X):
        assert isinstance(X, np.ndarray)
        return -X.reshape(len(X), -1).std(1)

def spread(x):
    return x.flatten(1).std(1)

class Net(nn.Module):
    def forward(self, x):
        left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
        return 20 * torch.stack([left, right], 1)

flat, net, number = Flat(), Net(), 3
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("mine", None)
    return tmp_path


def test_other_peoples_detectors_take_part(mine, data):
    by_class, by_function = (find_detector(f"mine:{name}", Brightness(), data, fpr=0.05) for name in ("flat", "spread"))
    x = data.test.x
    np.testing.assert_allclose(by_class.score_samples(x), -(x / 255).flatten(1).std(1, correction=0), rtol=1e-4)
    assert by_function.anomaly_scores((x / 255).requires_grad_()).requires_grad
    quick = SUITES["quick"] | dict(attacks=["pgd-8"], limit=20)  # asks for scores that they do not have
    alone = run_benchmark(by_class, Brightness(), data, **quick)
    assert {row["score"] for row in alone["rows"]} == {"mine:flat"}
    found = compare({"flat": by_class, "mine": by_function}, Brightness(), data, attacks=["pgd-8"], limit=20)
    write_comparison(found, mine)
    assert "## own score" in (mine / "comparison.md").read_text()
    for name, message in (
        ("mine:number", "is a int"),
        ("mine:nothing", "cannot be imported"),
        ("nowhere:x", "cannot be imported"),
        ("unheard-of", "baselines: random"),
    ):
        with pytest.raises(ValueError, match=message):
            find_detector(name, Brightness(), data)


def test_other_peoples_classifiers_take_part(mine, data, detector):
    x = data.test.x[:3] / 255
    module = find_classifier("mine:net")
    torch.jit.trace(module, x).save("net.pt")
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes={"x": {0: batch}}), "net.pt2")
    for name in ("net.pt", "net.pt2"):
        loaded = find_classifier(name)
        torch.testing.assert_close(loaded(data.test.x / 255), module(data.test.x / 255))
        found = run_benchmark(detector, loaded, data, attacks=["pgd-8"], scores=[], limit=10)
        assert found["rows"][0]["succeeded"] > 0
    with pytest.raises(ValueError, match="not a torch module"):
        find_classifier("mine:number")


def test_pickles_are_refused(mine):
    torch.save(Trained().state_dict(), "weights.pt")
    (mine / "other.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    for name in ("weights.pt", "other.pkl"):
        with pytest.raises(ValueError, match="pickled models are refused"):
            find_classifier(name)
    assert not (mine / "ran").exists()
    with pytest.raises(FileNotFoundError):
        find_classifier("absent.pt2")


def test_the_documented_models_run_as_documented(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("mine", None)
    guide = (RESULTS.parent.parent / "docs" / "benchmark.md").read_text()
    for block in re.findall(r"```python\n(# (?:mine|export)\.py\n.*?)```", guide, re.DOTALL):
        name, _, text = block[2:].partition("\n")
        (tmp_path / name).write_text(text)
    exec((tmp_path / "export.py").read_text(), {})
    with np.load(SAMPLE) as file:
        x, y = file["x"], file["y"]
    np.savez("data.npz", x=x[:250], y=y[:250], x_test=x[250:], y_test=y[250:])
    shared = ["--data", "data.npz", "--attacks", "fgsm-8", "--limit", "10"]
    models = (("mine:detector", "mine.pt2", "spsa"), ("mine:roughness", "mine.pt", "joint-pgd"))
    for detector, classifier, attack in models:
        knowing = [
            "--adaptive",
            attack,
            "--eps",
            "8",
            "--steps",
            "1",
            "--adaptive-limit",
            "2",
            "--expensive-limit",
            "1",
        ]
        names = ["--detector", detector, "--classifier", classifier, "--out", attack]
        run = CliRunner().invoke(app, ["benchmark", *names, *shared, *knowing])
        assert run.exit_code == 0, run.stderr
        assert f"| {attack} | classifier + detector | 8/255 |" in run.stdout


def test_a_classifier_is_trained_on_the_worst_images(files, mine):
    x = torch.from_numpy(clean_images(20, seed=1))[:, None] / 255
    y = Net()(x).argmax(1)
    worst = worst_within(Net(), x, y, 4 / 255)
    assert (worst - x).abs().max() <= 4 / 255 + 1e-6
    assert 0 <= worst.min() <= worst.max() <= 1
    assert nn.functional.cross_entropy(Net()(worst), y) > nn.functional.cross_entropy(Net()(x), y)
    train = ["train", "classifier", "--data", "data.npz", "--out", "robust", "--width", "4", "--epochs", "2"]
    run = files(*train, "--adversarial", "3", "--batch-size", "32", "--warmup", "4", "--accelerator", "cpu")
    assert run.exit_code == 0, run.stderr
    path = mine / "robust" / "classifier.safetensors"
    assert load_tensors(path)[1]["recipe"]["adversarial"] == 3
    assert isinstance(find_classifier(str(path)), nn.Module)


# -- several runs ------------------------------------------------------------------------------------------------------


def test_runs_side_by_side(results, tmp_path):
    for name in ("a", "b"):
        write_report(results, tmp_path / name)
    table = side_by_side([tmp_path / "a", tmp_path / "b" / "results.json"])
    assert "| attack | A | B |" in table
    row = next(line for line in table.splitlines() if line.startswith("| pgd-8 |"))
    assert row.split(" | ")[1] == row.split(" | ")[2].rstrip(" |")
    assert "| joint-pgd, 64/255 |" in table
    with pytest.raises(ValueError, match="two runs"):
        side_by_side([tmp_path / "a"])
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(ValueError, match=r"c\.json is not"):
        side_by_side([tmp_path / "a", tmp_path / "c.json"])
    with pytest.raises(FileNotFoundError):
        side_by_side([tmp_path / "a", tmp_path / "absent"])


@pytest.fixture
def files(mine, tiny_density, data):
    """A folder with data.npz, detector.safetensors and mine.py, and what runs a command there."""
    x, new = clean_images(240, seed=1), clean_images(400, seed=2)
    y, new_y = (Net()(torch.from_numpy(images)[:, None] / 255).argmax(1).numpy() for images in (x, new))
    np.savez(mine / "data.npz", x=x, y=y, x_test=new, y_test=new_y)
    Detector(tiny_density, fpr=0.05).fit(data.calibration.x).save(mine / "detector.safetensors")

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


MODELS = ["--detector", "detector.safetensors", "--classifier", "mine:net", "--data", "data.npz"]


def test_a_suite_is_kept_and_its_runs_compared_on_the_command_line(files, mine):
    found = []
    for name in ("a", "b"):
        run = files("benchmark", *MODELS, "--suite", "quick", "--keep", "cache", "--out", name)
        assert run.exit_code == 0, run.stderr
        cache = {path.name: path.stat().st_mtime_ns for path in (mine / "cache").iterdir()}
        found.append((json.loads((mine / name / "results.json").read_text()), cache))
    (first, made), (second, taken) = found
    assert made == taken  # nothing is made again
    assert len(made) == len(SUITES["quick"]["attacks"])
    for results in (first, second):
        jsonschema.validate(results, SCHEMA)
        del results["milliseconds"], results["command"]
    assert first == second
    assert {row["attack"] for row in first["rows"]} == set(SUITES["quick"]["attacks"])
    run = files("compare", "a", "b")
    assert run.exit_code == 0, run.stderr
    assert "| attack | A | B |" in run.stdout
    run = files("compare", "a", "absent")
    assert run.exit_code == 2
    assert "there is no file" in run.stderr


def test_several_detectors_under_a_suite_on_the_command_line(files, mine):
    several = [*MODELS, "--detector", "mine:spread", "--attacks", "fgsm-8", "--limit", "20", "--out", "both"]
    run = files("benchmark", *several, "--controls")
    assert run.exit_code == 2
    assert "one detector at a time" in run.stderr
    knowing = ["--adaptive", "joint-pgd,transfer-pgd", "--eps", "4,8", "--steps", "3", "--adaptive-limit", "3"]
    knowing += ["--expensive-eps", "8", "--surrogate-classifier", "mine:net", "--surrogate-detector", "mine:spread"]
    run = files("benchmark", *several, "--suite", "standard", *knowing)
    assert run.exit_code == 0, run.stderr
    results = json.loads((mine / "both" / "comparison.json").read_text())
    assert [found["controls"] for found in results["detectors"].values()] == [[], []]
    assert "| attack | detector | mine:spread |" in run.stdout
    assert run.stdout.count("| transfer-pgd, 8/255 |") == 1
    assert "transfer-pgd, 4/255" not in run.stdout


def test_a_leaderboard(results, tmp_path):
    better = {**results, "rows": [{**row, "auroc": 1.0} for row in results["rows"]]}
    for name, found in (("worse", results), ("better", better)):
        (tmp_path / f"{name}.json").write_text(json.dumps(entry(name, found, "pixeldefend benchmark")))
    lines = leaderboard_table(tmp_path).splitlines()
    places = [next(i for i, line in enumerate(lines) if line.startswith(f"| {name} |")) for name in ("better", "worse")]
    assert places == sorted(places)
    assert "get by, 8/255" in leaderboard_table(tmp_path)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"broken\.json"):
        leaderboard_table(tmp_path)
    with pytest.raises(ValueError, match="no entries"):
        leaderboard_table(tmp_path / "absent")


@pytest.mark.slow
def test_a_row_of_the_leaderboard_can_be_made_again():
    """FGSM on Fashion-MNIST: the sample is the first half of the test images that were attacked, and thresholds are in
    the detector's file."""
    path = Path(pixeldefend.eval.__file__).parent / "results" / "leaderboard" / "fashion-mnist-shipped.json"
    shipped = json.loads(path.read_text())
    assert shipped["images"]["attacked_test"] == 1000
    row = next(row for row in shipped["rows"] if row["attack"] == "fgsm-8")
    with np.load(SAMPLE) as file:
        x, y = torch.from_numpy(file["x"])[:, None], torch.from_numpy(file["y"]).long()
    detector, classifier = load_detector("fashion-mnist"), load_classifier("fashion-mnist").eval()
    with torch.no_grad():
        right = torch.cat([classifier(part / 255).argmax(1) for part in x.split(100)]) == y
    assert 0 <= row["attempted"] - int(right.sum()) <= 500
    made = craft(classifier, x[right], y[right], "fgsm-8")
    # of the other half nothing is known here, but that it is like this one: three standard deviations of the share
    assert made.succeeded.double().mean().item() == pytest.approx(row["succeeded"] / row["attempted"], abs=0.05)
    scores = -detector.score_samples(made.images[made.succeeded])
    for fpr in (0.01, 0.05):
        found = (scores > -detector.with_fpr(fpr).offset_).mean()
        assert found == pytest.approx(row[f"tpr_at_fpr_{fpr}"], abs=0.02)


def test_the_shipped_leaderboard_is_printed():
    run = subprocess.run([Path(sys.executable).parent / "pixeldefend", "leaderboard"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for line in ("## fashion-mnist:", "## cifar10:", "| PixelCNN++, bits_per_dim |", "| random |"):
        assert run.stdout.count(line) == 1 + line.startswith("|"), line
