"""Tests the detector of photographs."""

import numpy as np
import pytest
import torch
from PIL import Image

from pixeldefend.calibration.mondrian import IMAGES_OF_A_CATEGORY, LIKELY, OWN_IMAGES_OF_A_CATEGORY
from pixeldefend.densities import NeLLoC
from pixeldefend.detectors import PhotoDetector, load, photo
from pixeldefend.detectors.by_history import UNKNOWN
from pixeldefend.errors import CalibrationError, ImageError, ModelError, ParameterError
from pixeldefend.images import Origin, decode_image
from pixeldefend.scores.likelihood_ratio import FILE_KINDS, LikelihoodRatio
from pixeldefend.scores.profile import size_of_profile

HISTORIES = ("smooth", "rough", "rare")
FEATURES = size_of_profile(3)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def detector():
    """A calibrated detector whose score is the first feature, and whose histories follow from the second."""
    torch.manual_seed(0)
    density = NeLLoC((3, None, None), width=4, layers=1, mixtures=2).eval()
    ratio = LikelihoodRatio(FEATURES, HISTORIES, width=2).eval()
    with torch.no_grad():
        for weight in ratio.parameters():
            weight.zero_()
        ratio.hidden.weight[0, 0] = ratio.hidden.weight[1, 1] = 1
        ratio.hidden.bias[:] = 20  # where the activation is the identity
        ratio.last.weight[0, 0] = 1
        ratio.last.weight[1, 1] = -3
        ratio.last.weight[2, 1] = 3
        ratio.last.bias[1:] = torch.tensor([60.0, -60.0, -1e4])
        ratio.strange.fill_(1.5)
    return PhotoDetector(density, ratio, fpr=0.05).fit_profiles(profiles(2000, seed=1))


