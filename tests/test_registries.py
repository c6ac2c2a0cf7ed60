"""Every entry of a registry is documented and listed, and a new one takes one line."""

import functools
import importlib
import inspect

import numpy as np
import pytest
import torch
from helpers import Brightness, clean_images, grid_images, randomised
from sklearn.base import clone
from typer.testing import CliRunner

from pixeldefend import attacks, data, densities, scores
from pixeldefend.detectors import Detector
from pixeldefend.eval.adaptive.presets import ADAPTIVE, resolve_attacks
from pixeldefend.images.corruptions import CORRUPTIONS, HISTORIES, corrupt

# what a user would write in a file of their own; the entries that take no code are made below
NEW = '''
import foolbox
import numpy as np

from pixeldefend.data import Source
from pixeldefend.densities import FVSBN


class BrandnewDensity(FVSBN):
    """A sigmoid belief network by another name."""

    name = "brandnew"


def brandnew_statistic(evidence):
    """The brightest site of an image."""
    return evidence.x.flatten(1).amax(1)


def brandnew_corruption(x, generator):
    """The negative of images."""
    return 1 - x


class BrandnewAttack(foolbox.attacks.LinfFastGradientAttack):
    """The fast gradient sign method by another name."""


def brandnew_dataset(data_dir):
    """Thirty images of one pixel value each."""
    return Source(np.arange(30, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8), np.arange(30) % 3)
'''


@pytest.fixture
def new(tmp_path, monkeypatch):
    """The module above, as a file outside of the package."""
    (tmp_path / "brandnew_module.py").write_text(NEW)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("brandnew_module")
    monkeypatch.delitem(importlib.sys.modules, "brandnew_module")


@pytest.fixture(scope="module")
def detector() -> Detector:
    density = densities.build({"model": "fvsbn", "event_shape": [1, 8, 8], "head": "logistics", "mixtures": 1})
    return Detector(density.eval(), statistic="bits_per_dim", fpr=0.1).fit(clean_images(30))


def help_of(*command: str) -> str:
    """Returns the help of a command, without spaces: names with hyphens may be broken between lines."""
    from pixeldefend.cli.main import app

    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return "".join(result.output.replace("│", "").split())


# -- what is there -----------------------------------------------------------------------------------------------------

DOCUMENTED = {
    "statistics": scores.SCORES | scores.CLASSIFIER_SCORES | scores.ALTERNATIVE_SCORES,
    "densities": densities.DENSITIES,
    "corruptions": CORRUPTIONS,
    "histories": HISTORIES,
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, registry in DOCUMENTED.items() for name in registry])
def test_every_entry_says_what_it_is(kind, name):
    entry = DOCUMENTED[kind][name]
    while isinstance(entry, functools.partial):
        entry = entry.func
    # of an instance its class is documented
    text = inspect.getdoc(entry if inspect.isclass(entry) or inspect.isroutine(entry) else type(entry))
    assert text
    assert text.split("\n")[0].endswith(".")


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_every_attack_can_be_made(name):
    assert callable(attacks.ATTACKS[name].make())


def test_every_adaptive_attack_is_of_a_known_kind():
    for name, attack in ADAPTIVE.items():
        assert attack.kind is None or inspect.isclass(getattr(attacks, attack.kind)), name


@pytest.mark.parametrize(
    ("registry", "command"),
    [
        (scores.SCORES, ["calibrate"]),
        (scores.CLASSIFIER_SCORES, ["calibrate"]),
        (scores.ALTERNATIVE_SCORES, ["calibrate"]),
        (CORRUPTIONS, ["calibrate"]),
        (densities.DENSITIES, ["train", "density"]),
        (attacks.ATTACKS, ["benchmark"]),
        (ADAPTIVE, ["benchmark"]),
        (data.DATASETS, ["benchmark"]),
    ],
    ids=[
        "statistics",
        "statistics of the classifier",
        "statistics of the alternative",
        "corruptions",
        "densities",
        "attacks",
        "adaptive",
        "data sets",
    ],
)
def test_help_lists_every_entry(registry, command):
    text = help_of(*command)
    assert [name for name in registry if name not in text] == []
    assert "brandnew" not in text


