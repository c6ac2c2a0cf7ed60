"""Drafts by the compiled kernel are what passes of the whole net give."""

import pytest
import torch

from pixeldefend.densities import build
from pixeldefend.densities.purification import most_probable_within
from pixeldefend.densities.sampling import MostProbable

pytest.importorskip("numba", reason="the extra 'fast' is not installed")
ONE_STREAM = {"model": "pixelcnnpp", "filters": 8, "blocks": 2, "scales": 1, "streams": 1, "mixtures": 3}


def made(shape, **settings):
    torch.manual_seed(0)
    density = build({**ONE_STREAM, "event_shape": list(shape), **settings}).eval().requires_grad_(False)
    torch.nn.init.normal_(density.net.direct.weight, std=0.3)  # an untrained net predicts the same everywhere
    density.net.last.weight.mul_(10)
    return density


@pytest.fixture(params=[((1, 8, 8), "elu"), ((1, 9, 12), "silu"), ((3, 8, 9), "elu"), ((3, 8, 8), "silu")], ids=str)
def density(request):
    shape, activation = request.param
    return made(shape, activation=activation)


def test_drafts_are_the_sequential_result(density, monkeypatch):
    x = torch.randint(0, 256, (3, *density.event_shape)) / 255
    low, high = (x - 20 / 255).clamp(0, 1), (x + 20 / 255).clamp(0, 1)
    expected = most_probable_within(density, x, 20, method="sequential")
    assert (expected != x).any()
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        drafted = density.draft(MostProbable(low, high), lambda images: images)
        assert torch.equal((255 * drafted).round(), (255 * expected).round())
        assert torch.equal(most_probable_within(density, x, 20, method="compiled"), expected)


@pytest.mark.parametrize("given", [None, 0, 1, 5, 30])
def test_samples_are_the_sequential_ones(density, given):
    values = None if given is None else torch.randint(0, 256, (2, given)) / 255

    def samples(method):
        return density.sample(2, generator=torch.Generator().manual_seed(1), given=values, method=method)

    expected = samples("sequential")
    assert len(expected.unique()) > 20
    for method in ("compiled", "auto"):
        assert torch.equal(samples(method), expected)


@pytest.mark.parametrize("sampled", [False, True])
def test_what_torch_rounds_differently_is_drafted_again_from_there(density, monkeypatch, sampled):
    x = torch.randint(0, 256, (3, *density.event_shape)) / 255

    def computed(method):
        if sampled:
            return density.sample(3, generator=torch.Generator().manual_seed(1), method=method)
        return most_probable_within(density, x, 20, method=method)

    expected, drafts, passes = computed("sequential"), [], []
    draft, conditionals = density.draft, density.conditionals

    def rounded_otherwise(rule, progress):
        found = draft(rule, progress)
        drafts.append(len(found))
        if len(drafts) <= 2:  # all that follows in the first image is drafted from another value
            found[0, 0, 2 * len(drafts), 3] = (found[0, 0, 2 * len(drafts), 3] + 0.5).remainder(1)
            found[0, :, 5:] = 0.2
        return found

    monkeypatch.setattr(density, "draft", rounded_otherwise)
    monkeypatch.setattr(density, "conditionals", lambda x: passes.append(len(x)) or conditionals(x))
    assert torch.equal(computed("compiled"), expected)
    assert drafts == [3, 1, 1]
    assert passes == [3, 2, 2]  # an image alone may be rounded differently than in a batch


def test_progress_counts_images(density):
    counted = []
    density.sample(3, progress=lambda steps: counted.append(len(steps)) or steps)
    assert counted == [3]
    assert density.sample(0).shape == (0, *density.event_shape)


@pytest.mark.parametrize("settings", [{"streams": 2}, {"head": "categorical"}])
def test_densities_without_a_kernel(settings):
    density = build({**ONE_STREAM, "event_shape": [1, 8, 8], **settings}).eval()
    with pytest.raises(ValueError, match="method 'compiled' is for a PixelCNN"):
        density.sample(1, method="compiled")
    assert density.sample(1).shape == (1, 1, 8, 8)


def test_what_the_kernel_cannot_do_is_done_otherwise():
    density = made((1, 8, 8))
    with pytest.raises(ValueError, match="at temperature 1"):
        density.sample(1, temperature=0.5, method="compiled")
    assert density.sample(1, temperature=0.5).shape == (1, 1, 8, 8)
    with pytest.raises(ValueError, match="in float32"):
        density.double().sample(1, method="compiled")
    assert density.sample(1).dtype == torch.float64