def profiles(n, *, seed):
    """Returns profiles of as many smooth as rough images; the scores of rough ones are higher by 2."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(n, FEATURES))
    rough = np.arange(n) % 2
    found[:, 1] = 2 * rough - 1
    found[:, 0] = np.clip(found[:, 0], -2.5, 2.5) + 2 * rough
    return found


def test_p_values_are_uniform_within_each_history(detector):
    verdicts = detector.judge_profiles(profiles(4000, seed=2))
    histories = np.array(verdicts.history)
    for history in ("smooth", "rough"):
        p = verdicts.p_value[histories == history]
        assert len(p) > 1900
        for rate in (0.01, 0.05, 0.3):
            assert abs((p <= rate).mean() - rate) < 5 * np.sqrt(2 * rate / 1000)
    np.testing.assert_array_equal(verdicts.is_adversarial, verdicts.p_value <= detector.fpr)
    np.testing.assert_array_equal(verdicts.is_adversarial, verdicts.score > verdicts.threshold)


def test_an_image_unlike_all_calibration_images_has_the_greatest_p_value_of_all_histories(detector):
    familiar = profiles(2, seed=3)
    strange = familiar.copy()
    strange[:, 2:] *= 3
    verdicts, odd = detector.judge_profiles(familiar), detector.judge_profiles(strange)
    assert verdicts.history == ["smooth", "rough"]
    assert odd.history == [UNKNOWN, UNKNOWN]
    np.testing.assert_array_equal(odd.score, verdicts.score)
    assert odd.p_value[0] > verdicts.p_value[0]  # the rough ones have higher scores
    assert odd.p_value[1] == verdicts.p_value[1]


def test_an_image_is_also_compared_with_those_of_other_likely_histories(detector):
    found = profiles(400, seed=21)[::2]  # smooth ones, whose scores are lower
    found[:, 1] = np.linspace(-0.5, 0.5, len(found))  # their log-odds of being rough are 6 times this
    rough = 1 / (1 + np.exp(-6 * found[:, 1]))
    verdicts = detector.judge_profiles(found)
    less, more = LIKELY - 0.01, LIKELY + 0.01
    smooth_alone, both, rough_alone = rough < less, (rough > more) & (rough < 1 - more), rough > 1 - less
    assert min(smooth_alone.sum(), both.sum(), rough_alone.sum()) > 30
    sure = found.copy()
    sure[:, 1] = -1
    as_smooth = detector.judge_profiles(sure).p_value
    sure[:, 1] = 1
    as_rough = detector.judge_profiles(sure).p_value
    np.testing.assert_array_equal(verdicts.p_value[smooth_alone], as_smooth[smooth_alone])
    np.testing.assert_array_equal(verdicts.p_value[rough_alone], as_rough[rough_alone])
    np.testing.assert_array_equal(verdicts.p_value[both], np.maximum(as_smooth, as_rough)[both])
    np.testing.assert_array_equal(verdicts.is_adversarial, verdicts.score > verdicts.threshold)
    own = np.tile(sure, (2, 1))
    own[:, 1] = -1
    adapted = detector.adapted(own)  # a user's own images of a history are enough
    smooth = np.array(verdicts.history) == "smooth"
    own_p = adapted.judge_profiles(found[smooth]).p_value
    assert (own_p < verdicts.p_value[smooth])[both[smooth]].any()


def test_strange_calibration_images_belong_to_no_history(detector):
    found = profiles(1000, seed=13)
    found[:100, 2:] *= 3
    found[:100, 0] += 100
    with_strange = PhotoDetector(detector.density, detector.ratio, fpr=0.05).fit_profiles(found)
    without = PhotoDetector(detector.density, detector.ratio, fpr=0.05).fit_profiles(found[100:])
    new = profiles(50, seed=14)
    np.testing.assert_array_equal(with_strange.judge_profiles(new).p_value, without.judge_profiles(new).p_value)
    with pytest.raises(CalibrationError, match="at least 19"):
        PhotoDetector(detector.density, detector.ratio, fpr=0.05).fit_profiles(found[:100])


def test_strange_images_of_a_user_are_compared_with_each_other(detector):
    def traffic(n, seed):
        found = profiles(n, seed=seed)
        found[:, 2:] *= 3
        return found

    adapted = detector.adapted(traffic(400, 15))
    verdicts = adapted.judge_profiles(traffic(4000, 16))
    assert set(verdicts.history) == {UNKNOWN}
    assert verdicts.is_adversarial.mean() == pytest.approx(0.05, abs=0.03)
    usual = profiles(100, seed=17)
    np.testing.assert_array_equal(adapted.judge_profiles(usual).p_value, detector.judge_profiles(usual).p_value)


@pytest.mark.parametrize(
    ("rough", "sizes"),
    [
        (IMAGES_OF_A_CATEGORY, [2000, 1000, 1000]),  # none is rare: such images are compared with the next larger group
        (IMAGES_OF_A_CATEGORY - 1, [2999, 2999, 2999]),  # too few even together: all are compared with all
    ],
)
def test_histories_with_few_images_share_them(detector, rough, sizes):
    found = profiles(2000 + rough, seed=4)
    found[:, 1] = -1  # smooth
    found[:rough, 1] = 1
    fitted = PhotoDetector(detector.density, detector.ratio).fit_profiles(found)
    assert [len(fitted.mondrian_[1].groups[history][0]) for history in range(3)] == sizes


@pytest.mark.parametrize("rough", [1, OWN_IMAGES_OF_A_CATEGORY - 1])
def test_few_images_of_a_user_never_lower_a_threshold(detector, rough):
    """The user's smooth images have lower scores than rough ones, which must not be compared with them alone."""
    own = profiles(1000, seed=18)
    own = np.concatenate([own[::2], own[1::2][:rough]])
    adapted = detector.adapted(own)
    new = profiles(4000, seed=19)[1::2]
    before, after = detector.judge_profiles(new), adapted.judge_profiles(new)
    assert set(after.history) == {"rough"}
    assert (after.p_value >= before.p_value).all()


def test_a_rate_below_what_the_images_of_a_history_allow_takes_more_images(detector):
    low = detector.with_fpr(0.0006)
    assert all(len(group) == 2000 for groups in low.mondrian_[0].groups.values() for group in groups)
    with pytest.raises(CalibrationError, match="at least"):
        detector.with_fpr(1e-4)


@pytest.mark.parametrize("strange", [False, True])
def test_a_calibration_that_is_refused_leaves_the_detector_as_it_was(detector, tmp_path, strange):
    fitted = PhotoDetector(detector.density, detector.ratio, fpr=0.05).fit_profiles(profiles(400, seed=22))
    new = profiles(50, seed=23)
    before = fitted.judge_profiles(new).p_value
    few = profiles(100 if strange else 10, seed=24)
    few[:, 2:] *= 3 if strange else 1  # strange images belong to no history
    with pytest.raises(CalibrationError):
        fitted.fit_profiles(few)
    np.testing.assert_array_equal(fitted.judge_profiles(new).p_value, before)
    fitted.save(tmp_path / "photo.safetensors")
    np.testing.assert_array_equal(load(tmp_path / "photo.safetensors").judge_profiles(new).p_value, before)
    with pytest.raises(CalibrationError, match="shape"):
        fitted.with_calibration(0.5, ["smooth"])


