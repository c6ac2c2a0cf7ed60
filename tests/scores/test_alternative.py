"""Tests the statistics that compare a density with a density of perturbed images."""

import numpy as np
import pytest
import torch
from helpers import grid_images

from pixeldefend import Detector, load_detector
from pixeldefend.densities import OrderEnsemble, build
from pixeldefend.errors import ParameterError
from pixeldefend.scores import Evidence, likelihood_ratio_map, make_score

SMALL = {"model": "pixelcnnpp", "event_shape": [1, 8, 8], "filters": 4, "blocks": 1, "scales": 1, "mixtures": 2}


@pytest.fixture(scope="module")
def pair():
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        density = build(SMALL).eval()
        with torch.no_grad():
            for parameter in density.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        made.append(density)
    return made


def test_it_is_the_difference_of_the_log_likelihoods(pair):
    p, q = pair
    x = grid_images(5, 1, 8, 8)
    ratio = make_score("likelihood_ratio")(Evidence(p, x, alternative=q))
    torch.testing.assert_close(ratio, q.log_prob(x) - p.log_prob(x), rtol=1e-4, atol=1e-3)
    assert make_score("likelihood_ratio")(Evidence(p, x, alternative=p)).abs().max() < 1e-3


def test_densities_without_conditionals_have_a_ratio_too():
    made = [build({"model": "made", "event_shape": [6], "hidden": [8], "head": "bernoulli"}).eval() for _ in range(2)]
    p, q = (OrderEnsemble(density, 1) for density in made)
    x = (grid_images(4, 1, 2, 3).flatten(1) > 0.5).float()
    ratio = make_score("likelihood_ratio")(Evidence(p, x, alternative=q))
    torch.testing.assert_close(ratio, q.log_prob(x) - p.log_prob(x))


def test_its_map_shows_every_sub_pixel_and_sums_to_it(pair):
    p, q = pair
    x = grid_images(120, 1, 8, 8)
    detector = Detector(p, statistic="likelihood_ratio", alternative=q).fit(x)
    maps = detector.evaluate({"map": likelihood_ratio_map}, x[:5])["map"]
    assert maps.shape == (5, 1, 8, 8)
    np.testing.assert_allclose(maps.sum((1, 2, 3)), -detector.score_samples(x[:5]), atol=1e-3)


def test_densities_without_conditionals_have_no_map(pair):
    made = build({"model": "made", "event_shape": [6], "hidden": [8], "head": "bernoulli"}).eval()
    ensemble = OrderEnsemble(made, 1)
    for p, q in ((made, ensemble), (ensemble, made)):
        with pytest.raises(ParameterError, match="OrderEnsemble has none"):
            likelihood_ratio_map(Evidence(p, torch.zeros(2, 6), alternative=q))


def test_without_an_alternative_it_says_what_it_needs(pair):
    with pytest.raises(ParameterError, match="alternative="):
        Detector(pair[0], statistic="likelihood_ratio").fit(grid_images(120, 1, 8, 8))


def test_one_file_holds_both_densities(pair, tmp_path):
    p, q = pair
    x = grid_images(120, 1, 8, 8)
    detector = Detector(p, statistic="likelihood_ratio", alternative=q).fit(x, backends=["bfloat16"])
    detector.save(tmp_path / "d.safetensors")
    again = load_detector(tmp_path / "d.safetensors")
    np.testing.assert_allclose(again.score_samples(x[:9]), detector.score_samples(x[:9]), rtol=1e-6)
    torch.testing.assert_close(again.density.log_prob(x[:2]), p.log_prob(x[:2]))
    torch.testing.assert_close(again.alternative.log_prob(x[:2]), q.log_prob(x[:2]))
    other = again.with_backend("bfloat16").score_samples(x[:9])
    assert (other != detector.score_samples(x[:9])).any()  # both densities run on the other backend
    np.testing.assert_allclose(other, detector.score_samples(x[:9]), atol=3)


def test_its_gradient_reaches_the_image(pair):
    p, q = pair
    x = grid_images(120, 1, 8, 8)
    detector = Detector(p, statistic="likelihood_ratio", alternative=q).fit(x)
    moved = x[:2].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.anomaly_scores(moved).sum(), moved)
    (wanted,) = torch.autograd.grad((q.log_prob(moved) - p.log_prob(moved)).sum(), moved)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-2)
