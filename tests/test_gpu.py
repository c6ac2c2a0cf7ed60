"""On a GPU everything says what it says on the CPU, up to rounding. Without one, these tests are skipped.

TEST_DEVICE=cpu runs them on the CPU, which tests the tests.
"""

import os

import numpy as np
import pytest
import torch
from helpers import Brightness, clean_images, grid_images, randomised, small_configs, values
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from pixeldefend import Detector, load_detector
from pixeldefend.data import DataSet, Images
from pixeldefend.densities import DENSITIES, NeLLoC, OrderEnsemble, build
from pixeldefend.purification import purify
from pixeldefend.scores import SCORES, LearnedScore, make_score, residual_ratio
from pixeldefend.scores.profile import examine

DEVICE = os.environ.get("TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU")

CASES = [
    pytest.param({"model": name, **case}, id=f"{name}-{i}")
    for name in DENSITIES
    for i, case in enumerate(small_configs(name))
]


@pytest.fixture(autouse=True)
def full_precision():
    """TF32 has 10 bits."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.parametrize("config", CASES)
def test_every_density_evaluates_samples_and_has_gradients(config):
    density = randomised(build(config), scale=0.1).double()
    x = values(density, 3).double()
    expected = density.log_prob_map(x).detach()
    density.to(DEVICE)
    there = x.to(DEVICE).requires_grad_()
    log_prob = density.log_prob_map(there)
    assert log_prob.device.type == DEVICE
    assert_close(log_prob.detach().cpu(), expected)
    (gradient,) = torch.autograd.grad(log_prob.sum(), there, allow_unused=True)
    assert gradient is None or gradient.isfinite().all()
    drawn = density.sample(2)
    assert drawn.device.type == DEVICE
    assert density.log_prob(drawn).isfinite().all()


@pytest.mark.parametrize("name", ["pixelcnnpp", "pixelcnn", "gated_pixelcnn", "nelloc", "made", "nade"])
def test_purification_is_that_of_the_cpu(name):
    if name == "nelloc":
        density = randomised(NeLLoC((3, None, None), width=4, layers=1, mixtures=2), scale=0.1).double()
    else:
        config = next(case for case in small_configs(name) if case.get("head", "logistics") == "logistics")
        density = randomised(build({"model": name, **config, "event_shape": (3, 8, 8)}), scale=0.1)
    assert density.levels == 256
    x = grid_images(3, density.event_shape[0], 8, 8)
    expected = purify(x, 4, density.double())
    density.to(DEVICE)
    for method in ("auto", "fixed_point", "sequential"):
        assert (purify(x, 4, density, method=method) != expected).float().mean() < 0.01, method


def test_an_ensemble_of_orders():
    ensemble = OrderEnsemble(randomised(build({"model": "eonade", **small_configs("eonade")[0]}), scale=0.1), 3)
    x = values(ensemble.density, 4)
    expected = ensemble.log_prob(x).detach()
    ensemble.to(DEVICE)
    assert_close(ensemble.log_prob(x.to(DEVICE)).detach().cpu(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("statistic", SCORES)
def test_every_statistic_scores_and_learns(statistic, tiny_density, monkeypatch):
    monkeypatch.setattr(residual_ratio, "STEPS", 50)
    if "channel" in statistic or statistic == "smoothing_gain":
        images = avg_pool2d(grid_images(1000, 3, 8, 8), 3, 1, 1).mul(255).round() / 255
        config = {**tiny_density.config, "event_shape": (3, 8, 8)}
        here, there = (randomised(build(config), scale=0.05) for _ in range(2))
    else:
        images = torch.from_numpy(clean_images(1000))[:, None] / 255
        here, there = tiny_density, build(tiny_density.config).eval()
    there.load_state_dict(here.state_dict())
    learning = 950 if statistic == "ratio_and_excess" else 250
    expected, found = (
        Detector(density, statistic=statistic, fpr=0.1).fit(images[:150], X_fit=images[150:learning])
        for density in (here, there.to(DEVICE))
    )
    x = images[950:]
    if not isinstance(make_score(statistic), LearnedScore):  # learning multiplies the differences of rounding
        np.testing.assert_allclose(found.score_samples(x), expected.score_samples(x), rtol=1e-3, atol=1e-2)
    verdicts = found.judge(x, maps=True)
    assert np.isfinite(verdicts.score).all()
    np.testing.assert_allclose(verdicts.surprisal_map, expected.judge(x, maps=True).surprisal_map, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["cifar10", "cifar10-jpeg", "fashion-mnist", "photo"])
def test_shipped_detectors_judge_alike(name):
    shape = {"fashion-mnist": (28, 28), "photo": (96, 130, 3)}.get(name, (32, 32, 3))
    smooth = avg_pool2d(grid_images(6, 1 if len(shape) == 2 else 3, *shape[:2]), 5, 1, 2)
    images = [(255 * image).round().to(torch.uint8) for image in smooth]
    expected, found = load_detector(name).judge(images), load_detector(name, device=DEVICE).judge(images)
    np.testing.assert_allclose(found.bits_per_dim, expected.bits_per_dim, rtol=1e-3)
    np.testing.assert_allclose(found.score, expected.score, rtol=0.02, atol=0.05)
    if name != "photo":
        other = load_detector(name, device=DEVICE, backend="bfloat16").judge(images)
        np.testing.assert_allclose(other.bits_per_dim, expected.bits_per_dim, rtol=0.02)


def test_photographs_are_examined_tile_by_tile():
    density = randomised(NeLLoC((3, None, None), width=4, layers=1, mixtures=2), scale=0.1)
    x = (255 * grid_images(1, 3, 150, 140)).to(torch.uint8)
    expected = examine(density, x, maps=True)
    found = examine(density.to(DEVICE), x.to(DEVICE), maps=True)
    assert_close(found.profiles.cpu(), expected.profiles, atol=1e-3, rtol=1e-3)
    assert_close(found.excess_map.cpu(), expected.excess_map, atol=1e-2, rtol=1e-3)


def test_files_go_there_and_back(tmp_path, tiny_detector):
    tiny_detector.save(tmp_path / "d.safetensors")
    there = load_detector(tmp_path / "d.safetensors", device=DEVICE)
    assert there.density.device.type == DEVICE
    there.save(tmp_path / "again.safetensors")
    x = clean_images(9, seed=2)
    np.testing.assert_allclose(
        load_detector(tmp_path / "again.safetensors").score_samples(x), tiny_detector.score_samples(x)
    )


@pytest.mark.parametrize("attack", ["pgd-8", "fmn-l0", "cw-l2", "square-8", "ddn"])
def test_attacks_run_there(attack):
    pytest.importorskip("foolbox", reason="the extra 'attacks' is not installed")
    from pixeldefend.attacks import craft

    x = 0.4 + 0.2 * grid_images(8, 1, 8, 8)
    x = (255 * x).round() / 255
    classifier = Brightness()
    labels = classifier(x).argmax(1)
    attacked = craft(classifier.to(DEVICE), x, labels, attack)
    assert attacked.succeeded.float().mean() > 0.5
    assert attacked.images.device.type == "cpu"


def test_training_runs_there(tmp_path):
    pytest.importorskip("lightning", reason="the extra 'train' is not installed")
    from pixeldefend.training import train_density

    x = torch.from_numpy(clean_images(96))[:, None]
    images = Images(x, None, torch.arange(96))
    data = DataSet("smooth", images, *[images[:32]] * 4)
    accelerator = "gpu" if DEVICE == "cuda" else "cpu"
    trained = train_density(
        data, tmp_path, arguments={"filters": 4, "blocks": 1, "scales": 1}, epochs=2, accelerator=accelerator
    )
    assert trained.metrics["bits_per_dim"] < 8
    assert trained.model.log_prob(x[:2] / 255).isfinite().all()
