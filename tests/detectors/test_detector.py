import json
import math

import numpy as np
import pytest
import torch
from helpers import SMALL, clean_images, randomised
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from pixeldefend.data import load_dataset
from pixeldefend.densities import Density, OrderEnsemble, PixelCNNPlusPlus, build
from pixeldefend.detectors import ClassConditional, Detector
from pixeldefend.images.corruptions import corrupt
from pixeldefend.serialization import load_tensors, save_tensors
from pixeldefend.zoo import load_density


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (n, 8, 8), np.uint8)


class Gaussian(Density):
    """A standard normal over vectors of any length: what lets scikit-learn's own checks run on the detector."""

    def __init__(self):
        super().__init__(event_shape=None)

    def log_prob(self, x):
        self.check(x)
        return torch.distributions.Normal(0, 1).log_prob(x).sum(1)

    def sample(self, n, *, generator=None):
        raise NotImplementedError


@parametrize_with_checks(
    [Detector(Gaussian(), statistic="bits_per_dim", fpr=0.2), Detector(Gaussian(), statistic="typicality", fpr=0.2)]
)
def test_scikit_learn_s_contract(estimator, check):
    check(estimator)


def test_scikit_learn_s_checks_do_run():
    """A 2-D estimator gets dozens of checks; a vacuous pass would be one or two."""
    from sklearn.utils.estimator_checks import estimator_checks_generator

    names = {check.func.__name__ for _, check in estimator_checks_generator(Detector(Gaussian(), fpr=0.2), legacy=True)}
    assert len(names) > 30
    assert {"check_outliers_train", "check_n_features_in", "check_fit_idempotent"} <= names


def test_signs_and_thresholds_agree(tiny_detector):
    x = np.concatenate([clean_images(20, seed=1), noise(20)])
    flagged = tiny_detector.is_adversarial(x)
    assert flagged[20:].all(), "noise is not flagged"
    assert np.array_equal(flagged, tiny_detector.predict(x) == -1)
    assert np.array_equal(flagged, tiny_detector.decision_function(x) < 0)
    assert np.array_equal(flagged, tiny_detector.p_value(x) <= 0.05 + 1e-9)
    np.testing.assert_allclose(
        tiny_detector.decision_function(x), tiny_detector.score_samples(x) - tiny_detector.offset_
    )


def test_judge_says_everything_in_one_pass(tiny_detector):
    x = clean_images(7, seed=2)
    verdicts = tiny_detector.judge(x, maps=True)
    assert np.array_equal(verdicts.is_adversarial, tiny_detector.is_adversarial(x))
    np.testing.assert_allclose(verdicts.p_value, tiny_detector.p_value(x))
    np.testing.assert_allclose(verdicts.score, -tiny_detector.score_samples(x))
    np.testing.assert_allclose(verdicts.bits_per_dim, tiny_detector.bits_per_dim(x))
    np.testing.assert_allclose(verdicts.surprisal_map, tiny_detector.surprisal_map(x))
    assert verdicts.surprisal_map.shape == (7, 8, 8)
    np.testing.assert_allclose(
        verdicts.surprisal_map.sum((1, 2)) / (64 * math.log(2)), verdicts.bits_per_dim, rtol=1e-5
    )


def test_one_image_and_the_same_flattened(tiny_detector):
    x = clean_images(3, seed=3)
    together = tiny_detector.p_value(x)
    assert tiny_detector.p_value(x[0]) == pytest.approx(together[:1])
    assert tiny_detector.p_value(x.reshape(3, 64)) == pytest.approx(together)
    assert tiny_detector.p_value(x.reshape(3, 64) / 255) == pytest.approx(together)
    assert tiny_detector.p_value(torch.from_numpy(x)[:, None]) == pytest.approx(together)
    assert tiny_detector.p_value(np.stack([x] * 3, -1)) == pytest.approx(together)
    assert tiny_detector.p_value(x[:0]).shape == (0,)