# -- one more of each --------------------------------------------------------------------------------------------------


def test_a_new_statistic_is_listed_and_works(new, monkeypatch):
    monkeypatch.setitem(scores.SCORES, "brandnew", new.brandnew_statistic)
    assert "brandnew" in help_of("calibrate")
    density = densities.build({"model": "fvsbn", "event_shape": [1, 4, 4], "head": "bernoulli"})
    x = torch.zeros(2, 1, 4, 4)
    x[1, 0, 2, 3] = 1
    assert scores.make_score("brandnew")(scores.Evidence(density, x)).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["noise_contrast", "pooled", "fused", "fused_with_classifier"])
def test_a_new_statistic_leaves_the_combined_ones_as_they_are(name, new, monkeypatch):
    """Otherwise it would slow the shipped detectors, and change what calibrating them again gives."""
    density = randomised(densities.build({"model": "pixelcnn", "event_shape": [1, 4, 4], "filters": 4, "blocks": 1}))
    evidence = functools.partial(scores.Evidence, density, grid_images(2, 1, 4, 4), Brightness())
    with torch.inference_mode():
        before = scores.make_score(name).features(evidence())
        monkeypatch.setitem(scores.SCORES, "brandnew", new.brandnew_statistic)
        after = scores.make_score(name).features(evidence())
    assert after.shape == before.shape
    assert torch.equal(after, before)


def test_a_new_density_is_listed_and_works(new, monkeypatch, tmp_path):
    monkeypatch.setitem(densities.DENSITIES, "brandnew", new.BrandnewDensity)
    assert "brandnew" in help_of("train", "density")
    density = densities.build({"model": "brandnew", "event_shape": [1, 4, 4], "head": "bernoulli"})
    assert isinstance(density, new.BrandnewDensity)
    density.save(tmp_path / "d.safetensors")
    again = densities.load(tmp_path / "d.safetensors")
    x = torch.ones(1, 1, 4, 4)
    assert isinstance(again, new.BrandnewDensity)
    assert torch.equal(again.log_prob(x), density.log_prob(x))


def test_a_new_corruption_is_listed_and_works(new, monkeypatch, detector):
    monkeypatch.setitem(CORRUPTIONS, "brandnew", new.brandnew_corruption)
    assert "brandnew" in help_of("calibrate")
    x = grid_images(2, 3, 4, 4)
    torch.testing.assert_close(corrupt(x, "brandnew"), 1 - x)
    assert list(clone(detector).fit(clean_images(30), corruptions=["brandnew"]).corruptions_) == ["brandnew"]


def test_a_new_attack_is_listed_and_works(new, monkeypatch):
    monkeypatch.setitem(attacks.ATTACKS, "brandnew", attacks.Attack("brandnew_module:BrandnewAttack", 0.25))
    assert "brandnew" in help_of("benchmark")
    dark_left = torch.cat([torch.full((1, 1, 4, 2), 0.4), torch.full((1, 1, 4, 2), 0.6)], 3)
    crafted = attacks.craft(Brightness(), dark_left, torch.tensor([0]), "brandnew")
    assert crafted.succeeded.all()
    assert 0 < crafted.linf.item() <= 0.26


def test_a_new_adaptive_attack_is_listed_and_chosen(new, monkeypatch, detector):
    monkeypatch.setitem(ADAPTIVE, "brandnew", type(ADAPTIVE["joint-pgd"])("JointPGD", norm="l2"))
    assert "brandnew" in help_of("benchmark")
    x = torch.from_numpy(clean_images(1))[:, None]
    assert resolve_attacks(["brandnew"], detector, x) == ["brandnew"]
    assert "brandnew" in resolve_attacks(None, detector, x)


def test_a_new_data_set_is_listed_and_works(new, monkeypatch, tmp_path):
    monkeypatch.setitem(data.DATASETS, "brandnew", new.brandnew_dataset)
    assert "brandnew" in help_of("benchmark")
    loaded = data.load_dataset("brandnew", tmp_path)
    parts = (loaded.train, loaded.validation, loaded.fit, loaded.calibration, loaded.test)
    assert sorted(np.concatenate([part.x[:, 0, 0, 0].numpy() for part in parts])) == list(range(30))
