"""PixelDefend's algorithm 1, against its definition."""

import pytest
import torch
from helpers import randomised, slow_if_large, small_configs

from pixeldefend import load_detector
from pixeldefend.densities import DENSITIES, Autoregressive, build, most_probable_within

GRID = torch.arange(256, dtype=torch.float64)[:, None] / 255


def brute_force(x: torch.Tensor, eps: int, density: Autoregressive) -> torch.Tensor:
    """x: (N, C, H, W) on the grid. The paper's algorithm 1, word for word: a whole pass a sub-pixel."""
    density.eval()
    x = x.clone()
    original = (255 * x).round()
    with torch.no_grad():
        for site in density.sites(density.event_shape):
            # masses are differences, which underflow far from the means; their logarithms are exact there
            log_pmf = density.conditionals(x).part((slice(None), *site)).log_prob(GRID).T  # (N, 256)
            for i in range(len(x)):
                middle = int(original[(i, *site)])
                low, high = max(0, middle - eps), min(255, middle + eps)
                x[(i, *site)] = (low + int(log_pmf[i, low : high + 1].argmax())) / 255
    return x


def models_pixels(config: dict) -> bool:
    return len(config["event_shape"]) == 3 and build(config).levels == 256


PIXELS = [
    slow_if_large(config, f"{name}-{i}")
    for name, density in DENSITIES.items()
    if "images" in density.events
    for i, case in enumerate(small_configs(name))
    if models_pixels(config := {"model": name, **case})
]


@pytest.mark.parametrize("config", PIXELS)
def test_purification_is_the_algorithm_of_the_paper(config):
    density = randomised(build(config), scale=0.1).double()
    x = torch.randint(0, 256, (2, *density.event_shape), generator=torch.Generator().manual_seed(0)).double() / 255
    expected = (255 * brute_force(x, 9, density)).round()
    for method in ("fixed_point", "cached", "sequential"):
        assert torch.equal((255 * most_probable_within(density, x, 9, method=method)).round(), expected), method


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_every_method_is_bit_for_bit_the_sequential_result_of_the_shipped_models(name):
    """The methods agree on whole images and on crops. A pass for each of all pixels is quick for crops only."""
    density = load_detector(name).density
    assert isinstance(density, Autoregressive)
    generator = torch.Generator().manual_seed(1)
    sample = 255 * density.sample(1, generator=generator)
    # the fixed point is found in windows of 8 rows: in a crop of 9 they still move
    on_crops = build({**density.config, "event_shape": (density.event_shape[0], 9, 8)})
    on_crops.load_state_dict(density.state_dict())
    for model, methods in ((on_crops, ("fixed_point", "cached", "sequential")), (density, ("fixed_point", "cached"))):
        _, height, width = model.event_shape
        noise = torch.randint(0, 256, (1, *model.event_shape), generator=generator)
        attacked = sample[..., -height:, :width] + torch.randint(-8, 9, noise.shape, generator=generator)
        x = torch.cat([noise, attacked.round().clamp(0, 255)]) / 255
        first, *others = (most_probable_within(model, x, 16, method=method) for method in methods)
        for method, other in zip(methods[1:], others, strict=True):
            assert torch.equal(first, other), (model.event_shape, method)
    # on whole images a pass per pixel is made for some: before it, what comes later is as it was
    original = (255 * x).round()
    low, high = ((original + move).clamp(0, 255) / 255 for move in (-16, 16))
    sites = density.sites(density.event_shape)
    chosen = torch.randperm(len(sites), generator=generator)[:12].tolist()
    for k in chosen:
        before = x.clone()
        for site in sites[:k]:
            before[(slice(None), *site)] = first[(slice(None), *site)]
        where = (slice(None), *sites[k])
        with torch.no_grad():
            found = density.conditionals(before).most_probable(low, high)[where]
        assert torch.equal(found, first[where]), sites[k]
