"""The backend "auto" is the fastest one on this machine, for which there is a calibration."""

import json
import os

import pytest
from helpers import clean_images
from PIL import Image

from pixeldefend import Detector
from pixeldefend.densities import OrderEnsemble, build
from pixeldefend.detectors import backends, load
from pixeldefend.detectors.backends import PRECISION, fastest_backend, on_backend
from pixeldefend.screening import screen
from pixeldefend.screening.ray import screen_on_ray
from pixeldefend.zoo import DetectorSet

SMALL = {"model": "pixelcnnpp", "event_shape": [1, 8, 8], "filters": 8, "blocks": 1, "mixtures": 3}
ALL = set(PRECISION.values())


@pytest.fixture
def density():
    return build(SMALL).eval()


@pytest.fixture(autouse=True)
def remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixeldefend" / "backends.json"


@pytest.fixture
def takes(monkeypatch):
    """Pretends that backends take some seconds, and counts how often they are measured."""
    measured = []

    def pretend(**seconds):
        monkeypatch.setattr(backends, "_measured", lambda density: measured.append(density) or seconds)
        return measured

    return pretend


def test_the_fastest_backend_whose_precision_is_allowed(density, takes, monkeypatch):
    measured = takes(float32=3.0, bfloat16=1.0, openvino=2.0)
    assert fastest_backend(density, ALL) == "bfloat16"
    assert fastest_backend(density, ["float32"]) == "openvino"
    assert len(measured) == 1  # it is remembered
    monkeypatch.setattr("torch.get_num_threads", lambda: 1000)
    takes(float32=1.05, openvino=1.0)
    assert fastest_backend(density, ALL) == "float32"  # others must be clearly faster
    assert len(measured) == 2  # with another number of threads, others may be faster


def test_measured_for_each_density(density, takes):
    measured = takes(float32=1.0)
    other = build({**SMALL, "filters": 16})
    for one in (density, other, density, build(SMALL), other):
        assert fastest_backend(one, ALL) == "float32"
    assert measured == [density, other]


@pytest.mark.parametrize(
    "damage", ["", "[]", "{", '{"%s": 1}', '{"%s": {"float32": "slow"}}', '{"%s": {"float32": null}}']
)
def test_what_cannot_be_read_is_measured_again(density, takes, remembered, damage):
    takes(float32=2.0, openvino=1.0)
    fastest_backend(density, ALL)
    (key,) = json.loads(remembered.read_text())
    remembered.write_text(damage.replace("%s", key))
    assert fastest_backend(density, ALL) == "openvino"
    assert json.loads(remembered.read_text()) == {key: {"float32": 2.0, "openvino": 1.0}}


def test_a_cache_folder_that_cannot_be_written_to(density, takes, remembered):
    measured = takes(float32=2.0, openvino=1.0)
    remembered.parent.parent.write_text("a file")
    assert [fastest_backend(density, ALL) for _ in range(2)] == ["openvino"] * 2
    assert len(measured) == 2


def test_a_density_without_a_net_has_one_backend(takes):
    measured = takes()
    ensemble = OrderEnsemble(build({"model": "made", "event_shape": [4], "head": "bernoulli"}), 1)
    assert fastest_backend(ensemble, ALL) == "float32"
    assert not measured


def test_what_is_measured(density):
    times = backends._measured(density)
    assert {"float32", "bfloat16"} <= times.keys() <= PRECISION.keys()
    assert all(seconds > 0 for seconds in times.values())
    rows = build({"model": "made", "event_shape": [4], "head": "bernoulli"}).eval()
    assert backends._measured(rows).keys() == {"float32", "bfloat16"}  # OpenVINO is for images


def test_detectors_resolve_auto(density, takes, tmp_path):
    takes(float32=2.0, bfloat16=1.0)
    images = clean_images(200)
    one = Detector(density, fpr=0.1).fit(images)
    both = Detector(density, fpr=0.1).fit(images, backends=["bfloat16"])
    assert one.with_backend("auto").backend == "float32"  # it has no calibration for bfloat16
    assert both.with_backend("auto").backend == "bfloat16"
    both.save(tmp_path / "both.safetensors")
    assert load(tmp_path / "both.safetensors", backend="auto").backend == "bfloat16"
    there = DetectorSet(tmp_path / "both.safetensors", backend="auto")
    assert [made.backend for made in there.detectors.values()] == ["bfloat16"]
    with pytest.raises(ValueError, match="load_detector and with_backend take 'auto'"):
        Detector(density, fpr=0.1, backend="auto").fit(images)


def test_records_name_the_backend(density, takes, tmp_path):
    takes(float32=2.0, bfloat16=1.0)
    images = clean_images(100)
    Detector(density, fpr=0.1).fit(images, backends=["bfloat16"]).save(tmp_path / "both.safetensors")
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    for backend, named in ((None, "float32"), ("auto", "bfloat16")):
        (result,) = screen([tmp_path / "image.png"], tmp_path / "both.safetensors", backend=backend)
        assert (result.record.error, result.record.backend) == (None, named)


def test_a_cluster_needs_a_named_backend(tmp_path):
    pytest.importorskip("ray", reason="the extra 'scale' is not installed")
    with pytest.raises(ValueError, match="name one, not 'auto'"):
        screen_on_ray([tmp_path], tmp_path / "out", backend="auto")


def test_detectors_of_photographs_stay_as_they_are(takes):
    assert not takes()
    assert list(DetectorSet("photo", backend="auto").detectors) == ["photo"]


@pytest.mark.filterwarnings("error")
def test_bfloat16_without_instructions_gives_a_warning(density, monkeypatch):
    monkeypatch.setattr(backends, "_has_bfloat16", lambda: True)
    on_backend(density, "bfloat16")
    monkeypatch.setattr(backends, "_has_bfloat16", lambda: False)
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        on_backend(density, "bfloat16")
    assert backends._measured(density).keys() >= {"float32", "bfloat16"}  # it is measured without a warning


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert backends.cache_folder() == tmp_path / ".cache" / "pixeldefend"