def test_batches_do_not_matter(tiny_density):
    x = clean_images(30, seed=4)
    one = Detector(tiny_density, fpr=0.1, batch_size=1).fit(clean_images(30))
    many = Detector(tiny_density, fpr=0.1, batch_size=64).fit(clean_images(30))
    np.testing.assert_allclose(one.score_samples(x), many.score_samples(x), atol=1e-4)


@pytest.mark.parametrize("score", ["bits_per_dim", "typicality", "excess_surprisal", "low_entropy_excess_surprisal"])
def test_save_and_load_give_the_same_verdicts(tiny_density, tmp_path, score):
    detector = Detector(tiny_density, statistic=score, fpr=0.05, confidence=0.9).fit(clean_images(99))
    detector.save(tmp_path / "d.safetensors", made_by="a test")
    loaded = Detector.load(tmp_path / "d.safetensors")
    x = clean_images(10, seed=5)
    assert np.array_equal(loaded.p_value(x), detector.p_value(x))
    assert np.array_equal(loaded.predict(x), detector.predict(x))
    assert loaded.get_params(deep=False).keys() == detector.get_params(deep=False).keys()
    assert not hasattr(loaded, "score")  # scikit-learn would call it
    assert (loaded.statistic, loaded.fpr, loaded.confidence) == (score, 0.05, 0.9)
    assert loaded.offset_ == detector.offset_


def test_a_flipped_byte_is_noticed_wherever_it_is(tiny_detector, tmp_path):
    path = tmp_path / "d.safetensors"
    tiny_detector.save(path)
    original = path.read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    positions = [0, 9, header - 20, len(original) - 1, *range(header // 7, len(original), len(original) // 40)]
    for position in positions:
        damaged = bytearray(original)
        damaged[position] ^= 0x01
        path.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match=r"d\.safetensors"):
            Detector.load(path)
    path.write_bytes(original[:-1])
    with pytest.raises(ValueError, match=r"d\.safetensors"):
        Detector.load(path)


def test_weights_of_another_density_are_refused_by_the_name_of_the_file(tiny_detector, tmp_path):
    path = tmp_path / "d.safetensors"
    tiny_detector.save(path)
    tensors, meta = load_tensors(path)
    save_tensors(path, tensors, {**meta, "density": {**meta["density"], "filters": 4}})
    for load in (Detector.load, load_density):
        with pytest.raises(ValueError, match=r"d\.safetensors: its weights do not fit its density"):
            load(path)


def test_files_that_are_no_detector_are_refused_and_never_unpickled(tmp_path, tiny_density):
    with pytest.raises(FileNotFoundError, match="no model file"):
        Detector.load(tmp_path / "missing.safetensors")
    torch.save({"a": 1}, tmp_path / "pickle.safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Detector.load(tmp_path / "pickle.safetensors")
    tiny_density.save(tmp_path / "density.safetensors")
    with pytest.raises(ValueError, match="holds a density, not a detector"):
        Detector.load(tmp_path / "density.safetensors")


def test_a_stricter_or_looser_rate_shares_the_calibration(tiny_detector):
    x = np.concatenate([clean_images(50, seed=6), noise(20)])
    loose, strict = tiny_detector.with_fpr(0.3), tiny_detector.with_fpr(0.01)
    assert (strict.is_adversarial(x) <= loose.is_adversarial(x)).all()
    assert loose.is_adversarial(x).sum() > strict.is_adversarial(x).sum()
    assert np.array_equal(strict.p_value(x), loose.p_value(x))
    assert tiny_detector.fpr == 0.05
    with pytest.raises(ValueError, match="needs at least 199 calibration images, there are 99"):
        tiny_detector.with_fpr(0.005)


def test_a_density_that_gives_nan_is_refused_rather_than_trusted():
    class Diverged(Gaussian):
        def log_prob(self, x):
            return super().log_prob(x) * math.nan

    with pytest.raises(ValueError, match="gives NaN"):
        Detector(Diverged(), statistic="bits_per_dim", fpr=0.2).fit(np.random.RandomState(0).randn(20, 3))


def test_dropout_is_off_when_images_are_scored():
    density = PixelCNNPlusPlus((1, 8, 8), filters=4, blocks=1, scales=1, mixtures=2, dropout=0.5).train()
    detector = Detector(density, fpr=0.1).fit(clean_images(20))
    x = clean_images(5, seed=1)
    assert np.array_equal(detector.p_value(x), detector.p_value(x))


def test_a_learned_score_and_its_calibration_share_no_image(tiny_density):
    x = clean_images(50)
    detector = Detector(tiny_density, statistic="typicality", fpr=0.1).fit(x)
    assert len(detector.calibration_scores_) == 40
    bits = Detector(tiny_density, statistic="bits_per_dim", fpr=0.1).fit(x).bits_per_dim(x)
    calibrate = detector.calibration_index_
    learn = np.setdiff1d(np.arange(50), calibrate)
    assert len(learn) == 10
    assert learn.max() > 20  # drawn: images may come sorted by class
    assert detector.score_.center_ == pytest.approx(bits[learn].mean(), rel=1e-5)
    apart = Detector(tiny_density, statistic="typicality", fpr=0.1).fit(x[calibrate], X_fit=x[learn])
    np.testing.assert_allclose(apart.calibration_scores_, detector.calibration_scores_, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fpr": 0}, "strictly between 0 and 1, got 0"),
        ({"fpr": 1}, "strictly between 0 and 1, got 1"),
        ({"fpr": 0.001}, "needs at least 999 calibration images, there are 50"),
        ({"fpr": 0.05, "confidence": 0.95}, "needs at least 59 calibration images"),
        ({"fpr": 0.1, "confidence": 2}, "confidence must lie"),
        ({"score": "nope"}, "unknown statistic 'nope'"),
        ({"density": None}, "needs a density"),
    ],
)
def test_bad_parameters_are_refused_at_fit(tiny_density, parameters, message):
    detector = Detector(**{"density": tiny_density, **parameters})
    with pytest.raises(ValueError, match=message):
        detector.fit(clean_images(50))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 9, 8), np.uint8), "9 x 8, the detector models 8 x 8"),
        (np.full((2, 8, 8), np.nan), "NaN"),
        (np.full((2, 8, 8), 255.0), "divide by 255"),
        (np.zeros((2, 63)), "63 features"),
        (np.full((2, 64), 2.0), r"\[0, 1\], got min 2"),
        (np.random.RandomState(0).rand(2, 8, 8, 3), "in colour"),
        ("missing.png", "there is no file"),
    ],
)
def test_bad_images_are_refused(tiny_detector, x, message):
    with pytest.raises((ValueError, OSError), match=message):
        tiny_detector.p_value(x)


