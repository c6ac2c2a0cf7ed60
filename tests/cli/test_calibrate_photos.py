"""Tests the adaptation of the detector of photographs to a user's traffic."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pixeldefend.densities import NeLLoC
from pixeldefend.detectors import PhotoDetector, load
from pixeldefend.errors import CalibrationError, ParameterError
from pixeldefend.scores.likelihood_ratio import LikelihoodRatio
from pixeldefend.scores.profile import size_of_profile
from pixeldefend.training.calibrate import adapt


def pixels(seed):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(small.resize((72, 64), Image.Resampling.BICUBIC), float)
    return np.clip(smooth + rng.normal(size=smooth.shape) * rng.uniform(0, 4), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    torch.manual_seed(0)
    density = NeLLoC((3, None, None), width=4, layers=1, mixtures=2).eval()
    ratio = LikelihoodRatio(size_of_profile(3), ("one", "other"), width=4).eval()
    detector = PhotoDetector(density, ratio, fpr=0.05)
    profiles = detector.profiles([pixels(seed) for seed in range(40)])
    ratio.mean.copy_(torch.from_numpy(profiles.mean(0)))
    ratio.deviation.copy_(torch.from_numpy(profiles.std(0) + 1e-3))
    path = tmp_path_factory.mktemp("shipped") / "photo.safetensors"
    detector.fit_profiles(profiles).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for seed in range(100, 130):
        suffix = "jpg" if seed % 2 else "png"
        Image.fromarray(pixels(seed)).save(folder / f"{seed}.{suffix}")
    return folder


def test_photographs_of_a_user_calibrate_what_they_are(shipped, folder, tmp_path):
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.fromarray(pixels(1)[:63]).save(folder / "small.png")
    Image.open(folder / "100.png").save(folder / "copy.png")
    made = adapt(str(shipped), [str(folder)], tmp_path / "mine.safetensors")
    assert sum(made.histories.values()) == 30
    assert {path.rsplit("/", 1)[1] for path in made.skipped} == {"damaged.png", "small.png", "copy.png"}
    again = load(tmp_path / "mine.safetensors")
    assert again.calibration_own_.sum() == 30
    image = [pixels(500)]
    assert again.judge(image).p_value == made.detector.judge(image).p_value
    assert (load(shipped).judge(image).score == again.judge(image).score).all()


def test_what_cannot_adapt_is_refused(shipped, folder, tmp_path):
    with pytest.raises(CalibrationError, match="at least 99"):
        adapt(str(shipped), [str(folder)], fpr=0.01)
    with pytest.raises(ParameterError, match="no detector of photographs"):
        adapt("fashion-mnist", [str(folder)])
    for copy in range(6):
        Image.open(folder / "100.png").save(folder / f"copy{copy}.png")
    with pytest.raises(CalibrationError, match="6 of 36 photographs are copies"):
        adapt(str(shipped), [str(folder)])


def test_the_command(pixeldefend, shipped, folder, tmp_path):
    done = pixeldefend("calibrate", "--density", shipped, "--photos", folder, "--out", tmp_path / "mine.safetensors")
    assert done.exit_code == 0
    assert "calibrated on 30 photographs" in done.stdout
    screened = pixeldefend("screen", "--detector", tmp_path / "mine.safetensors", "--format", "jsonl", folder)
    records = [json.loads(line) for line in screened.stdout.splitlines()]
    assert len(records) == 30
    assert {record["history"] for record in records} <= {"one", "other", "unknown"}
    assert sum(record["verdict"] == "adversarial" for record in records) <= 3
    mixed = (
        "calibrate",
        "--density",
        shipped,
        "--photos",
        folder,
        "--statistic",
        "typicality",
        "--out",
        tmp_path / "a",
    )
    assert "--photos takes" in pixeldefend(*mixed).stderr
    refused = pixeldefend("calibrate", "--density", shipped, "--photos", folder, "--data", "x", "--out", tmp_path / "a")
    assert refused.exit_code == 2
    assert "leave the other options out" in refused.stderr
