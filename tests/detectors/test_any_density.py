import math

import numpy as np
import pytest
import torch
from helpers import SMALL, clean_images, noise, randomised

from pixeldefend.data import load_dataset
from pixeldefend.densities import DENSITIES, OrderEnsemble, build
from pixeldefend.detectors import Detector

TINY_IMAGES = {name: {**cases[-1], "event_shape": (1, 8, 8)} for name, cases in SMALL.items()}
for name, config in TINY_IMAGES.items():
    if len(DENSITIES[name].heads) > 1:
        config["head"] = "normals" if name == "rnade" else "logistics"
BINARY = {f"{name}, binarised": {**TINY_IMAGES[name], "head": "bernoulli"} for name in ("fvsbn", "made", "pixelcnn")}


@pytest.mark.parametrize("name", [*TINY_IMAGES, *BINARY])
def test_every_density_of_images_drives_the_detector(name, tmp_path):
    config = {**(TINY_IMAGES | BINARY)[name], "model": name.split(",")[0]}
    torch.manual_seed(0)
    density = build(config)
    optimizer = torch.optim.Adam(density.parameters(), 0.01)
    for step in range(60):
        x = torch.from_numpy(clean_images(32, seed=100 + step))[:, None] / 255
        optimizer.zero_grad()
        density.objective(density.to_support(x, torch.rand_like(x))).mean().backward()
        optimizer.step()
    calibration, new = clean_images(60, seed=1), clean_images(20, seed=2)
    for score in ("bits_per_dim", "excess_surprisal"):
        detector = Detector(density, statistic=score, fpr=0.05).fit(calibration)
        # how well it tells them apart is not the question here
        assert detector.score_samples(noise(20)).mean() < detector.score_samples(new).mean()
        assert detector.is_adversarial(new).mean() < 0.3
        # scores, not p-values: binarised images may tie with a calibration image but for the last bit of a float
        alone = detector.score_samples(new[0]).item()
        assert alone == pytest.approx(detector.score_samples(new)[0], rel=1e-4, abs=1e-4)
    assert detector.surprisal_map(new).shape == (20, 8, 8)
    detector.save(tmp_path / "d.safetensors")
    assert Detector.load(tmp_path / "d.safetensors").p_value(new) == pytest.approx(detector.p_value(new))


def test_rows_drive_it_too():
    """Binary rows by their codes, real ones as they are; what has no bits/dim says so by NaN."""
    random = np.random.RandomState(0)
    bits = (random.rand(80, 6) < [0.1, 0.9, 0.1, 0.9, 0.1, 0.9]).astype(np.uint8)
    density = randomised(build({"model": "nade", "event_shape": (6,), "hidden": 4}), scale=0.5)
    detector = Detector(density, statistic="bits_per_dim", fpr=0.1).fit(bits)
    expected = density.bits_per_dim(torch.from_numpy(bits).float()).detach().numpy()
    assert detector.bits_per_dim(bits) == pytest.approx(expected)
    assert detector.surprisal_map(bits).shape == (80, 6)
    with pytest.raises(ValueError, match=r"\[0, 1\], got min 0 and max 2"):
        detector.p_value(2 * bits)
    real = randomised(build({"model": "rnade", "event_shape": (6,), "hidden": 4, "mixtures": 2}), scale=0.1)
    detector = Detector(real, fpr=0.1).fit(random.randn(80, 6))
    verdicts = detector.judge(np.r_[random.randn(1, 6), np.full((1, 6), 50.0)], maps=True)
    assert verdicts.is_adversarial[1]
    assert np.isnan(verdicts.bits_per_dim).all()
    assert verdicts.surprisal_map.shape == (2, 6)


def test_binary_images_are_black_and_white_everywhere(tmp_path):
    x = (np.random.RandomState(0).rand(600, 8, 8) < 0.3).astype(np.uint8)
    np.savez(tmp_path / "b.npz", x=x)
    data = load_dataset(str(tmp_path / "b.npz"))
    density = randomised(build({"model": "fvsbn", "event_shape": (1, 8, 8)}), scale=0.2)
    detector = Detector(density, statistic="bits_per_dim", fpr=0.1).fit(data.calibration.x)
    expected = density.bits_per_dim(data.calibration.float()).detach().numpy()
    assert sorted(detector.calibration_scores_) == pytest.approx(sorted(expected))
    assert data.calibration.float().unique().tolist() == [0, 1]


def test_an_ensemble_over_orders_drives_it(tmp_path):
    ensemble = OrderEnsemble(randomised(build({"model": "eonade", "event_shape": (1, 8, 8), "hidden": 4})), 3)
    detector = Detector(ensemble, statistic="bits_per_dim", fpr=0.1).fit(clean_images(40))
    assert detector.judge(clean_images(3), maps=True).surprisal_map.shape == (3, 8, 8)
    detector.save(tmp_path / "d.safetensors")
    assert Detector.load(tmp_path / "d.safetensors").p_value(clean_images(3)) == pytest.approx(
        detector.p_value(clean_images(3))
    )
    with pytest.raises(ValueError, match="needs a density with conditionals; OrderEnsemble has only"):
        Detector(ensemble, statistic="excess_surprisal", fpr=0.1).fit(clean_images(40))


def test_dequantised_images_have_the_bits_of_a_discrete_model():
    """256 values that a density of real numbers holds to be equally probable have 8 bits."""
    uniform = build({"model": "rnade", "event_shape": (1, 4, 4), "mixtures": 1, "hidden": 2})
    with torch.no_grad():
        for parameter in uniform.parameters():
            parameter.zero_()
    sigma = 1.0  # what zero parameters mean: a standard normal, around 0
    x = torch.full((1, 1, 4, 4), 127 / 255)
    seen = uniform.to_support(x)
    expected = 8 + (0.5 * (seen / sigma).square() + 0.5 * math.log(2 * math.pi)).mean().item() / math.log(2)
    assert uniform.bits_per_dim(seen).item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(uniform.to_support(x.repeat(3, 1, 1, 1))[2], seen[0])
    assert ((seen * 256).floor() == 127).all()
    with pytest.raises(ValueError, match="has no bits/dim"):
        build({"model": "rnade", "event_shape": (4,), "hidden": 2}).bits_per_dim(torch.zeros(1, 4))


def test_few_valued_rows_may_both_fit_and_calibrate():
    density = randomised(build({"model": "fvsbn", "event_shape": [5], "head": "bernoulli"}))
    bits = np.random.RandomState(0).randint(0, 2, (300, 5)).astype(np.uint8)
    assert len(Detector(density, statistic="typicality", fpr=0.1).fit(bits).calibration_scores_) == 240
