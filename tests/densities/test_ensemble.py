"""Models of many orders."""

import itertools
import math

import pytest
import torch
from helpers import randomised, values

from pixeldefend import densities
from pixeldefend.densities import MADE, NADE, EoNADE, OrderEnsemble
from pixeldefend.errors import ParameterError

EVENTS = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
MODELS = [
    lambda: EoNADE((6,), hidden=8),
    lambda: EoNADE((6,), hidden=8, layers=2),
    lambda: MADE((6,), hidden=(12, 12), masks=5, order_agnostic=True),
]


@pytest.fixture(params=MODELS)
def density(request):
    return randomised(request.param()).double()


def test_the_order_changes_the_density_and_not_its_weights(density):
    other = density.reordered(3)
    assert next(other.parameters()) is next(density.parameters())
    assert (density.log_prob(EVENTS) - other.log_prob(EVENTS)).abs().max() > 0.01
    torch.testing.assert_close(other.reordered(density.ordering).log_prob(EVENTS), density.log_prob(EVENTS))
    assert sorted(other.order().tolist()) == list(range(6))


def test_an_ensemble_is_the_mean_of_its_orders(density):
    ensemble = OrderEnsemble(density, 5)
    with torch.no_grad():
        each = torch.stack([density.reordered(k).log_prob(EVENTS).exp() for k in range(5)])
        torch.testing.assert_close(ensemble.log_prob(EVENTS).exp(), each.mean(0))
        assert ensemble.log_prob(EVENTS).exp().sum().item() == pytest.approx(1, abs=1e-9)
        torch.testing.assert_close(ensemble.log_prob_map(EVENTS).sum(1), ensemble.log_prob(EVENTS))


def test_an_ensemble_is_sampled_exactly(density):
    ensemble = OrderEnsemble(density, 3)
    n = 4000
    x = ensemble.sample(n, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount((x @ (2.0 ** torch.arange(5, -1, -1)).double()).long(), minlength=64)
    with torch.no_grad():
        expected = n * ensemble.log_prob(EVENTS).exp()
    likely = expected > 5
    statistic = ((counts - expected).square() / expected)[likely].sum()
    degrees = int(likely.sum())
    assert abs(statistic - degrees) < 7 * math.sqrt(2 * degrees)


def test_an_ensemble_of_images_has_maps_of_images():
    ensemble = OrderEnsemble(randomised(EoNADE((3, 2, 4), hidden=8)), 3)
    x = values(ensemble.density, 2)
    assert ensemble.log_prob_map(x).shape == x.shape
    assert ensemble.sample(2).shape == x.shape


def test_an_ensemble_is_saved_with_its_orders(density, tmp_path):
    ensemble = OrderEnsemble(density, 4)
    ensemble.save(tmp_path / "e.safetensors")
    loaded = densities.load(tmp_path / "e.safetensors").double()
    torch.testing.assert_close(loaded.log_prob(EVENTS), ensemble.log_prob(EVENTS))


def test_the_objective_of_eonade_is_the_mean_over_all_orders():
    """Of -log p(x): over all 3! orders exactly, against many draws of the estimate."""
    density = randomised(EoNADE((3,), hidden=8)).double()
    x = torch.tensor([[1.0, 0, 1]]).double()
    exact = []
    with torch.no_grad():
        for order in itertools.permutations(range(3)):
            parameters = density.net(x, torch.tensor(order))
            exact.append(-density.head(parameters, x).log_prob(x).sum())
        torch.manual_seed(0)
        draws = density.objective(x.repeat(20_000, 1))
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - torch.stack(exact).mean()) < 5 * error


def test_the_objective_of_made_draws_its_masks():
    density = randomised(MADE((6,), hidden=(12,), masks=3, order_agnostic=True))
    x = values(density, 1)
    torch.manual_seed(0)
    drawn = {round(density.objective(x).item(), 4) for _ in range(40)}
    assert drawn == {round(-density.reordered(k).log_prob(x).item(), 4) for k in range(3)}


def test_bad_ensembles_are_refused():
    with pytest.raises(ParameterError, match="NADE"):
        OrderEnsemble(NADE((4,)), 2)
    with pytest.raises(ParameterError, match="3"):
        OrderEnsemble(MADE((4,), masks=2), 3)
    with pytest.raises(ParameterError, match=r"orderings .* 0"):
        OrderEnsemble(EoNADE((4,)), 0)
    with pytest.raises(ParameterError, match=r"ordering .* -1"):
        EoNADE((4,)).reordered(-1)
    with pytest.raises(ParameterError, match=r"ordering .* 2"):
        MADE((4,), masks=2).reordered(2)
    with pytest.raises(ParameterError, match=r"n .* -1"):
        OrderEnsemble(EoNADE((4,)), 2).sample(-1)