def test_parameters_are_plain_and_clone(tiny_detector):
    copy = clone(tiny_detector)
    assert copy.fpr == 0.05
    assert not hasattr(copy, "calibration_scores_")
    parameters = {key: value for key, value in tiny_detector.get_params(deep=False).items() if key != "density"}
    assert json.loads(json.dumps(parameters)) == parameters


def test_a_density_without_config_cannot_be_saved(tmp_path):
    detector = Detector(Gaussian(), statistic="bits_per_dim", fpr=0.2).fit(np.random.RandomState(0).randn(20, 3))
    with pytest.raises(ValueError, match="has no config"):
        detector.save(tmp_path / "x.safetensors")


# -- any density drives it ---------------------------------------------------------------------------------------------

TINY_IMAGES = {
    name: {**cases[-1], "event_shape": (1, 8, 8), "head": "normals" if name == "rnade" else "logistics"}
    for name, cases in SMALL.items()
}
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
        assert detector.is_adversarial(noise(20)).mean() > 0.9
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


# -- guarantees --------------------------------------------------------------------------------------------------------


def test_no_image_both_fits_and_calibrates(tiny_density):
    """The fitting set given as the calibration set is refused, a few shared images are not fitted on."""
    fit, calibration = noise(60, seed=1), noise(60, seed=2)
    detector = Detector(tiny_density, statistic="typicality", fpr=0.05)
    with pytest.raises(
        ValueError, match=r"60 of the 60 images to fit the score on \(X_fit\) are calibration images too"
    ):
        detector.fit(fit, X_fit=fit)
    honest = detector.fit(calibration, X_fit=fit).score_.center_
    assert len(detector.calibration_scores_) == 60
    mixed = detector.fit(calibration, X_fit=np.concatenate([calibration[:20], fit])).score_.center_
    assert mixed == pytest.approx(honest)  # those 20 did not count


