"""Several statistics as one."""

import json

import numpy as np
import pytest
import torch
from helpers import grid_images, randomised
from hypothesis import given, settings
from hypothesis import strategies as st

from pixeldefend.densities import build
from pixeldefend.errors import CalibrationError, ModelError, ParameterError
from pixeldefend.scores import (
    Evidence,
    Fused,
    NoiseContrast,
    Pooled,
    bits_per_dim,
    make_score,
)
from pixeldefend.scores.combined import clean_quantiles, norm_of_positive_part, to_standard_normal

COLUMNS = ["bits_per_dim", "excess_surprisal", "pit_tails"]


def pooled(clean):
    """A Pooled of given columns."""
    return Pooled(dict.fromkeys(COLUMNS, bits_per_dim)).fit(torch.from_numpy(clean))


def test_pooled_scores_see_what_is_high_in_one_or_a_little_high_in_all():
    random = np.random.RandomState(0)

    def clean(n):
        z = random.randn(n, 3)
        return np.stack([np.exp(z[:, 0]), 5 * z[:, 1] - 7, z[:, 2] ** 3], 1)

    score = pooled(clean(4000))
    usual = score.evaluate(torch.from_numpy(clean(4000)))
    odd = torch.tensor([[1.0, 40.0, 0.0], [90.0, -7.0, 0.0], [np.exp(2), 3.0, 8.0]]).double()
    assert (score.evaluate(odd) > usual.quantile(0.95)).all()
    low = torch.tensor([[0.01, -30.0, -9.0]]).double()
    assert score.evaluate(low).item() < 0
    # z+^2 of three normal numbers has mean 3/2, whatever their units
    normal = 5 * random.randn(8000, 3) - 7
    length = pooled(normal[:4000]).evaluate(torch.from_numpy(normal[4000:])).clamp(min=0)
    assert length.square().mean().item() == pytest.approx(1.5, rel=0.1)


@given(
    rows=st.lists(st.tuples(*[st.floats(-40, 40)] * 3), min_size=1, max_size=8),
    power=st.sampled_from([2, 4]),
    more=st.floats(1e-6, 5),
    column=st.integers(0, 2),
)
@settings(max_examples=50, deadline=None)
def test_the_positive_part_is_the_norm_and_below_zero_the_highest(rows, power, more, column):
    z = torch.tensor(rows, dtype=torch.double, requires_grad=True)
    found, highest = norm_of_positive_part(z, power), z.amax(1)
    norm = z.clamp(min=0).pow(power).sum(1).pow(1 / power)
    torch.testing.assert_close(found, torch.where(highest > 0, norm, highest))
    raised = z.detach().clone()
    raised[:, column] += more
    assert (norm_of_positive_part(raised, power) >= found - 1e-9).all()
    assert (norm_of_positive_part(z + more, power) > found).all()  # no ties: each image keeps its place
    (gradient,) = torch.autograd.grad(found.sum(), z)
    assert torch.isfinite(gradient).all()
    assert (gradient >= 0).all()


def test_pooled_scores_keep_the_order_of_a_single_member_however_far():
    random = np.random.RandomState(0)
    clean = random.randn(300, 3)
    new = np.median(clean, 0) * np.ones((50, 1))
    new[:, 1] = np.sort(10 * random.rand(50)) + np.median(clean[:, 1])
    assert (np.diff(pooled(clean).evaluate(torch.from_numpy(new)).numpy()) > 0).all()


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=20, deadline=None)
def test_pooled_scores_do_not_depend_on_the_members_units(scale, shift):
    random = np.random.RandomState(1)
    clean, new = random.randn(300, 3), 3 * random.randn(40, 3)
    expected = pooled(clean).evaluate(torch.from_numpy(new))
    torch.testing.assert_close(pooled(scale * clean + shift).evaluate(torch.from_numpy(scale * new + shift)), expected)


def test_pooled_scores_leave_out_what_does_not_differ_and_refuse_too_few():
    random = np.random.RandomState(0)
    clean = random.randn(60, 3)
    clean[:, 1] = 7
    assert pooled(clean).members_ == ["bits_per_dim", "pit_tails"]
    with pytest.raises(CalibrationError, match="got 49"):
        pooled(clean[:49])
    with pytest.raises(CalibrationError, match="constant"):
        pooled(np.ones((60, 3)))


