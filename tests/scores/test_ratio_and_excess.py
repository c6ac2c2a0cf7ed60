"""Tests the combination of the learned ratio and the excess surprisal of sites with low entropy."""

import numpy as np
import pytest
import torch
from scipy.stats import combine_pvalues, norm

from pixeldefend.errors import CalibrationError, ModelError, ParameterError
from pixeldefend.images import to_uint8
from pixeldefend.images.perturbations import perturbed
from pixeldefend.scores import Evidence, low_entropy_excess_surprisal
from pixeldefend.scores.combined import QUANTILE_LEVELS, to_standard_normal
from pixeldefend.scores.ratio_and_excess import RatioAndExcess
from pixeldefend.scores.residual_ratio import ResidualRatio


@pytest.fixture(scope="module")
def drawn(density):
    return density.sample(700, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def learned(density, drawn):
    score = RatioAndExcess()
    with torch.no_grad():
        parts = [score.features(Evidence(density, copy(drawn[:500]))) for copy in (torch.clone, *score.copies)]
    return score.fit(*parts)


@torch.no_grad()
def test_it_is_fishers_combination_of_both_p_values(learned, density, drawn):
    evidence = Evidence(density, drawn[500:510])
    members = learned.ratio(evidence), low_entropy_excess_surprisal(evidence)
    z = [to_standard_normal(*pair).numpy() for pair in zip(members, learned.quantiles_, strict=True)]
    expected = [combine_pvalues(pair, method="fisher").statistic / 2 for pair in norm.sf(z).T]
    np.testing.assert_allclose(learned(evidence).numpy(), expected, rtol=1e-4)


@torch.no_grad()
def test_what_only_one_of_the_two_finds_is_found(learned, density, drawn):
    clean = learned.features(Evidence(density, drawn[500:]))
    limit = learned.evaluate(clean).quantile(0.95)
    excessive = clean.clone()
    low, high = learned.quantiles_[1][0], learned.quantiles_[1][-1]
    excessive[:, -1] = high + 10 * (high - low)
    assert (learned.evaluate(excessive) > limit).all()
    moved = perturbed(to_uint8(drawn[500:]), seed=9, sizes={3: 1.0}) / 255
    residual = torch.cat([learned.features(Evidence(density, moved))[:, :-1], clean[:, -1:]], 1)
    assert (learned.evaluate(residual) > limit).double().mean() > 0.5


def test_no_image_both_teaches_the_ratio_and_gives_quantiles(monkeypatch):
    learned, held_out = [], []
    monkeypatch.setattr(ResidualRatio, "fit", lambda self, *parts: learned.extend(parts))
    monkeypatch.setattr(ResidualRatio, "evaluate", lambda self, part: held_out.append(part) or part[:, 0, 0, 0])
    index = torch.arange(600.0)[:, None, None, None].expand(-1, 5, 8, 8)
    score = RatioAndExcess()
    score.corruptions = 10
    score.fit(torch.cat([index, index]), *[index] * len(score.copies))
    kept = held_out[0][:, 0, 0, 0].tolist()
    assert (len(kept), len(set(kept))) == (120, 60)
    for part in learned:
        assert set(part[:, 0, 0, 0].tolist()) == set(range(600)) - set(kept)
    for part in (kept, learned[0][:, 0, 0, 0].tolist()):
        assert {int(place) % 10 for place in part} == set(range(10))  # images of each corruption
    assert score.ratio.corruptions == 10
    expected = np.quantile(sorted(kept), QUANTILE_LEVELS)
    np.testing.assert_allclose(score.quantiles_, [expected, expected])


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
        features = score.features(Evidence(density, drawn[:499]))
    with pytest.raises(CalibrationError, match="at least 500 clean images, got 499"):
        score.fit(features, *(features for _ in score.copies))


def test_missing_copies_are_refused():
    with pytest.raises(ParameterError, match="5 copies, got 0"):
        RatioAndExcess().fit(torch.zeros(500, 5, 8, 8))