def test_copies_of_calibration_images_are_refused(tiny_density):
    images = np.repeat(noise(50), 2, axis=0)
    with pytest.raises(ValueError, match="50 of 100 calibration images are copies"):
        Detector(tiny_density, fpr=0.05).fit(images)


def test_constant_scores_are_refused(tiny_density):
    """No pixel of these images is below 1 nat, so the score is 0 for all."""

    class Unsure(PixelCNNPlusPlus):
        def conditionals(self, x):
            distribution = super().conditionals(x)
            distribution.log_scales = torch.full_like(distribution.log_scales, 1.0)
            return distribution

    density = Unsure((1, 8, 8), filters=4, blocks=1, scales=1, mixtures=2)
    with pytest.raises(ValueError, match="all 30 calibration images have the score 0"):
        Detector(density, statistic="low_entropy_excess_surprisal", fpr=0.05).fit(noise(30))


def test_the_rate_holds_under_any_of_the_transformations_calibrated_for(tiny_density):
    names = ("noise-4", "jpeg-50")
    calibration, new = clean_images(300, seed=1), torch.from_numpy(clean_images(300, seed=2))[:, None] / 255
    plain = Detector(tiny_density, fpr=0.1).fit(calibration)
    wide = Detector(tiny_density, fpr=0.1).fit(calibration, corruptions=names)
    for name in names:
        changed = corrupt(new, name, seed=5)
        assert plain.is_adversarial(changed).mean() > 0.16
        assert wide.is_adversarial(changed).mean() < 0.16
    assert wide.is_adversarial(new).mean() <= plain.is_adversarial(new).mean()
    with pytest.raises(ValueError, match="unknown transformation"):
        Detector(tiny_density, fpr=0.1).fit(calibration, corruptions=["sepia"])


def two_classes(n, seed):
    """Clean images, and as many of a noisier sort; labels 3 and 7."""
    smooth, noisy = clean_images(n, seed), clean_images(n, seed + 50) // 2 + noise(n, seed + 99) // 8
    order = np.random.RandomState(seed).permutation(2 * n)
    return np.concatenate([smooth, noisy.astype(np.uint8)])[order], np.repeat([3, 7], n)[order]


def test_every_class_has_its_own_threshold(tiny_density, tmp_path):
    x, y = two_classes(200, seed=1)
    new, new_y = two_classes(200, seed=2)
    detector = ClassConditional(Detector(tiny_density, fpr=0.1)).fit(x, y)
    flagged = detector.is_adversarial(new, new_y)
    pooled = Detector(tiny_density, fpr=0.1).fit(x).is_adversarial(new)
    for label in (3, 7):
        assert 0.03 < flagged[new_y == label].mean() < 0.18
    assert pooled[new_y == 7].mean() > 0.18
    assert np.array_equal(flagged, detector.p_value(new, new_y) <= 0.1 + 1e-9)
    detector.save(tmp_path / "d.safetensors")
    loaded = ClassConditional.load(tmp_path / "d.safetensors")
    assert np.array_equal(loaded.is_adversarial(new, new_y), flagged)
    Detector(tiny_density, fpr=0.1).fit(x).save(tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="was not calibrated by class"):
        ClassConditional.load(tmp_path / "plain.safetensors")


class Contrast(torch.nn.Module):
    """Reads rough images as of class 1."""

    def forward(self, x):
        rough = (x - x.roll(1, 3)).abs().mean((1, 2, 3))
        return torch.stack([torch.full_like(rough, 0.02), rough], 1)


