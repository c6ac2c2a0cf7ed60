import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import Brightness
from torch import nn

from pixeldefend.ambient import weights_frozen
from pixeldefend.attacks import Attack, craft
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
    with pytest.raises(ParameterError, match="batch_size"):
        craft(Brightness(), x, y, "fgsm-8", batch_size=0)


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "int64", "bool", "numpy", "list", "big-endian"])
def test_labels_of_any_whole_type(near_the_boundary, kind):
    x, y = near_the_boundary
    array = {"numpy": y.numpy().astype(np.uint16), "list": y.tolist(), "big-endian": y.numpy().astype(">i4")}
    labels = array[kind] if kind in array else y.to(getattr(torch, kind))
    assert torch.equal(craft(Brightness(), x, labels, "fgsm-8").images, craft(Brightness(), x, y, "fgsm-8").images)


@pytest.mark.parametrize("wrong", [17, -1, 2])
def test_labels_that_are_no_class_are_refused_before_the_attack(near_the_boundary, wrong):
    x, y = near_the_boundary
    labels = y.clone()
    labels[-1] = wrong
    with pytest.raises(ParameterError, match=f"2 classes.* {wrong}$"):
        craft(Brightness(), x, labels, "fgsm-8", batch_size=2, progress=lambda batches: pytest.fail("too late"))


@pytest.mark.parametrize(
    "labels", [[0.0] * 8, np.zeros(8), torch.zeros(8).half(), torch.zeros(8) * 1j, ["a"] * 8, [[0]] * 8, 0, None]
)
def test_labels_of_other_types_are_refused(near_the_boundary, labels):
    with pytest.raises(ParameterError, match="labels must be 8 whole numbers"):
        craft(Brightness(), near_the_boundary[0], labels, "fgsm-8")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_classifiers_and_images_of_any_precision(near_the_boundary, dtype):
    x, y = near_the_boundary
    classifier = Brightness().to(dtype)
    images = x / 255 if dtype == torch.bfloat16 else (x / 255).to(dtype)  # bfloat16 cannot hold all 8-bit values
    for attack in ("fgsm-8", "pgd-8", "deepfool-l2"):
        attacked = craft(classifier, images, y, attack)
        assert attacked.attempted.any()
        assert attacked.succeeded.sum() >= attacked.attempted.sum() - 1
    assert classifier.scale.dtype == dtype


def test_without_gradients_and_without_weights(near_the_boundary):
    class Fixed(torch.nn.Module):
        def forward(self, x):
            bright = x[..., :4].mean((1, 2, 3)) - x[..., 4:].mean((1, 2, 3))
            return torch.stack([-bright, bright], 1)

    x, y = near_the_boundary
    wanted = craft(Brightness(), x, y, "fgsm-8").images
    with torch.no_grad():
        assert torch.equal(craft(Brightness(), x, y, "fgsm-8").images, wanted)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        made_inside = Brightness()
        assert torch.equal(craft(made_inside, x * 1, y * 1, "fgsm-8").images, wanted)
    assert torch.equal(craft(made_inside, x, y, "fgsm-8").images, wanted)
    assert torch.equal(craft(Fixed(), x, y, "fgsm-8").images, wanted)
    with pytest.raises(ParameterError, match="no images"):
        craft(Brightness(), x[:0], y[:0], "fgsm-8")


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


class OnlyBlack(nn.Module):
    """Class 1 for a black image alone; its gradient leads away from black."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([1 - mean, torch.where(mean == 0, 2.0, -1.0)], 1)


@pytest.mark.parametrize("name", ["cw-l2", "ead-l1", "ddn"])
def test_an_attack_that_finds_nothing_returns_the_image(name, near_the_boundary):
    """foolbox's C&W and EAD return a black image then, which this classifier misclassifies."""
    x, _ = near_the_boundary
    attacked = craft(OnlyBlack(), x, torch.zeros(len(x), dtype=torch.long), name)
    assert attacked.attempted.all()
    assert not attacked.succeeded.any()
    assert (attacked.images > 0).any()
