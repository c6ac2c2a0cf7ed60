"""Every registered statistic, and what all have in common."""

import numpy as np
import pytest
import torch
from helpers import grid_images

from pixeldefend.densities import Density
from pixeldefend.errors import ParameterError
from pixeldefend.scores import SCORES, Evidence, bits_per_dim, make_score, residual_ratio
from pixeldefend.scores.surprisal import excess_surprisal


@pytest.mark.parametrize("name", SCORES)
def test_one_score_an_image_alone_as_in_a_batch_and_finite(name, density, fitted, monkeypatch):
    monkeypatch.setattr(residual_ratio, "STEPS", 60)  # what it learns does not matter here
    score = make_score(name)
    fitted(score, density, grid_images(500 if name == "ratio_and_excess" else 60, 1, 8, 8))
    x = grid_images(6, 1, 8, 8)
    together, alone = score(Evidence(density, x)), score(Evidence(density, x[:1]))
    assert together.shape == (6,)
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


def test_scores_by_site_say_what_they_need():
    class Flat(Density):
        def log_prob(self, x):
            return torch.zeros(len(x))

        def sample(self, n, *, generator=None):
            raise NotImplementedError

    evidence = Evidence(Flat((2,)), torch.zeros(3, 2))
    assert np.allclose(bits_per_dim(evidence), 0)
    with pytest.raises(ParameterError, match="Flat"):
        excess_surprisal(evidence)


def test_unknown_scores_are_refused():
    with pytest.raises(ParameterError, match="nope"):
        make_score("nope")