def test_an_adapted_detector_keeps_the_rate_on_the_traffic_of_its_user(detector):
    def traffic(n, seed):  # smooth images only, with higher scores than calibrated
        found = profiles(n, seed=seed)
        found[:, 1] = -1
        return found + 1.5 * (np.arange(FEATURES) == 0)

    adapted = detector.adapted(traffic(400, 9))
    new = traffic(4000, 10)
    before, after = detector.judge_profiles(new), adapted.judge_profiles(new)
    assert before.is_adversarial.mean() > 0.3
    assert after.is_adversarial.mean() == pytest.approx(0.05, abs=0.03)
    rough = profiles(100, seed=11)[1::2]
    np.testing.assert_array_equal(adapted.judge_profiles(rough).p_value, detector.judge_profiles(rough).p_value)
    from_records = detector.with_calibration(detector.judge_profiles(traffic(400, 9)).score, ["smooth"] * 400)
    np.testing.assert_array_equal(from_records.judge_profiles(new).p_value, after.p_value)
    np.testing.assert_array_equal(adapted.thresholds(after.history), after.threshold)
    again = adapted.adapted(traffic(300, 12))
    assert again.calibration_own_.sum() == 300
    both = adapted.adapted(profiles(600, seed=20)[1::2])
    np.testing.assert_array_equal(both.judge_profiles(new).p_value, after.p_value)
    monitor = adapted.drift_monitor()
    monitor.update(after.score, after.history)
    assert not any(monitor.alarms(0.01).values())
    with pytest.raises(CalibrationError, match="at least 19"):
        detector.adapted(traffic(10, 9))
    with pytest.raises(ParameterError, match="there is no history 'x'"):
        detector.with_calibration([1.0], ["x"])


def test_the_file_counts_where_the_pixels_leave_the_history_open(detector):
    ratio = LikelihoodRatio(4, HISTORIES, width=2).eval()
    with torch.no_grad():
        for weight in ratio.parameters():
            weight.zero_()
        ratio.last.bias[1:] = torch.log(torch.tensor([0.4, 0.4, 0.2]))
        ratio.file_kinds[0, FILE_KINDS.index("lossless")] = 1
        ratio.file_kinds[1, FILE_KINDS.index("JPEG below 90")] = 1
    profiles = torch.zeros(4, 4)
    origins = [Origin("PNG", False), Origin("JPEG", True, 80), Origin("JPEG", True, 95), None]
    estimated, probabilities = ratio.estimated(profiles, origins)
    assert estimated.tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(probabilities[3], [0.4, 0.4, 0.2], rtol=1e-5)
    weights = np.array([0.4 * np.e, 0.4, 0.2])  # Bayes' rule
    np.testing.assert_allclose(probabilities[0], weights / weights.sum(), rtol=1e-5)
    ratio.last.bias.data[3] = 5
    assert ratio.estimated(profiles, origins)[0].tolist() == [2, 2, 2, 2]
    ratio.strange.fill_(0.5)
    assert ratio.estimated(torch.ones(1, 4))[0].tolist() == [3], "none of the three"


def test_an_image_file_is_judged_by_what_it_says_of_itself(detector, tmp_path):
    image = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LikelihoodRatio,
            "estimated",
            lambda self, profiles, origins: (
                asked.append(origins) or (np.zeros(len(profiles), int), np.ones((len(profiles), 1)))
            ),
        )
        for given in (str(path), path, path.read_bytes(), [path, image]):
            detector.judge(given)
    assert [[origin and origin.format for origin in origins] for origins in asked] == [["PNG"]] * 3 + [["PNG", None]]


