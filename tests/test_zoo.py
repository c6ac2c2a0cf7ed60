import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import EXAMPLES, SAMPLE, clean_images
from PIL import Image, ImageDraw

import pixeldefend
from pixeldefend import Detector, FunctionDetector, is_adversarial, load_classifier, load_detector, zoo
from pixeldefend.errors import CalibrationError, NoDetectorError, ParameterError
from pixeldefend.screening.screener import Screener

CLEAN = sorted(EXAMPLES.glob("clean_*.png"))
ATTACKED = sorted(set(EXAMPLES.glob("*.png")) - set(CLEAN))


@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_shipped_models_are_small_and_say_what_they_are(kind):
    assert "fashion-mnist" in zoo.shipped(kind)
    for name in zoo.shipped(kind):
        card = zoo.card(name, kind)
        assert {"sha256", "kind", "data", "recipe", "metrics"} <= card.keys()
        assert (zoo.WEIGHTS / f"{name}-{kind}.safetensors").stat().st_size < 10e6
    assert sum(path.stat().st_size for path in zoo.WEIGHTS.iterdir()) < 40e6


@pytest.mark.parametrize("name", zoo.shipped("detector"))
def test_no_images_have_no_verdicts(name):
    detector, side = load_detector(name), 28 if name == "fashion-mnist" else 32
    for nothing in ([], np.empty((0, side, side), np.uint8)):
        assert len(detector.judge(nothing).p_value) == len(detector.predict(nothing)) == 0


def test_figures_promised_of_the_shipped_models():
    detector, classifier = zoo.card("fashion-mnist", "detector"), zoo.card("fashion-mnist", "classifier")
    assert detector["metrics"]["test_images"] == classifier["metrics"]["test_images"] == 10_000
    assert detector["metrics"]["test_bits_per_dim"] <= 2.90
    assert classifier["metrics"]["test_accuracy"] >= 0.92
    detector, classifier = zoo.card("cifar10", "detector"), zoo.card("cifar10", "classifier")
    assert detector["metrics"]["test_images"] == classifier["metrics"]["test_images"] == 5_000
    assert detector["metrics"]["test_bits_per_dim"] <= 3.50
    assert classifier["metrics"]["test_accuracy"] >= 0.85


def test_a_colour_image_of_32_pixels_has_a_detector():
    ramp = np.broadcast_to(np.linspace(60, 180, 32)[:, None, None], (32, 32, 3)).astype(np.uint8)
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3), np.uint8)
    assert is_adversarial(noise)
    assert zoo.cached_set().choose(noise) == "cifar10"
    assert load_detector("cifar10").bits_per_dim(noise)[0] > 8
    assert load_detector("cifar10").bits_per_dim(ramp)[0] < 2


@pytest.mark.slow
def test_those_figures_on_some_of_the_test_images():
    with np.load(SAMPLE) as file:
        x, y = file["x"], torch.from_numpy(file["y"])
    bits = load_detector("fashion-mnist").bits_per_dim(x[:200])
    expected = zoo.card("fashion-mnist")["metrics"]["test_bits_per_dim"]
    assert abs(bits.mean() - expected) < 4 * bits.std() / np.sqrt(len(bits))
    with torch.inference_mode():
        right = load_classifier("fashion-mnist")(torch.from_numpy(x)[:, None] / 255).argmax(1) == y
    expected = zoo.card("fashion-mnist", "classifier")["metrics"]["test_accuracy"]
    assert abs(right.double().mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(y))


def test_the_attacked_examples_fool_the_shipped_classifier_and_the_clean_ones_do_not():
    with np.load(SAMPLE) as file:
        labels = dict(zip(file["index"].tolist(), file["y"].tolist(), strict=True))
    classifier = load_classifier("fashion-mnist")
    for path in [*CLEAN, *ATTACKED]:
        index = int(path.stem.rsplit("_", 1)[1])
        pixels = torch.from_numpy(np.array(Image.open(path)))[None, None] / 255
        with torch.inference_mode():
            right = classifier(pixels).argmax(1).item() == labels[index]
        assert right == (path in CLEAN), path
    assert len({path.stem.rsplit("_", 1)[1] for path in [*CLEAN, *ATTACKED]}) == 40