def test_classes_by_a_classifier(tiny_density):
    x, _ = two_classes(200, seed=1)
    new, _ = two_classes(200, seed=2)
    detector = ClassConditional(Detector(tiny_density, fpr=0.1), Contrast()).fit(x)
    assert detector.classes_.tolist() == [0, 1]
    assert detector.is_adversarial(new).mean() < 0.16
    assert detector.is_adversarial(new[0]).shape == (1,)
    with pytest.raises(ValueError, match="leave y out"):
        detector.p_value(new, np.zeros(len(new), int))
    with pytest.raises(ValueError, match="may change what the classifier predicts"):
        detector.fit(x, corruptions=["jpeg-75"])


def test_classes_are_refused_that_cannot_be_calibrated(tiny_density):
    x, y = two_classes(30, seed=1)
    detector = Detector(tiny_density, fpr=0.05)
    with pytest.raises(NotFittedError):
        ClassConditional(detector).p_value(x, y)
    with pytest.raises(ValueError, match="give the images' labels"):
        ClassConditional(detector).fit(x)
    with pytest.raises(ValueError, match="all images are of class 3"):
        ClassConditional(detector).fit(x[y == 3], y[y == 3])
    with pytest.raises(ValueError, match="labels must be 60 whole numbers, got int64"):
        ClassConditional(detector).fit(x, y[:10])
    with pytest.raises(ValueError, match="labels must be 60 whole numbers, got float64"):
        ClassConditional(detector).fit(x, y / 2)
    few = np.r_[np.flatnonzero(y == 3), np.flatnonzero(y == 7)[:5]]
    with pytest.raises(ValueError, match=r"class 7: fpr 0\.05 needs at least 19 calibration images, there are 5"):
        ClassConditional(detector).fit(x[few], y[few])
    fitted = ClassConditional(detector).fit(x, y)
    with pytest.raises(ValueError, match="label 4 has no calibration image"):
        fitted.is_adversarial(x[:1], [4])
    with pytest.raises(ValueError, match="label 4 has no calibration image"):
        fitted.p_value(x[:1], [4])
    with pytest.raises(ValueError, match="class 7"):
        fitted.fit(x[few], y[few])
    with pytest.raises(NotFittedError):  # neither by the thresholds of the calibration before
        fitted.is_adversarial(x, y)


def test_classes_that_come_sorted_are_all_calibrated(tiny_density):
    x, y = two_classes(60, seed=1)
    order = np.argsort(y, kind="stable")
    detector = ClassConditional(Detector(tiny_density, statistic="typicality", fpr=0.1)).fit(x[order], y[order])
    assert detector.classes_.tolist() == [3, 7]
    assert np.array_equal(detector.calibration_labels_, y[order][detector.detector.calibration_index_])


def test_a_fit_that_fails_leaves_the_detector_as_it_was(tiny_density):
    x = clean_images(60, seed=1)
    detector = Detector(tiny_density, fpr=0.1)
    with pytest.raises(ValueError, match="unknown transformation 'sepia'"):
        detector.fit(x, corruptions=["sepia"])
    with pytest.raises(ValueError, match="must be a list of names, got 'jpeg-75'"):
        detector.fit(x, corruptions="jpeg-75")
    with pytest.raises(NotFittedError):
        detector.p_value(x)
    before = detector.fit(x).p_value(x)
    with pytest.raises(ValueError, match="calibration images"):
        detector.fit(x[:3])
    assert np.array_equal(detector.p_value(x), before)


def test_who_watches(tiny_density, tmp_path):
    x = clean_images(60, seed=1)
    watch = Detector(tiny_density, fpr=0.1).fit(x).drift_monitor()
    assert watch.alarms(0.01) == {"drift": False, "attacks": False}
    wide = Detector(tiny_density, fpr=0.1).fit(x, corruptions=["jpeg-75"])
    wide.save(tmp_path / "wide.safetensors")
    for detector in (wide, Detector.load(tmp_path / "wide.safetensors"), wide.with_fpr(0.2)):
        with pytest.raises(ValueError, match=r"calibrated for transformations \(jpeg-75\) cannot watch"):
            detector.drift_monitor()


