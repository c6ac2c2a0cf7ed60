import numpy as np
import pytest
import torch
from helpers import Gaussian, clean_images

from pixeldefend.detectors import Detector
from pixeldefend.errors import ModelError, ParameterError
from pixeldefend.preprocessing import Tiles
from pixeldefend.serialization import load_tensors, save_tensors
from pixeldefend.zoo import load_density


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
    assert loaded.calibration_scores_.flags.owndata  # a view of the file would end the process if it is overwritten


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
        with pytest.raises(ValueError, match=r"d\.safetensors: the weights do not fit the density"):
            load(path)


def test_files_that_are_no_detector_are_refused_and_never_unpickled(tmp_path, tiny_density):
    with pytest.raises(FileNotFoundError, match="no model file"):
        Detector.load(tmp_path / "missing.safetensors")
    torch.save({"a": 1}, tmp_path / "pickle.safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Detector.load(tmp_path / "pickle.safetensors")
    tiny_density.save(tmp_path / "density.safetensors")
    with pytest.raises(ValueError, match="holds a density, not a Detector"):
        Detector.load(tmp_path / "density.safetensors")


def test_numbers_of_numpy_are_saved_like_python_s(tiny_density, tmp_path):
    detector = Detector(tiny_density, fpr=np.float32(0.25), confidence=np.float64(0.5)).fit(clean_images(50))
    detector.save(tmp_path / "d.safetensors")
    loaded = Detector.load(tmp_path / "d.safetensors")
    assert (loaded.fpr, loaded.confidence) == (0.25, 0.5)


@pytest.mark.parametrize("name", ["density", "preprocessor", "statistic", "aggregate"])
def test_what_a_calibration_depends_on_cannot_be_replaced(name, tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "d.safetensors")
    given = {
        "density": tiny_detector.density,
        "preprocessor": Tiles(8),
        "statistic": "bits_per_dim",
        "aggregate": "mean",
    }
    with pytest.raises(ParameterError, match=f"{name} cannot be replaced"):
        Detector.load(tmp_path / "d.safetensors", **{name: given[name]})


def test_a_density_without_config_cannot_be_saved(tmp_path):
    detector = Detector(Gaussian(), statistic="bits_per_dim", fpr=0.2).fit(np.random.RandomState(0).randn(20, 3))
    with pytest.raises(ValueError, match="has no config"):
        detector.save(tmp_path / "x.safetensors")


def test_what_another_version_learned_is_refused_and_its_density_kept(tiny_density, tmp_path):
    path = tmp_path / "old.safetensors"
    Detector(tiny_density, statistic="fused", fpr=0.1).fit(clean_images(120), X_fit=clean_images(60, seed=3)).save(path)
    tensors, meta = load_tensors(path)
    save_tensors(path, tensors, {**meta, "learned": {"members_": ["bits_per_dim"], "quantiles_": [[0.0, 1.0]]}})
    with pytest.raises(ModelError, match=r"old\.safetensors.*calibrate"):
        Detector.load(path)
    x = torch.from_numpy(clean_images(3))[:, None] / 255
    torch.testing.assert_close(load_density(path).log_prob(x), tiny_density.log_prob(x))


def test_files_of_version_0_1_are_loaded(tiny_density, tmp_path):
    """They name the statistic `score` and the corruptions `transformations`, and do not name their class."""
    detector = Detector(tiny_density, statistic="typicality", fpr=0.1).fit(clean_images(60), corruptions=["jpeg-75"])
    detector.save(tmp_path / "new.safetensors")
    tensors, meta = load_tensors(tmp_path / "new.safetensors")
    old = {key: meta[key] for key in ("kind", "density", "learned")}
    old["parameters"] = dict(score="typicality", fpr=0.1, confidence=None, batch_size=64, backend="float32")
    old["transformations"] = meta["corruptions"]
    save_tensors(tmp_path / "old.safetensors", tensors, old)
    loaded = Detector.load(tmp_path / "old.safetensors")
    assert (loaded.statistic, loaded.corruptions_) == ("typicality", ["jpeg-75"])
    x = clean_images(5, seed=1)
    assert np.array_equal(loaded.p_value(x), detector.p_value(x))


def test_a_preprocessor_is_kept_in_the_file(tiny_density, tmp_path):
    images = [np.tile(image, (2, 2)) for image in clean_images(60)]
    detector = Detector(tiny_density, preprocessor=Tiles(8, stride=4), aggregate="top_tenth", fpr=0.1).fit(images)
    detector.save(tmp_path / "d.safetensors")
    loaded = Detector.load(tmp_path / "d.safetensors")
    assert loaded.preprocessor.get_params() == {"size": 8, "stride": 4}
    assert np.array_equal(loaded.p_value(images[:3]), detector.p_value(images[:3]))
