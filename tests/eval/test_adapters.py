"""Baselines, and detectors and classifiers of other people."""

import sys

import numpy as np
import pytest
import torch
from helpers import Brightness, sided_images
from torch import nn

from pixeldefend.errors import ModelError, ParameterError
from pixeldefend.eval import (
    BASELINES,
    SUITES,
    as_detector,
    compare,
    find_classifier,
    find_detector,
    run_benchmark,
    write_comparison,
)


class Trained(nn.Module):
    """A small classifier with a last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 2))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture(scope="module")
def baselines(data):
    return {name: find_detector(name, Trained(), data, fpr=0.05) for name in BASELINES}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_calibrated_and_have_a_gradient(name, baselines, data):
    baseline = baselines[name]
    fresh = torch.from_numpy(sided_images(400, seed=77))[:, None]
    assert 0.005 <= baseline.is_adversarial(fresh).mean() <= 0.13
    x = (data.test.x[:4] / 255).requires_grad_()
    scores = baseline.anomaly_scores(x)
    torch.autograd.grad(scores.sum(), x)
    np.testing.assert_allclose(-baseline.score_samples(x.detach()), scores.detach().numpy(), rtol=1e-4, atol=1e-6)
    # one image's score does not depend on the others'
    np.testing.assert_allclose(
        baseline.score_samples(data.test.x[:1]), baseline.score_samples(data.test.x)[:1], rtol=1e-4
    )


def test_an_autoencoder_sees_noise_and_chance_sees_nothing(baselines):
    noise = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8)
    assert baselines["autoencoder"].is_adversarial(noise).mean() > 0.95
    assert baselines["random"].is_adversarial(noise).mean() < 0.15


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
        return 20 * torch.stack([right, left], 1)

flat, net, number = Flat(), Net(), 3
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("mine", None)
    return tmp_path


def test_other_peoples_detectors_take_part(mine, data, schema):
    by_class, by_function = (find_detector(f"mine:{name}", Brightness(), data, fpr=0.05) for name in ("flat", "spread"))
    x = data.test.x
    np.testing.assert_allclose(by_class.score_samples(x), -(x / 255).flatten(1).std(1, correction=0), rtol=1e-4)
    assert by_function.anomaly_scores((x / 255).requires_grad_()).requires_grad
    quick = SUITES["quick"] | dict(attacks=["pgd-8"], limit=20)  # asks for statistics that they do not have
    alone = run_benchmark(by_class, Brightness(), data, **quick)
    assert {row["statistic"] for row in alone["rows"]} == {"mine:flat"}
    assert alone["density"] is alone["bits_per_dim"] is None
    import jsonschema

    jsonschema.validate(alone, schema)
    found = compare({"flat": by_class, "mine": by_function}, Brightness(), data, attacks=["pgd-8"], limit=20)
    write_comparison(found, mine)
    assert "## own statistic" in (mine / "comparison.md").read_text()
    adaptive = dict(attacks=["joint-pgd"], eps=[8], limit=2, steps=2)
    attacked = run_benchmark(by_function, Brightness(), data, attacks=["pgd-8"], limit=5, adaptive=adaptive)
    assert attacked["adaptive"]["rows"][0]["attack"] == "joint-pgd"


@pytest.mark.parametrize("name", ["mine:number", "mine:nothing", "nowhere:x", "unheard-of"])
def test_what_is_no_detector_is_refused(name, mine, data):
    with pytest.raises(ParameterError, match=name):
        find_detector(name, Brightness(), data)


def test_a_missing_file_is_a_missing_file(mine, data):
    with pytest.raises(FileNotFoundError):
        find_detector("absent.safetensors", Brightness(), data)
    with pytest.raises(FileNotFoundError):
        find_classifier("absent.pt2")


def test_an_ill_behaved_function_is_refused(data):
    for function in (lambda x: x.mean(), lambda x: torch.full((len(x),), torch.nan)):
        with pytest.raises(ModelError, match="strange"):
            as_detector(function, "strange", data)
    arrays_only = as_detector(
        lambda x: np.asarray(x).std((1, 2, 3)) if isinstance(x, np.ndarray) else x + "", "a", data
    )
    with pytest.raises(ParameterError, match="spsa"):
        arrays_only.anomaly_scores((data.test.x / 255).requires_grad_())


def test_other_peoples_classifiers_take_part(mine, data, detector):
    x = data.test.x[:3] / 255
    module = find_classifier("mine:net")
    torch.jit.trace(module, x).save("net.pt")
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes={"x": {0: batch}}), "net.pt2")
    for name in ("net.pt", "net.pt2"):
        loaded = find_classifier(name)
        torch.testing.assert_close(loaded(data.test.x / 255), module(data.test.x / 255))
        found = run_benchmark(detector, loaded, data, attacks=["pgd-8"], statistics=[], limit=5)
        assert found["rows"][0]["succeeded"] > 0
    with pytest.raises(ParameterError, match="mine:number"):
        find_classifier("mine:number")


def test_pickles_are_refused(mine):
    torch.save(Trained().state_dict(), "weights.pt")
    (mine / "other.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    for name in ("weights.pt", "other.pkl"):
        with pytest.raises(ModelError, match=name):
            find_classifier(name)
    assert not (mine / "ran").exists()