def test_few_valued_rows_may_both_fit_and_calibrate():
    density = randomised(build({"model": "fvsbn", "event_shape": [5], "head": "bernoulli"}))
    bits = np.random.RandomState(0).randint(0, 2, (300, 5)).astype(np.uint8)
    assert len(Detector(density, statistic="typicality", fpr=0.1).fit(bits).calibration_scores_) == 240


def test_too_large_a_batch_for_the_memory_is_split(tiny_density, monkeypatch):
    x = clean_images(120)
    detector = Detector(tiny_density, fpr=0.05).fit(x[:99])
    expected = detector.judge(x)
    conditionals = type(tiny_density).conditionals

    def short_of_memory(self, batch):
        if len(batch) > 10:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return conditionals(self, batch)

    monkeypatch.setattr(type(tiny_density), "conditionals", short_of_memory)
    with pytest.warns(UserWarning, match="64 images at once do not fit into memory: going on with 32"):
        verdicts = detector.judge(x)
    np.testing.assert_allclose(verdicts.score, expected.score, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(type(tiny_density), "conditionals", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detector.judge(x)


def test_a_class_s_detector_takes_what_a_detector_takes(tiny_density):
    """Grey images in colour, and flattened ones."""
    x, y = two_classes(80, seed=1)
    labelled = ClassConditional(Detector(tiny_density, fpr=0.1)).fit(x, y)
    by_classifier = ClassConditional(Detector(tiny_density, fpr=0.1), Contrast()).fit(x)
    colour = np.repeat(x[..., None], 3, axis=3)
    np.testing.assert_allclose(labelled.p_value(colour, y), labelled.p_value(x, y))
    np.testing.assert_allclose(by_classifier.p_value(colour), by_classifier.p_value(x))
    np.testing.assert_allclose(by_classifier.p_value(x.reshape(len(x), -1)), by_classifier.p_value(x))


def test_what_a_score_learns_from_is_checked(tiny_density):
    x = clean_images(60)
    with pytest.raises(ValueError, match="typicality learns from at least 2 clean images, got 1"):
        Detector(tiny_density, statistic="typicality", fpr=0.1).fit(x, X_fit=clean_images(1, seed=5))
    with pytest.raises(ValueError, match="copies of others"):
        Detector(tiny_density, statistic="typicality", fpr=0.1).fit(
            x, X_fit=np.repeat(clean_images(2, seed=5), 20, axis=0)
        )
    with pytest.raises(ValueError, match="all 30 scores are 1: they calibrate nothing"):
        Detector(tiny_density, fpr=0.1).fit(x).with_calibration(np.ones(30))


def test_a_batch_of_no_images_and_one_of_no_size(tiny_density):
    x = clean_images(120)
    assert Detector(tiny_density, statistic="fused", fpr=0.1).fit(x, X_fit=clean_images(60, seed=3)).p_value(
        torch.empty(0, 1, 8, 8)
    ).shape == (0,)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Detector(tiny_density, fpr=0.1, batch_size=0).fit(x)


def test_what_another_version_learned_is_refused_and_its_density_kept(tiny_density, tmp_path):
    path = tmp_path / "old.safetensors"
    Detector(tiny_density, statistic="fused", fpr=0.1).fit(clean_images(120), X_fit=clean_images(60, seed=3)).save(path)
    tensors, meta = load_tensors(path)
    save_tensors(path, tensors, {**meta, "learned": {"members_": ["bits_per_dim"], "quantiles_": [[0.0, 1.0]]}})
    with pytest.raises(ValueError, match=r"old.safetensors: what its score learned is of another version.*calibrate"):
        Detector.load(path)
    x = torch.from_numpy(clean_images(3))[:, None] / 255
    torch.testing.assert_close(load_density(path).log_prob(x), tiny_density.log_prob(x))
