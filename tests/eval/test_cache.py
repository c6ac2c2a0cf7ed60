"""What a cache serves is what would be made now."""

import dataclasses
import importlib
import sys

import pytest
import torch
from helpers import Brightness

from pixeldefend import Detector
from pixeldefend.attacks import ATTACKS
from pixeldefend.eval import ADAPTIVE, Cache, attack_all, run_adaptive, run_benchmark
from pixeldefend.eval.cache import detector_key, module_key, source_digest
from pixeldefend.preprocessing import Tiles


def test_kept_things_are_told_apart_by_their_keys(tmp_path):
    cache = Cache(tmp_path)
    assert cache({"a": 1}, lambda: {"x": torch.ones(2)})["x"].tolist() == [1, 1]
    assert cache({"a": 2}, lambda: {"x": torch.zeros(2)})["x"].tolist() == [0, 0]
    assert cache({"a": 1}, lambda: pytest.fail("made again"))["x"].tolist() == [1, 1]


def test_an_unedited_preset_is_served_and_an_edited_one_is_made_again(data, tmp_path, monkeypatch):
    def linf(**settings):
        return attack_all(Brightness(), data, ["fgsm-8"], limit=4, cache=Cache(tmp_path), **settings)["fgsm-8"].linf

    first = linf()
    with monkeypatch.context() as context:
        context.setattr("pixeldefend.eval.attacked.craft", lambda *a, **k: pytest.fail("made again"))
        assert torch.equal(linf(), first)
    monkeypatch.setitem(ATTACKS, "fgsm-8", dataclasses.replace(ATTACKS["fgsm-8"], eps=3 / 255))
    assert linf().max() == pytest.approx(3 / 255, abs=1e-6)
    settings = {"random_start": True}
    monkeypatch.setitem(ATTACKS, "fgsm-8", dataclasses.replace(ATTACKS["fgsm-8"], settings=settings))
    linf()
    linf(seed=1)
    assert len(list(tmp_path.iterdir())) == 4


def test_other_images_labels_and_classifiers_are_told_apart(data, tmp_path):
    cache = Cache(tmp_path)
    swapped = dataclasses.replace(data, test=dataclasses.replace(data.test, y=1 - data.test.y))
    steeper = Brightness()
    steeper.scale.data += 1
    for classifier, images, limit in ((Brightness(), data, 4), (Brightness(), data, 5), (steeper, data, 4)):
        attack_all(classifier, images, ["fgsm-8"], limit=limit, cache=cache)
    attack_all(Brightness(), swapped, ["fgsm-8"], limit=4, cache=cache)
    assert len(list(tmp_path.iterdir())) == 4


def test_an_edited_adaptive_preset_is_made_again(detector, data, tmp_path, monkeypatch):
    def files(**settings):
        run_adaptive(
            detector, Brightness(), data.test, attacks=["selective-pgd"], eps=[2], limit=1, steps=1,
            cache=Cache(tmp_path), **settings,
        )  # fmt: skip
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    first = files()
    assert files() == first
    edited = dataclasses.replace(ADAPTIVE["selective-pgd"], settings={"step": 0.2})
    monkeypatch.setitem(ADAPTIVE, "selective-pgd", edited)
    second = files()
    assert len(second) > len(first)
    assert len(files(seed=1)) > len(second)


def test_surrogates_are_told_apart(detector, data, tiny_density, tmp_path):
    for statistic in ("bits_per_dim", "excess_surprisal"):
        other = Detector(tiny_density, statistic=statistic, fpr=0.05).fit(data.calibration.x)
        before = len(list(tmp_path.iterdir()))
        run_adaptive(
            detector, Brightness(), data.test, attacks=["transfer-pgd"], eps=[2], limit=1, steps=1,
            surrogate=(Brightness(), other), cache=Cache(tmp_path),
        )  # fmt: skip
        assert len(list(tmp_path.iterdir())) > before


def test_code_is_part_of_a_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for i, body in enumerate(("2 * x", "3 * x", "2 * x")):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "edited.py").write_text(
            f"from torch import nn\nclass Net(nn.Module):\n  def forward(s, x): return {body}\n"
        )
        monkeypatch.syspath_prepend(folder)
        sys.modules.pop("edited", None)
        importlib.invalidate_caches()
        module = importlib.import_module("edited")
        digests.append((source_digest(module), module_key(module.Net())["code"]))
    sys.modules.pop("edited")
    assert digests[0] == digests[2]
    assert digests[0][0] != digests[1][0]
    assert digests[0][1] != digests[1][1]


def test_structure_and_calibration_are_part_of_a_key(detector, data, tiny_density):
    narrow, wide = (torch.nn.Sequential(torch.nn.AvgPool2d(size)) for size in (2, 4))
    assert module_key(narrow) != module_key(wide)
    again = Detector(tiny_density, fpr=0.05).fit(data.calibration.x)
    assert detector_key(again) == detector_key(detector)
    assert detector_key(Detector(tiny_density, fpr=0.05).fit(data.calibration.x[:150])) != detector_key(detector)


def test_tiles_and_their_aggregate_are_part_of_a_key(data, tiny_density):
    # one tile an image: the calibration scores of all are the same
    options = [{}, {"preprocessor": Tiles(8)}, {"preprocessor": Tiles(8, 4)}, {"aggregate": "mean"}]
    made = [Detector(tiny_density, fpr=0.05, **each).fit(data.calibration.x) for each in options]
    assert len({str(detector_key(each)) for each in made}) == len(options)


def test_two_runs_give_the_same_and_an_interrupted_one_continues(detector, data, tmp_path):
    settings = dict(
        attacks=["pgd-8"], statistics=[], limit=8, adaptive=dict(attacks=["joint-pgd"], eps=[8], limit=3, steps=2)
    )

    def run(cache=None):
        found = run_benchmark(detector, Brightness(), data, cache=cache, **settings)
        return {name: value for name, value in found.items() if name != "milliseconds"}

    first = run()
    assert run(Cache(tmp_path)) == first
    files = sorted(tmp_path.iterdir())
    times = [path.stat().st_mtime_ns for path in files]
    files[0].write_bytes(b"half a file")  # a run that was cut short
    assert run(Cache(tmp_path)) == first
    assert [path.stat().st_mtime_ns for path in files[1:]] == times[1:]