def test_a_contrast_is_fisher_s_discriminant():
    """Of normal numbers with covariance S, shifted by delta: w = S^-1 delta, whatever noise does not move included."""
    random = np.random.RandomState(0)
    mix = np.array([[1.0, 0, 0], [0.9, 0.3, 0], [0, 0, 1]])
    clean = random.randn(20000, 3) @ mix.T
    score = NoiseContrast(dict.fromkeys(COLUMNS, bits_per_dim)).fit(
        torch.from_numpy(clean), torch.from_numpy(clean + np.array([0.2, 0, 0]))
    )
    expected = np.linalg.solve(np.corrcoef(clean.T), [1, 0, 0])  # the members are scaled to variance 1
    weights = np.array(score.weights_)
    assert weights / np.linalg.norm(weights) == pytest.approx(expected / np.linalg.norm(expected), abs=0.03)
    assert weights[1] < -0.5  # not moved itself, but it tells what to expect of the first
    values = score.evaluate(torch.from_numpy(random.randn(20000, 3) @ mix.T))
    assert values.std().item() == pytest.approx(1, abs=0.05)
    still = NoiseContrast(dict.fromkeys(COLUMNS, bits_per_dim)).fit(torch.from_numpy(clean), torch.from_numpy(clean))
    assert (still.evaluate(torch.from_numpy(clean)) == 0).all()
    with pytest.raises(ParameterError):
        NoiseContrast(dict.fromkeys(COLUMNS, bits_per_dim)).fit(torch.from_numpy(clean))


def test_normal_numbers_are_normal_and_keep_the_order():
    random = np.random.RandomState(0)
    clean, new = torch.from_numpy(np.exp(random.randn(5000))), torch.from_numpy(np.exp(random.randn(5000)))
    z = to_standard_normal(new, clean_quantiles(clean))
    assert z.mean().item() == pytest.approx(0, abs=0.05)
    assert z.std().item() == pytest.approx(1, abs=0.05)
    far = to_standard_normal(torch.linspace(-1e6, 1e6, 1001).double(), clean_quantiles(clean))
    assert (far.diff() > 0).all()
    assert far.abs().max() < 40  # however far


def test_fused_scores_are_little_more_than_the_highest_of_their_parts(density, fitted):
    x, evidence = grid_images(60, 1, 8, 8), Evidence(density, grid_images(7, 1, 8, 8, seed=1))
    with torch.inference_mode():  # with gradients, other code computes the conditionals, which rounds differently
        score = fitted(make_score("fused"), density, x)
        parts = torch.stack(
            [
                to_standard_normal(fitted(make_score(name), density, x)(evidence), quantiles)
                for name, quantiles in score.quantiles_.items()
            ],
            1,
        )
        fused, highest = score(evidence), parts.amax(1)
        torch.testing.assert_close(fused, norm_of_positive_part(parts, 4))
        assert ((fused >= highest) & (fused <= 3**0.25 * highest.clamp(min=0) + 1e-9)).all()
        again = make_score("fused").restore(json.loads(json.dumps(score.state())))
        torch.testing.assert_close(again(evidence), fused)


def test_a_state_of_other_parts_is_refused():
    clean = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).double()
    parts = {"a": bits_per_dim, "b": Pooled({"c": bits_per_dim, "d": bits_per_dim})}
    state = json.loads(json.dumps(Fused(parts).fit(clean, clean).state()))
    new = torch.full((1, 3), 2.0).double()
    assert Fused(parts).restore(state).evaluate(new).item() > 0
    wrong = [
        {"quantiles_": state["quantiles_"]},
        {**state, "parts_": {}},
        {**state, "parts_": {"b": {}}},
        {**state, "quantiles_": {**state["quantiles_"], "e": [0.0] * 49}},
    ]
    for other in wrong:
        with pytest.raises(ModelError):
            Fused(parts).restore(other)
    with pytest.raises(ParameterError):
        Fused(parts).fit(clean)


@pytest.mark.parametrize(
    "config",
    [
        dict(model="fvsbn", event_shape=[1, 6, 6], head="bernoulli"),
        dict(model="rnade", event_shape=[1, 6, 6], hidden=8, mixtures=2),
        dict(model="made", event_shape=[9], hidden=[20], head="categorical", levels=5),
        dict(model="rnade", event_shape=[9], hidden=8, mixtures=2),
    ],
)
def test_every_kind_of_density_has_fused_scores(config, fitted):
    density = randomised(build(config), scale=0.3)
    with torch.inference_mode():
        x = density.sample(80)
        score = fitted(make_score("fused"), density, x)
        assert torch.isfinite(score(Evidence(density, x))).all()
        assert "top_pixels" in score.quantiles_
        assert "top_surprisal" in score.parts["pooled"].members_
        assert "later_channels_excess_surprisal" not in score.parts["pooled"].members_
