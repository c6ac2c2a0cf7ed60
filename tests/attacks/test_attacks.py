import numpy as np
import pytest
import torch
from helpers import Brightness

from pixeldefend.attacks import ATTACKS, Attack, craft


def images(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images close to the boundary, and their classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(100, 150, (n, 1, 8, 8), generator=generator)
    y = torch.arange(n) % 2
    x[y == 1, :, :, :4] += 3
    x[y == 0, :, :, 4:] += 3
    x = x.to(torch.uint8)
    return x, Brightness()(x / 255).argmax(1)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_keeps_its_contract(name):
    classifier = Brightness()
    x, y = images()
    attacked = craft(classifier, x, y, name)
    attack = ATTACKS[name]
    assert attacked.images.dtype == torch.uint8
    assert attacked.images.shape == x.shape
    assert attacked.attempted.all()
    # success is that of the 8-bit image
    fooled = classifier(attacked.images / 255).argmax(1) != y
    assert torch.equal(attacked.succeeded, torch.ones_like(fooled) if attack.control else fooled)
    # distances are those of the 8-bit image, and within the budget
    difference = (attacked.images.float() - x.float()).flatten(1) / 255
    torch.testing.assert_close(attacked.linf, difference.abs().amax(1))
    torch.testing.assert_close(attacked.l2, difference.norm(dim=1))
    if attack.eps is not None:
        distance = attacked.l2 if "l2" in name else attacked.linf
        rounding = 0.5 / 255 * 8 if "l2" in name else 1e-6
        assert (distance <= attack.eps + rounding).all()
    if name in ("fgsm-8", "bim-8", "pgd-8", "pgd-l2-1.0"):
        assert attacked.succeeded.all()
    if name in ("cw-l2", "deepfool-linf", "deepfool-l2"):  # just across the boundary, also when rounded
        assert attacked.succeeded.all()
        assert attacked.linf.max() < 8 / 255
    assert attacked.model_calls >= 2 * len(x)


def test_images_already_misread_are_not_attempted():
    x, y = images()
    wrong = y.clone()
    wrong[:3] = 1 - wrong[:3]
    attacked = craft(Brightness(), x, wrong, "fgsm-8")
    assert attacked.attempted.tolist() == [False] * 3 + [True] * 9
    assert not attacked.succeeded[:3].any()


def test_a_seed_repeats_a_random_start_and_leaves_torch_s_alone():
    x, y = images()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (craft(Brightness(), x, y, "pgd-8", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_classifier_with_its_own_bounds_and_preprocessing():
    class Bytes(Brightness):
        def forward(self, x):
            assert x.abs().max() > 2
            return super().forward(x / 255)

    x, y = images()
    plain = craft(Brightness(), x, y, "fgsm-8")
    scaled = craft(Bytes(), x, y, "fgsm-8", bounds=(0, 255))
    assert torch.equal(plain.images, scaled.images)
    moved = craft(Brightness(), x, y, "fgsm-8", preprocessing={"mean": [0.5], "std": [0.5], "axis": -3})
    assert torch.equal(plain.images, moved.images)


def test_the_classifier_is_left_as_it_was():
    classifier = Brightness().train()
    x, y = images()
    craft(classifier, x, y, "bim-4")
    assert classifier.training
    assert classifier.scale.requires_grad
    assert classifier.scale.grad is None


def test_numpy_images_and_attacks_of_one_s_own():
    import foolbox

    x, y = images()
    mine = Attack(lambda: foolbox.attacks.LinfFastGradientAttack(), 3 / 255)
    attacked = craft(Brightness(), x[:, 0].numpy(), y.numpy(), mine, batch_size=5)
    assert attacked.linf.max() <= 3 / 255 + 1e-6
    assert np.array_equal(attacked.images.shape, x.shape)


def test_bad_input_is_refused():
    x, y = images()
    with pytest.raises(ValueError, match="unknown attack 'nope'; there are: noise-8"):
        craft(Brightness(), x, y, "nope")
    with pytest.raises(ValueError, match="labels must be 12 whole numbers"):
        craft(Brightness(), x, y[:3], "fgsm-8")
    with pytest.raises(ValueError, match="labels must be 12 whole numbers"):
        craft(Brightness(), x, y.float(), "fgsm-8")
    with pytest.raises(ValueError, match="divide by 255"):
        craft(Brightness(), x.float(), y, "fgsm-8")