def test_the_library_call():
    assert is_adversarial(CLEAN[0]) is False
    assert is_adversarial(str(ATTACKED[0])) is True
    image = Image.open(ATTACKED[0])
    pixels = np.array(image)
    assert is_adversarial(image) is True
    assert is_adversarial(pixels) is True
    assert is_adversarial(pixels / 255) is True
    assert is_adversarial(torch.from_numpy(pixels)[None]) is True
    assert is_adversarial(np.stack([pixels] * 3, -1)) is True
    assert is_adversarial(pixels, detector="fashion-mnist") is True
    assert is_adversarial(pixels, load_detector("fashion-mnist")) is True
    batch = is_adversarial(np.stack([pixels] * 3))
    assert batch.dtype == bool
    assert batch.tolist() == [True] * 3
    assert is_adversarial(np.zeros((0, 28, 28), np.uint8)).shape == (0,)


def test_a_model_is_loaded_once(monkeypatch):
    is_adversarial(CLEAN[0])
    monkeypatch.setattr(Detector, "load", lambda *_, **__: pytest.fail("loaded again"))
    is_adversarial(CLEAN[0])


def test_an_image_that_no_detector_takes_lists_those_that_exist():
    with pytest.raises(
        NoDetectorError, match=r"20 x 20.*cifar10 takes 32 x 32 images, .*fashion-mnist takes 28 x 28 grey"
    ):
        is_adversarial(np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(NoDetectorError, match="colour"):
        is_adversarial(np.random.RandomState(0).randint(0, 256, (28, 28, 3), np.uint8))


def test_a_list_may_hold_images_for_several_detectors():
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3), np.uint8)
    assert is_adversarial([noise, str(CLEAN[0]), Image.open(ATTACKED[0])]).tolist() == [True, False, True]
    assert is_adversarial([str(CLEAN[0]), str(ATTACKED[0])], detector="fashion-mnist").tolist() == [False, True]
    assert is_adversarial([]).shape == (0,)


def test_an_image_of_a_lossy_file_gets_the_detector_that_is_calibrated_for_corruptions(
    tiny_density, monkeypatch, tmp_path
):
    made = {
        "plain": Detector(tiny_density, fpr=0.05).fit(clean_images(99)),
        "processed": Detector(tiny_density, fpr=0.05).fit(clean_images(99), corruptions=["brighter-10%"]),
    }
    monkeypatch.setattr(zoo, "cached_detector", lambda name, device: made[name])
    image = clean_images(1)[0]
    for suffix in ("png", "jpg"):
        Image.fromarray(image).save(tmp_path / f"image.{suffix}")
    for names in (["plain", "processed"], ["processed", "plain"]):
        monkeypatch.setattr(zoo, "shipped", lambda kind, names=names: names)
        there = zoo.DetectorSet()
        assert there.choose(tmp_path / "image.jpg") == "processed"
        assert there.choose((tmp_path / "image.jpg").read_bytes()) == "processed"
        assert there.choose(tmp_path / "image.png") == "plain"
        assert there.choose(image) == "plain"
        screener = Screener()
        records = [screener.read_file(str(tmp_path / f"image.{suffix}")).record for suffix in ("png", "jpg")]
        assert [record.detector for record in records] == ["plain", "processed"]
    monkeypatch.setattr(zoo, "shipped", lambda kind: ["processed"])
    assert zoo.DetectorSet().choose(image) == "processed"


def test_a_set_knows_its_detectors():
    shipped = zoo.DetectorSet()
    assert shipped.choose(np.zeros((28, 28), np.uint8)) == "fashion-mnist"
    assert shipped.choose(np.zeros((32, 32), np.uint8)) == "cifar10"
    assert shipped.choose(np.zeros((64, 300, 3), np.uint8)) == "photo"
    assert shipped.provenance("cifar10") == {
        "detector": "cifar10",
        "detector_sha256": zoo.card("cifar10")["sha256"],
        "precision": "float32",
    }
    names = ("cifar10", "cifar10-jpeg", "fashion-mnist", "photo")
    assert {name: made.fpr for name, made in zoo.DetectorSet(fpr=0.05).detectors.items()} == dict.fromkeys(names, 0.05)
    assert zoo.DetectorSet(backend="bfloat16")["cifar10"].backend == "bfloat16"
    with pytest.raises(ParameterError, match="cannot run on another backend"):
        zoo.DetectorSet("photo", backend="bfloat16")
    own = FunctionDetector(lambda x: x.mean((1, 2, 3)), fpr=0.1).fit(np.load(SAMPLE)["x"][:50])
    assert zoo.DetectorSet(own).choose(np.zeros((5, 7, 3), np.uint8)) == "custom"
    assert zoo.DetectorSet(own).sha256("custom") is None
    with pytest.raises(CalibrationError, match="detector cifar10"):
        zoo.DetectorSet(fpr=1e-6)
    with pytest.raises(ParameterError):
        zoo.DetectorSet(own, backend="bfloat16")


