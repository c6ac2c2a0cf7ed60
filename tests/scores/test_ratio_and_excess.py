"""Tests the combination of the learned ratio and the excess surprisal of sites with low entropy."""

import numpy as np
import pytest
import torch
from scipy.stats import combine_pvalues, norm

from pixeldefend.errors import CalibrationError, ModelError
from pixeldefend.images import to_uint8
from pixeldefend.images.perturbations import perturbed
from pixeldefend.scores import Evidence, low_entropy_excess_surprisal
from pixeldefend.scores.combined import to_standard_normal
from pixeldefend.scores.ratio_and_excess import RatioAndExcess


@pytest.fixture(scope="module")
def drawn(density):
    return density.sample(500, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def learned(density, drawn):
    score = RatioAndExcess()
    with torch.no_grad():
        parts = [score.features(Evidence(density, copy(drawn[:300]))) for copy in (torch.clone, *score.copies)]
    return score.fit(*parts)


@torch.no_grad()
def test_it_is_fishers_combination_of_both_p_values(learned, density, drawn):
    evidence = Evidence(density, drawn[300:310])
    members = learned.ratio(evidence), low_entropy_excess_surprisal(evidence)
    z = [to_standard_normal(*pair).numpy() for pair in zip(members, learned.quantiles_, strict=True)]
    expected = [combine_pvalues(pair, method="fisher").statistic / 2 for pair in norm.sf(z).T]
    np.testing.assert_allclose(learned(evidence).numpy(), expected, rtol=1e-4)


@torch.no_grad()
def test_what_either_of_the_two_finds_is_found(learned, density, drawn):
    clean = learned(Evidence(density, drawn[300:])).numpy()
    limit = np.quantile(clean, 0.95)
    moved = perturbed(to_uint8(drawn[300:]), seed=9, sizes={3: 1.0}) / 255
    assert (learned(Evidence(density, moved)).numpy() > limit).mean() > 0.8
    noise = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert (learned(Evidence(density, noise)).numpy() > limit).all()


@torch.no_grad()
def test_a_p_value_of_each_part_is_uniform_over_new_images(learned, density):
    """The quantiles are not those of images that the network has learned from, whose ratios are lower."""
    new = Evidence(density, density.sample(400, generator=torch.Generator().manual_seed(6)))
    for member, quantiles in zip(
        (learned.ratio(new), low_entropy_excess_surprisal(new)), learned.quantiles_, strict=True
    ):
        share = (to_standard_normal(member, quantiles) > 0).double().mean()
        assert abs(share - 0.5) < 0.2


def test_a_gradient_reaches_the_image(learned, density, drawn):
    x = drawn[:2].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(learned(Evidence(density, x)).sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).double().mean() > 0.9


@torch.no_grad()
def test_its_state_is_complete(learned, density, drawn):
    evidence = Evidence(density, drawn[:5])
    again = RatioAndExcess().restore(learned.state())
    np.testing.assert_array_equal(again(evidence).numpy(), learned(evidence).numpy())
    for name in ("quantiles_", "limit_"):
        rest = {key: value for key, value in learned.state().items() if key != name}
        with pytest.raises(ModelError, match="another version"):
            RatioAndExcess().restore(rest)


def test_few_images_are_refused(density, drawn):
    score = RatioAndExcess()
    with torch.no_grad():
        features = score.features(Evidence(density, drawn[:99]))
    with pytest.raises(CalibrationError, match="at least 100 clean images, got 99"):
        score.fit(features, *(features for _ in score.copies))
