"""Tests the learned likelihood ratio of residuals."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pixeldefend.densities import Density, build
from pixeldefend.detectors import Detector
from pixeldefend.errors import CalibrationError, ModelError, ParameterError
from pixeldefend.images import to_uint8
from pixeldefend.images.perturbations import perturbed
from pixeldefend.scores import Evidence, make_score
from pixeldefend.scores.residual_ratio import GUARD, ResidualNetwork, ResidualRatio


@pytest.fixture(scope="module")
def learned(density, samples):
    score = ResidualRatio()
    with torch.no_grad():
        clean, *copies = (
            score.features(Evidence(density, x))
            for x in (samples[:200], *(copy(samples[:200]) for copy in score.copies))
        )
    return score.fit(clean, *copies)


@torch.no_grad()
def scores(score, density: Density, x) -> np.ndarray:
    return score(Evidence(density, x)).numpy()


def test_perturbed_images_score_higher_than_clean_ones(learned, density, samples):
    clean = samples[200:]
    moved = perturbed(to_uint8(clean), seed=9, sizes={3: 1.0}) / 255
    found = np.concatenate([scores(learned, density, x) for x in (clean, moved)])
    assert roc_auc_score(np.repeat([0, 1], len(clean)), found) > 0.9


def test_strange_images_score_higher_than_all_others(learned, density, samples):
    clean = scores(learned, density, samples[200:])
    generator = torch.Generator().manual_seed(0)
    flat = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
    noise = torch.rand(3, 1, 8, 8, generator=generator)
    assert scores(learned, density, torch.cat([flat, noise])).min() > clean.max()


def test_a_gradient_reaches_the_image(learned, density, samples):
    x = samples[:2].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(learned(Evidence(density, x)).sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).double().mean() > 0.9


def test_it_survives_a_file(density, samples, tmp_path):
    images = to_uint8(samples)
    detector = Detector(density, statistic="residual_ratio", fpr=0.05)
    detector.fit(images[200:], X_fit=images[:60], corruptions=["brighter-10%"], backends=["bfloat16"])
    detector.save(tmp_path / "detector.safetensors")
    loaded = Detector.load(tmp_path / "detector.safetensors")
    np.testing.assert_array_equal(loaded.score_samples(images[:20]), detector.score_samples(images[:20]))
    assert loaded.corruptions_ == ["brighter-10%"]
    assert loaded.with_backend("bfloat16").precision == "bfloat16"


def test_what_it_cannot_learn_from_is_refused(density, samples):
    score = make_score("residual_ratio")
    with torch.no_grad():
        features = score.features(Evidence(density, samples[:60]))
    with pytest.raises(CalibrationError, match="at least 50 clean images, got 49"):
        score.fit(features[:49], *(features[:49] for _ in score.copies))
    with pytest.raises(ParameterError, match="5 copies, got 1"):
        score.fit(features, features)
    small = build({"model": "pixelcnn", "event_shape": [1, 7, 8], "head": "logistics", "filters": 4})
    with pytest.raises(ParameterError, match="sides of at least 8"):
        score.features(Evidence(small, torch.zeros(1, 1, 7, 8)))
    categorical = build({"model": "pixelcnn", "event_shape": [1, 8, 8], "head": "categorical", "filters": 4})
    with pytest.raises(ParameterError, match="mixtures of logistics"):
        score.features(Evidence(categorical, torch.zeros(1, 1, 8, 8)))


@pytest.mark.parametrize("name", ["network_.first.weight", "network_.hidden.bias", *GUARD])
@pytest.mark.parametrize(
    "value", [None, 3.0, torch.tensor(1.0), torch.zeros(3)], ids=["none", "number", "0-d", "short"]
)
def test_a_damaged_state_is_refused(learned, name, value):
    state = {**learned.state(), name: value}
    if value is None:
        del state[name]
    if name == "limit_" and isinstance(value, torch.Tensor) and value.ndim == 0:
        return  # that is what it is
    with pytest.raises(ModelError, match="version"):
        ResidualRatio().restore(state)
    with pytest.raises(ModelError, match="version"):
        ResidualRatio().restore({})


def test_its_guard_is_the_same_for_new_images(density):
    """Few images are beyond the limit, though the mean and the covariance were computed from others."""
    generator = torch.Generator().manual_seed(1)
    learn, new = (density.sample(150, generator=generator) for _ in range(2))
    with torch.no_grad():
        parts = [
            ResidualRatio().features(Evidence(density, copy(learn))) for copy in (torch.clone, *ResidualRatio.copies)
        ]
        score = ResidualRatio().fit(*parts)
        score.network_.last.weight.zero_()
        score.network_.last.bias.zero_()
    assert (scores(score, density, new) > 0).mean() <= 0.05


def test_training_neither_uses_nor_changes_the_default_generator(density, samples):
    with torch.no_grad():
        parts = [ResidualRatio().features(Evidence(density, samples[k : k + 60])) for k in range(6)]
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(ResidualRatio().fit(*parts).state())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_images_of_several_sizes_cannot_teach_it(samples):
    torch.manual_seed(0)
    local = build({"model": "nelloc", "event_shape": [1, None, None], "width": 4, "layers": 1, "mixtures": 2})
    images = [image[0].numpy() for image in to_uint8(samples)]
    mixed = [*images[:60], *(np.tile(image, (1, 2)) for image in images[60:120])]
    with pytest.raises(ParameterError, match="images of one size"):
        Detector(local, statistic="residual_ratio", fpr=0.05).fit(images[200:], X_fit=mixed)


def test_the_network_takes_images_of_all_sizes():
    network = ResidualNetwork(3, filters=4, layers=2, hidden=8).eval()
    for size in ((8, 8), (32, 40)):
        planes = torch.rand(2, 12, *size) + 0.5
        assert network(planes, torch.zeros(2, len(network.mean))).shape == (2,)