def test_the_density_is_there():
    detector = load_detector("fashion-mnist")
    assert isinstance(detector, Detector)
    assert detector.density.event_shape == (1, 28, 28)
    assert len(detector.calibration_scores_) == 5000
    assert detector.fpr == 0.01


@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_a_damaged_shipped_file_is_named(kind, tmp_path, monkeypatch):
    load = {"detector": load_detector, "classifier": load_classifier}[kind]
    for file in zoo.WEIGHTS.glob(f"fashion-mnist-{kind}.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    path = tmp_path / f"fashion-mnist-{kind}.safetensors"
    load("fashion-mnist")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=rf"fashion-mnist-{kind}\.safetensors does not match its sha256"):
        load("fashion-mnist")
    path.unlink()
    with pytest.raises(ValueError, match="is missing: the installation is damaged"):
        load("fashion-mnist")


def test_cards_hold_what_the_files_hold():
    from pixeldefend.serialization import load_tensors

    for path in zoo.WEIGHTS.glob("*.json"):
        card = json.loads(path.read_text())
        _, meta = load_tensors(path.with_suffix(".safetensors"))
        assert {key: value for key, value in card.items() if key != "sha256"} == meta


def test_the_public_face():
    assert all(callable(getattr(pixeldefend, name)) for name in pixeldefend.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = pixeldefend.nope


PHOTOGRAPHS = EXAMPLES.parent / "photographs"


def test_the_detector_of_photographs_finds_attacks_and_seldom_flags_clean_photographs():
    attacked = [str(path) for path in sorted(PHOTOGRAPHS.glob("attacked_*"))]
    clean = [str(path) for path in sorted(PHOTOGRAPHS.glob("clean_*"))]
    assert len(attacked) == len(clean) == 10
    flagged = {Path(path).stem for path, found in zip(attacked, is_adversarial(attacked), strict=True) if found}
    assert flagged >= {f"attacked_{name}" for name in ("pgd-8", "pgd-2", "bim-4", "apgd-ce-4", "square-8")}
    assert is_adversarial(clean).sum() <= 1


def drawn():
    """Yields images without noise or texture: of one colour, of two levels, of text, and smooth."""
    rng = np.random.default_rng(0)
    text = Image.new("RGB", (300, 200), "white")
    for row in range(12):
        ImageDraw.Draw(text).text((8, 8 + 15 * row), "The quick brown fox jumps over 13 lazy dogs.", fill="black")
    yield from (
        np.full((64, 64, 3), 0, np.uint8),
        np.full((128, 200), 255, np.uint8),
        np.full((64, 3000), 90, np.uint8),
    )
    yield np.tile(np.array([10, 40, 200], np.uint8), (100, 100, 1))
    yield 255 * rng.integers(0, 2, (100, 100), np.uint8)
    yield np.asarray(text)
    yield 255 * (np.asarray(text) > 128).astype(np.uint8)
    yield np.tile(np.arange(256, dtype=np.uint8), (200, 1))


def test_flat_drawn_and_written_images_are_not_flagged():
    assert not is_adversarial(list(drawn())).any()


def test_a_file_is_judged_by_its_header_alone_and_in_a_list():
    path = PHOTOGRAPHS / "clean_camera_sony.jpg"
    detector = zoo.load_detector("photo")
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        judge = type(detector).judge_profiles
        patch.setattr(
            type(detector),
            "judge_profiles",
            lambda self, profiles, origins=None: asked.append(origins) or judge(self, profiles, origins),
        )
        is_adversarial(path)
        is_adversarial([path])
    assert [origins[0].quality for origins in asked] == [asked[0][0].quality] * 2
