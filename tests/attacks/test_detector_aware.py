"""Attacks that know the detector."""

import foolbox
import pytest
import torch
from foolbox.criteria import Misclassification
from helpers import clean_images
from torch import nn

from pixeldefend import Detector
from pixeldefend.attacks import SPSA, JointPGD, NotFlagged, OrthogonalPGD, SelectivePGD, craft
from pixeldefend.errors import ParameterError
from pixeldefend.scores import Evidence

ATTACKS = [JointPGD, SelectivePGD, OrthogonalPGD]


class Half(nn.Module):
    """Tells which half of an image is brighter, from eight pixels."""

    def forward(self, x):
        left, right = x[:, :, ::2, 1].mean((1, 2)), x[:, :, ::2, 6].mean((1, 2))
        return 20 * torch.stack([left, right], 1)


@pytest.fixture(scope="module")
def attacked(tiny_density):
    detector = Detector(tiny_density, fpr=0.05).fit(clean_images(199, seed=5))
    x = torch.from_numpy(clean_images(120, seed=7))[:, None] / 255
    x = x[~torch.from_numpy(detector.is_adversarial(x))][:16]
    return detector, x, Half()(x).argmax(1), foolbox.PyTorchModel(Half().eval(), bounds=(0, 1))


def both(detector, x, y):
    return (Half()(x).argmax(1) != y) & ~torch.from_numpy(detector.is_adversarial(x))


@pytest.mark.parametrize("attack", ATTACKS)
def test_knowing_the_detector_helps(attack, attacked):
    detector, x, y, model = attacked
    eps = 8 / 255
    blind = craft(Half(), x, y, "pgd-8").images / 255
    criterion = Misclassification(y) & NotFlagged(detector)
    made = attack(detector, steps=40)
    _, found, success = made(model, x, criterion, epsilons=eps)
    assert torch.equal(success, both(detector, found, y))
    assert success.sum() > both(detector, blind, y).sum()
    # 8-bit images within the budget, which stop being worked on when they are done
    torch.testing.assert_close((255 * found).round() / 255, found)
    assert (found - x).abs().max() <= eps + 1e-6
    assert made.queries_[success].max() <= 3 * 41  # a try a region
    assert (made.queries_[~success] == 3 * 41).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_more_steps_restarts_and_budget_do_no_worse(attack, attacked):
    detector, x, y, model = attacked

    def successes(eps, **settings):
        _, found, _ = attack(detector, **settings)(model, x[:12], Misclassification(y[:12]), epsilons=eps)
        return both(detector, found, y[:12])

    few, many = successes(4 / 255, steps=10, regions=[0]), successes(4 / 255, steps=30, regions=[0])
    assert (many | ~few).all()  # the longer run begins as the shorter one does
    again = successes(4 / 255, steps=10, restarts=3)
    assert (again | ~few).all()
    assert successes(24 / 255, steps=30).sum() >= many.sum()


def test_l2_keeps_its_budget(attacked):
    detector, x, y, model = attacked
    _, found, _ = JointPGD(detector, steps=40, norm="l2")(model, x, Misclassification(y), epsilons=0.5)
    assert (found - x).flatten(1).norm(dim=1).max() <= 0.5 + 8 * 0.5 / 255
    assert both(detector, found, y).any()


@pytest.mark.parametrize(
    "attack",
    [
        foolbox.attacks.BoundaryAttack(steps=20),
        foolbox.attacks.HopSkipJumpAttack(steps=2, initial_gradient_eval_steps=20, max_gradient_eval_steps=20),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_decision_based_attacks_become_aware(attack, attacked):
    detector, x, y, model = attacked
    start = JointPGD(detector, steps=40)
    _, found, success = start(model, x, Misclassification(y) & NotFlagged(detector), epsilons=24 / 255)
    assert success.any()
    criterion = Misclassification(y[success]) & NotFlagged(detector)
    _, closer, still = attack(model, x[success], criterion, epsilons=None, starting_points=found[success])
    assert still.all()
    assert ((closer - x[success]).flatten(1).norm(dim=1) <= (found - x)[success].flatten(1).norm(dim=1) + 1e-6).all()
    assert "excess_surprisal at 0.05" in repr(NotFlagged(detector))


def test_only_uncertain_pixels_move(attacked):
    detector, x, y, model = attacked
    with torch.no_grad():
        entropy = Evidence(detector.density, x).expected_surprisal
    middle = entropy.median().item()
    _, found, _ = JointPGD(detector, steps=5, regions=[middle])(model, x, Misclassification(y), epsilons=8 / 255)
    assert (found == x)[entropy < middle].all()
    assert (found != x)[entropy >= middle].any()


def test_spsa_needs_no_gradient(attacked):
    detector, x, y, model = attacked
    x, y = x[:6], y[:6]
    made = SPSA(detector, steps=8, samples=24, regions=[0])
    with torch.no_grad():
        _, found, success = made(model, x, Misclassification(y) & NotFlagged(detector), epsilons=24 / 255)
    assert torch.equal(success, both(detector, found, y))
    assert success.any()
    assert (made.queries_[~success] == 9 * 49).all()
    with pytest.raises(ParameterError, match="delta"):
        SPSA(detector, delta=0.001)


@pytest.mark.parametrize("statistic", ["bits_per_dim", "excess_surprisal", "top_surprisal", "pit_lag_rows", "fused"])
def test_anomaly_scores_have_gradients(statistic, tiny_density):
    detector = Detector(tiny_density, statistic=statistic, fpr=0.1).fit(clean_images(299))
    noise = torch.randint(-9, 10, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    x = (torch.from_numpy(clean_images(3, seed=9))[:, None] / 255 + noise).clamp(26 / 255, 230 / 255).requires_grad_()
    anomaly_score = detector.anomaly_scores(x)
    (gradient,) = torch.autograd.grad(anomaly_score.sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    expected = -torch.from_numpy(detector.score_samples(x.detach()))
    torch.testing.assert_close(anomaly_score.detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_out_of_range_is_refused(attacked):
    detector, x, _, model = attacked
    for settings in (dict(steps=0), dict(restarts=0), dict(step=0.0), dict(norm="l1"), dict(regions=[])):
        with pytest.raises(ParameterError, match=next(iter(settings))):
            JointPGD(detector, **settings)
    with pytest.raises(ParameterError, match="labels"):
        JointPGD(detector)(model, x, NotFlagged(detector), epsilons=0.1)
