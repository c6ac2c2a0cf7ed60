import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import Brightness

from pixeldefend.attacks import Attack, craft
from pixeldefend.attacks.craft import weights_frozen
from pixeldefend.errors import ParameterError, PixelDefendError


def test_misclassified_images_are_not_attempted(near_the_boundary):
    x, y = near_the_boundary
    wrong = y.clone()
    wrong[:3] = 1 - wrong[:3]
    attacked = craft(Brightness(), x, wrong, "fgsm-8")
    assert attacked.attempted.tolist() == [False] * 3 + [True] * 5
    assert not attacked.succeeded[:3].any()


def test_a_seed_repeats_a_random_start_and_leaves_torch_s_alone(near_the_boundary):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (craft(Brightness(), *near_the_boundary, "pgd-8", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_classifier_with_its_own_bounds_and_preprocessing(near_the_boundary):
    class Bytes(Brightness):
        def forward(self, x):
            assert x.abs().max() > 2
            return super().forward(x / 255)

    plain = craft(Brightness(), *near_the_boundary, "fgsm-8")
    scaled = craft(Bytes(), *near_the_boundary, "fgsm-8", bounds=(0, 255))
    assert torch.equal(plain.images, scaled.images)
    moved = craft(Brightness(), *near_the_boundary, "fgsm-8", preprocessing={"mean": [0.5], "std": [0.5], "axis": -3})
    assert torch.equal(plain.images, moved.images)


def test_the_classifier_is_left_as_it_was(near_the_boundary):
    classifier = Brightness().train()
    craft(classifier, *near_the_boundary, "bim-4")
    assert classifier.training
    assert classifier.scale.requires_grad
    assert classifier.scale.grad is None


def test_weights_are_frozen_even_if_the_block_fails():
    classifier = Brightness()
    seen = []

    def fail():
        with weights_frozen(classifier, None):
            seen.append(classifier.scale.requires_grad)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [False]
    assert classifier.scale.requires_grad


def test_arrays_and_attacks_of_one_s_own(near_the_boundary):
    x, y = near_the_boundary
    mine = Attack("LinfFastGradientAttack", 3 / 255)
    attacked = craft(Brightness(), x[:, 0].numpy(), y.numpy(), mine, batch_size=5)
    assert attacked.linf.max() <= 3 / 255 + 1e-6
    assert np.array_equal(attacked.images.shape, x.shape)


def test_bad_input_is_refused(near_the_boundary):
    x, y = near_the_boundary
    with pytest.raises(ParameterError, match="noise-8"):  # names what there is
        craft(Brightness(), x, y, "nope")
    for labels in (y[:3], y.float()):
        with pytest.raises(ParameterError, match="labels"):
            craft(Brightness(), x, labels, "fgsm-8")
    with pytest.raises(PixelDefendError):
        craft(Brightness(), x.float(), y, "fgsm-8")


WITHOUT_EXTRAS = """
import sys
for name in ("foolbox", "eagerpy", "matplotlib", "jinja2"):
    sys.modules[name] = None
import numpy, torch
import pixeldefend.attacks, pixeldefend.eval
from pixeldefend.errors import MissingExtraError
from pixeldefend.eval.report import markdown, plot_roc

def missing(call):
    try:
        call()
    except MissingExtraError as error:
        return error.extra

x, y = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1).long()
print(missing(lambda: pixeldefend.attacks.craft(torch.nn.Flatten(), x, y, "fgsm-8")))
print(missing(lambda: pixeldefend.attacks.JointPGD))
print(missing(lambda: pixeldefend.attacks.NotFlagged))
print(missing(lambda: markdown({})))
print(missing(lambda: plot_roc({}, None)))
"""


def test_without_the_extras_everything_imports_and_says_what_is_missing():
    run = subprocess.run([sys.executable, "-P", "-c", WITHOUT_EXTRAS], capture_output=True, text=True)
    assert run.stdout.split() == ["attacks"] * 3 + ["eval"] * 2, run.stderr
