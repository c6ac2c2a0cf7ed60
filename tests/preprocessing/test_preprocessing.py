"""Tiles cover images, know where they come from, and drive a detector of images of any size."""

import numpy as np
import pytest
import torch
from helpers import clean_images, grid_images
from hypothesis import given, settings
from hypothesis import strategies as st

from pixeldefend.detectors import Detector
from pixeldefend.errors import ImageError, ModelError, ParameterError
from pixeldefend.preprocessing import AGGREGATES, PREPROCESSORS, Identity, Resize, Tiles, aggregated, build
from pixeldefend.scores import Evidence, excess_surprisal


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    height=st.integers(4, 19),
    width=st.integers(4, 19),
    size=st.integers(1, 4),
    overlap=st.integers(0, 3),
)
def test_tiles_cover_every_pixel_and_hold_what_their_box_says(n, height, width, size, overlap):
    x = grid_images(n, 3, height, width)
    tiles = Tiles(size, stride=max(1, size - overlap))(x)
    covered = torch.zeros(n, height, width, dtype=torch.bool)
    assert (tiles.owner.diff() >= 0).all()
    for tile, owner, (top, left, bottom, right) in zip(tiles.x, tiles.owner, tiles.box.tolist(), strict=True):
        assert torch.equal(tile, x[owner, :, top:bottom, left:right])
        covered[owner, top:bottom, left:right] = True
    assert covered.all()


def test_an_image_of_one_tile_is_the_tile():
    x = grid_images(2, 1, 8, 8)
    for preprocessor in (Identity(), Tiles(8), Resize(8)):
        tiles = preprocessor(x)
        assert torch.equal(tiles.x, x)
        assert tiles.owner.tolist() == [0, 1]
        assert tiles.box.tolist() == [[0, 0, 8, 8]] * 2


def test_resized_images_are_on_the_grid_and_pass_the_gradient_on():
    x = grid_images(2, 3, 20, 12).requires_grad_()
    tiles = Resize(8, 6)(x)
    assert tiles.x.shape == (2, 3, 8, 6)
    assert torch.equal((tiles.x * 255).round() / 255, tiles.x.detach())
    (gradient,) = torch.autograd.grad(tiles.x.sum(), x)
    assert gradient.sum().item() == pytest.approx(2 * 3 * 8 * 6, rel=1e-4)
    flat = torch.full((1, 1, 9, 31), 77 / 255)
    assert torch.equal(Resize(4)(flat).x, torch.full((1, 1, 4, 4), 77 / 255))


def test_what_they_accept():
    assert Identity().accepts((8, 8), (8, 8))
    assert not Identity().accepts((8, 9), (8, 8))
    assert Resize(8).accepts((500, 3), (8, 8))
    assert not Resize(7).accepts((500, 3), (8, 8))
    assert Tiles(8).accepts((8, 30), (8, 8))
    assert not Tiles(8).accepts((7, 30), (8, 8))


def test_what_cannot_be_is_refused():
    with pytest.raises(ImageError):
        Tiles(8)(grid_images(1, 1, 7, 9))
    for bad in (Tiles(0), Tiles(4, stride=5), Tiles(4, stride=0), Resize(0)):
        with pytest.raises(ParameterError):
            bad(grid_images(1, 1, 8, 8))
    with pytest.raises(ModelError):
        build({"name": "shuffle"})
    with pytest.raises(ModelError):
        build({"name": "tiles", "colour": 3})


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_every_preprocessor_comes_back_from_its_config(name):
    made = {"identity": Identity(), "resize": Resize(8, 9), "tiles": Tiles(8, stride=3)}[name]
    again = build(made.config())
    assert (type(again), again.get_params()) == (type(made), made.get_params())


@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates(name):
    scores, owner = torch.tensor([1.0, 5.0, 3.0, 2.0, 2.0]), torch.tensor([0, 0, 0, 1, 1])
    expected = {"max": [5, 2], "mean": [3, 2], "top_tenth": [5, 2]}[name]
    assert aggregated(scores, owner, name).tolist() == expected
    assert aggregated(scores[:0], owner[:0], name).shape == (0,)
    with pytest.raises(ParameterError):
        aggregated(scores, owner, "median")


# -- with a density ----------------------------------------------------------------------------------------------------


def mosaics(n: int, seed: int = 0) -> list[np.ndarray]:
    """Images of several sizes, made of smooth parts."""
    random = np.random.RandomState(seed)
    parts = clean_images(6 * n, seed)
    shapes = [(1, 1), (1, 2), (2, 2), (2, 3)]
    made = []
    for i in range(n):
        rows, columns = shapes[random.randint(4)]
        chosen = parts[6 * i : 6 * i + rows * columns].reshape(rows, columns, 8, 8)
        made.append(chosen.transpose(0, 2, 1, 3).reshape(8 * rows, 8 * columns))
    return made