def test_few_files_are_decoded_at_a_time(detector, tmp_path, monkeypatch):
    sizes = [(64, 64), (64, 64), (72, 64), (64, 64), (64, 80)]
    images = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    paths = [tmp_path / f"{place}.png" for place in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    small = PhotoDetector(detector.density, detector.ratio, fpr=0.3, batch_size=2).fit_profiles(profiles(400, seed=25))
    whole = small._with(batch_size=len(images)).judge(images, maps=True)
    happened = []
    examined = photo.examine
    monkeypatch.setattr(photo, "decode_image", lambda file: happened.append("decoded") or decode_image(file))
    monkeypatch.setattr(
        photo, "examine", lambda *given, **options: happened.append("scored") or examined(*given, **options)
    )
    found = small.judge(paths, maps=True)
    assert happened == ["decoded"] * 2 + ["scored"] + (["decoded"] * 2 + ["scored"] * 2) + ["decoded", "scored"]
    np.testing.assert_allclose(found.score, whole.score, atol=1e-5)
    np.testing.assert_allclose(found.p_value, whole.p_value)
    for one, other in zip(found.surprisal_map, whole.surprisal_map, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    same = small.judge([paths[0], paths[1], paths[3]], maps=True).surprisal_map
    assert same.shape == (3, 64, 64)
    # more pixels than are decoded at a time
    monkeypatch.setattr(photo, "PIXELS_AT_ONCE", 64 * 64)
    happened.clear()
    small.judge(paths[:2])
    assert happened == ["decoded", "scored"] * 2


def test_a_fit_on_files_refuses_all_that_is_wrong_before_the_work(detector, tmp_path, monkeypatch):
    paths = [tmp_path / f"{place}.png" for place in range(6)]
    for path in paths:
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    ratio = LikelihoodRatio(FEATURES, HISTORIES, width=2)  # to which no image is strange
    new = PhotoDetector(detector.density, ratio, fpr=0.3, batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(photo, "examine", lambda *given, **options: pytest.fail("scored"))
        with pytest.raises(CalibrationError, match="3 of 9 calibration images are copies"):
            new.fit([*paths, *paths[:3]])
        with pytest.raises(ImageError, match="8 x 8"):
            new.fit([*paths, tmp_path / "small.png"])
        with pytest.raises(CalibrationError, match="at least"):
            new.fit(paths[:1])
    assert len(new.fit(paths).calibration_scores_) == 6


def test_it_takes_images_of_any_size_from_64_on(detector):
    assert detector.takes == "images with sides of at least 64"
    for shape, taken in {(64, 64): True, (65, 300, 3): True, (63, 300, 3): False, (1, 10_000): False}.items():
        assert detector.accepts(np.zeros(shape, np.uint8)) == taken
    with pytest.raises(ImageError, match="63 x 64"):
        detector.judge([np.zeros((63, 64), np.uint8)])
    images = [RNG.integers(0, 256, (64, 80, 3), np.uint8), RNG.integers(0, 256, (70, 64), np.uint8)]
    verdicts = detector.judge(images, maps=True)
    assert [values.shape for values in verdicts.surprisal_map] == [(64, 80), (70, 64)]
    assert np.isfinite(verdicts.bits_per_dim).all()
    alone = detector.judge(images[1:])
    assert alone.score[0] == pytest.approx(verdicts.score[1], abs=1e-5)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_and_two_level_images_have_a_verdict(detector, value):
    flat = np.full((64, 72, 3), value, np.uint8)
    checks = np.where(np.indices((64, 72)).sum(0) % 2, 0, 255).astype(np.uint8)
    assert np.isfinite(detector.judge([flat, checks]).score).all()


def test_scores_have_a_gradient(detector):
    x = torch.rand(2, 3, 64, 72, requires_grad=True)
    other = PhotoDetector(detector.density, LikelihoodRatio(FEATURES, HISTORIES)).fit_profiles(profiles(400, seed=8))
    other.anomaly_scores(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


def test_attackers_see_the_threshold_of_the_image_s_own_history(detector):
    images = torch.randint(0, 256, (3, 3, 64, 72), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    excess = detector.excess(images / 255)
    np.testing.assert_allclose(-detector.decision_function(images), excess.detach(), atol=1e-3)


def test_a_file_holds_all(detector, tmp_path):
    detector.save(tmp_path / "photo.safetensors")
    again = load(tmp_path / "photo.safetensors")
    found = profiles(50, seed=6)
    before, after = detector.judge_profiles(found), again.judge_profiles(found)
    np.testing.assert_array_equal(before.p_value, after.p_value)
    assert before.history == after.history
    with pytest.raises(ParameterError, match="has no backend"):
        load(tmp_path / "photo.safetensors", backend="openvino")


def test_a_file_of_another_version_is_refused(detector, tmp_path):
    other = PhotoDetector(detector.density, LikelihoodRatio(FEATURES, HISTORIES, width=3)).fit_profiles(
        profiles(400, seed=7)
    )
    other.ratio.config["width"] = 2
    other.save(tmp_path / "photo.safetensors")
    with pytest.raises(ModelError, match="another version"):
        load(tmp_path / "photo.safetensors")
