"""Baselines for photographs."""

import numpy as np
import pytest
import torch

from pixeldefend.errors import ParameterError
from pixeldefend.eval import PHOTO_BASELINES, find_detector
from pixeldefend.eval.photos import Learning, read_photographs
from pixeldefend.eval.photos.baselines import TRAINED, baseline


@pytest.fixture(scope="module")
def photographs(folder, classifier):
    return read_photographs(folder, classifier)


@pytest.mark.parametrize("name", PHOTO_BASELINES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_baseline_scores_images_one_by_one(name, photographs, classifier):
    if name == "jxl-lossless":  # it alone needs an extra that `all` leaves out, for its licence
        pytest.importorskip("pillow_jxl")
    score = baseline(name + "@pgd-8" * (name in TRAINED), classifier, photographs)
    x = torch.stack(photographs.x[:3]) / 255
    with torch.no_grad():
        together, alone = np.asarray(score(x)), np.concatenate([np.asarray(score(image[None])) for image in x])
        grey = np.asarray(score(torch.rand(1, 1, 30, 20)))  # of another size
    assert np.isfinite(grey).all()
    assert together.shape == (3,)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_noise_makes_lossless_files_longer(photographs, classifier):
    score = baseline("webp-lossless", classifier, photographs)
    smooth = (torch.arange(64) / 64).expand(2, 3, 64, 64)
    noisy = torch.rand(2, 3, 64, 64)
    assert np.asarray(score(noisy)).min() > 7  # random bytes cannot be shortened
    assert np.asarray(score(smooth)).max() < np.asarray(score(noisy)).min()


def test_a_trained_baseline_finds_the_attack_that_it_learned(photographs, classifier):
    from pixeldefend.attacks import craft

    score = baseline("steganalysis@pgd-8", classifier, photographs.take(range(8)))
    rest = photographs.take(range(8, 12))
    attacked = craft(classifier, torch.stack(rest.x), rest.y, "pgd-8").images
    assert np.mean(score(attacked / 255)) > np.mean(score(torch.stack(rest.x) / 255))


def test_what_a_baseline_lacks_is_said(photographs, classifier):
    for name in ("nope", "random@pgd-8", "spectral@nope"):
        with pytest.raises(ParameterError):
            baseline(name, classifier, photographs)
    with pytest.raises(ParameterError, match="--learn"):
        find_detector("random", classifier, None)
    with pytest.raises(ParameterError):  # the attack changes nothing
        baseline("spectral@fgsm-1", Unmoved(classifier), photographs)


class Unmoved(torch.nn.Module):
    """Finds class 0 in every image."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x):
        return torch.tensor([1.0, 0.0, 0.0]) + 0 * self.classifier(x)


def test_a_baseline_becomes_a_calibrated_detector(photographs, classifier):
    detector = find_detector("random", classifier, Learning.of(photographs), fpr=0.2)
    assert len(detector.calibration_scores_) == 8
    assert detector.p_value(photographs.x[:1])[0] >= 1 / 9