def test_a_tiled_detector_scores_an_image_by_its_tiles(tiny_density):
    images = mosaics(60)
    detector = Detector(tiny_density, preprocessor=Tiles(8), aggregate="max", fpr=0.1, batch_size=5).fit(images)
    for image in images[:6]:
        tiles = Tiles(8)(torch.from_numpy(image)[None, None] / 255)
        with torch.no_grad():
            of_tiles = excess_surprisal(Evidence(tiny_density, tiles.x))
        assert -detector.score_samples(image).item() == pytest.approx(of_tiles.max().item(), rel=1e-4, abs=1e-4)
        expected = tiny_density.bits_per_dim(tiles.x).mean().item()
        assert detector.bits_per_dim(image).item() == pytest.approx(expected, rel=1e-4)
    together = detector.score_samples(images)
    alone = np.concatenate([detector.score_samples(image) for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)


def test_the_map_is_stitched_where_the_tiles_lie(tiny_density):
    image = mosaics(40)[0]
    wide = np.tile(image[:8, :8], (1, 2))
    detector = Detector(tiny_density, preprocessor=Tiles(8), fpr=0.1).fit(mosaics(40))
    whole = detector.surprisal_map(wide)[0]
    plain = Detector(tiny_density, fpr=0.1).fit(clean_images(30)).surprisal_map(image[:8, :8])[0]
    np.testing.assert_allclose(whole, np.tile(plain, (1, 2)), rtol=1e-3, atol=1e-4)
    overlapping = Detector(tiny_density, preprocessor=Tiles(8, stride=3), fpr=0.1).fit(mosaics(40))
    maps = overlapping.judge(mosaics(5), maps=True).surprisal_map
    assert [found.shape for found in maps] == [image.shape for image in mosaics(5)]
    assert all(np.isfinite(found).all() for found in maps)
    resized = Detector(tiny_density, preprocessor=Resize(8), fpr=0.1).fit(mosaics(40))
    assert resized.surprisal_map(wide).shape == (1, 8, 16)


def test_the_rate_holds_for_images_like_those_that_calibrated(tiny_density):
    detector = Detector(tiny_density, preprocessor=Tiles(8), fpr=0.1).fit(mosaics(300))
    flagged = detector.is_adversarial(mosaics(300, seed=1))
    assert 0.03 < flagged.mean() < 0.18
    spoiled = [image.copy() for image in mosaics(40, seed=2)]
    for image in spoiled:
        image[:8, :8] = np.random.RandomState(0).randint(0, 256, (8, 8))
    assert detector.is_adversarial(spoiled).mean() > 0.9


def test_a_gradient_reaches_every_pixel_that_a_tile_covers(tiny_density):
    detector = Detector(tiny_density, preprocessor=Tiles(8), aggregate="mean", fpr=0.1).fit(mosaics(40))
    x = (torch.from_numpy(mosaics(40)[3])[None, None] / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(detector.anomaly_scores(x).sum(), x)
    assert gradient.shape == x.shape
    assert (gradient != 0).float().mean() > 0.5


def test_what_a_detector_takes(tiny_density):
    tiled = Detector(tiny_density, preprocessor=Tiles(8), fpr=0.1).fit(mosaics(40))
    grey, colour = np.zeros((9, 11), np.uint8), np.random.RandomState(0).randint(0, 256, (9, 11, 3), np.uint8)
    assert tiled.accepts(grey)
    assert tiled.accepts(np.repeat(grey[..., None], 3, 2))
    assert not tiled.accepts(colour)
    assert not tiled.accepts(grey[:7])
    assert tiled.takes == "grey images of at least 8 x 8"
    plain = Detector(tiny_density)
    assert plain.takes == "8 x 8 grey images"
    assert plain.accepts(grey[:8, :8])
    assert not plain.accepts(grey)
    with pytest.raises(ImageError) as error:
        tiled.p_value([grey, grey[:7]])
    assert error.value.kind == "size"
    with pytest.raises(ImageError):
        tiled.p_value(colour)


def test_a_statistic_that_learns_learns_from_tiles(tiny_density):
    detector = Detector(tiny_density, preprocessor=Tiles(8), statistic="typicality", fpr=0.1)
    detector.fit(mosaics(60), X_fit=mosaics(30, seed=1))
    tiles = torch.cat([Tiles(8)(torch.from_numpy(image)[None, None] / 255).x for image in mosaics(30, seed=1)])
    assert detector.score_.center_ == pytest.approx(tiny_density.bits_per_dim(tiles).mean().item(), rel=1e-4)
