"""What holds for every preset."""

import json

import pytest
import torch
from helpers import Brightness

from pixeldefend.attacks import ATTACKS, Attack, craft
from pixeldefend.errors import ParameterError


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_keeps_its_contract(name, near_the_boundary):
    classifier = Brightness()
    x, y = near_the_boundary
    attacked = craft(classifier, x, y, name)
    attack = ATTACKS[name]
    assert attacked.images.dtype == torch.uint8
    assert attacked.images.shape == x.shape
    assert attacked.attempted.all()
    # success is that of the 8-bit image
    misclassified = classifier(attacked.images / 255).argmax(1) != y
    assert torch.equal(attacked.succeeded, torch.ones_like(misclassified) if attack.is_control else misclassified)
    # distances are those of the 8-bit image, and within the budget
    difference = (attacked.images.float() - x.float()).flatten(1) / 255
    torch.testing.assert_close(attacked.linf, difference.abs().amax(1))
    torch.testing.assert_close(attacked.l2, difference.norm(dim=1))
    if attack.eps is not None:
        distance = attacked.l2 if "l2" in name else attacked.linf
        rounding = 0.5 / 255 * 8 if "l2" in name else 1e-6
        assert (distance <= attack.eps + rounding).all()
    if name.endswith("-8") or name in ("pgd-l2-0.25", "fmn-l0", "salt-and-pepper", "ead-l1", "ddn", "cw-l2-slow"):
        assert attacked.succeeded.all()
    if name in ("cw-l2", "deepfool-linf", "deepfool-l2"):  # just across the boundary, also when rounded
        assert attacked.succeeded.all()
        assert attacked.linf.max() < 8 / 255
    assert attacked.model_calls >= 2 * len(x)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_plain_data(name):
    described = ATTACKS[name].as_json()
    assert json.loads(json.dumps(described)) == described
    assert Attack(**described) == ATTACKS[name]


def test_presets_differ():
    described = [json.dumps(attack.as_json(), sort_keys=True) for attack in ATTACKS.values()]
    assert len(set(described)) == len(described)


def test_a_new_preset_is_one_line(monkeypatch, near_the_boundary):
    monkeypatch.setitem(ATTACKS, "fgsm-3", Attack("LinfFastGradientAttack", 3 / 255))
    with pytest.raises(ParameterError, match="fgsm-3"):  # listed where names are refused
        craft(Brightness(), *near_the_boundary, "fgsm-nope")
    assert craft(Brightness(), *near_the_boundary, "fgsm-3").linf.max() == pytest.approx(3 / 255, abs=1e-6)


def test_an_attack_of_another_package(near_the_boundary):
    kind = "foolbox.attacks.fast_gradient_method:LinfFastGradientAttack"
    mine, theirs = (craft(Brightness(), *near_the_boundary, attack) for attack in (Attack(kind, 8 / 255), "fgsm-8"))
    assert torch.equal(mine.images, theirs.images)
    with pytest.raises(ParameterError):
        Attack("NoSuchAttack").make()
