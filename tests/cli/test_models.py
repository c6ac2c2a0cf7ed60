"""pixeldefend calibrate, sample and benchmark."""

import json

import numpy as np
import pytest
import torch
from helpers import Brightness, clean_images
from PIL import Image

from pixeldefend import densities
from pixeldefend.data import read_wav
from pixeldefend.detectors import Detector


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "ramps.npz"
    x = clean_images(1200)
    with torch.no_grad():
        y = Brightness()(torch.from_numpy(x)[:, None] / 255).argmax(1).numpy()
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture(scope="module")
def density(tiny_density, tmp_path_factory):
    path = tmp_path_factory.mktemp("density") / "tiny.safetensors"
    tiny_density.save(path)
    return path


def test_calibrate_and_screen(pixeldefend, density, data, clean, tmp_path):
    out = tmp_path / "detector.safetensors"
    options = ("--statistic", "bits_per_dim", "--fpr", "0.02", "--backend", "bfloat16", "--corruption", "jpeg-75")
    made = pixeldefend("calibrate", "--density", density, "--data", data, "--out", out, *options)
    assert made.exit_code == 0, made.stderr
    assert "100 clean test images" in made.stdout
    detector = Detector.load(out)
    assert (detector.statistic, detector.fpr, len(detector.calibration_scores_)) == ("bits_per_dim", 0.02, 100)
    assert set(detector.calibrations_) == {"float32", "bfloat16"}
    assert pixeldefend("screen", clean, "--detector", out, "--backend", "bfloat16").exit_code in (0, 1)


def test_a_likelihood_ratio_is_trained_and_calibrated(pixeldefend, data, clean, tmp_path):
    shared = ("train", "density", "--data", data, "--limit", "64", "--epochs", "1", "--accelerator", "cpu")
    p, q, out = tmp_path / "p", tmp_path / "q", tmp_path / "detector.safetensors"
    new = ("--model", "pixelcnn", "--set", "filters=4")
    options = ("--start", p / "density.safetensors", "--perturb", "--corruption", "jpeg-75")
    for arguments in ((*new, "--out", p), (*options, "--out", q)):
        made = pixeldefend(*shared, "--precision", "32-true", *arguments)
        assert made.exit_code == 0, made.stderr
    pair = ("--density", p / "density.safetensors", "--alternative", q / "density.safetensors")
    made = pixeldefend("calibrate", *pair, "--data", data, "--statistic", "likelihood_ratio", "--out", out)
    assert made.exit_code == 0, made.stderr
    detector = Detector.load(out)
    assert detector.statistic == "likelihood_ratio"
    assert not torch.equal(
        *(model.log_prob(torch.zeros(1, 1, 8, 8)) for model in (detector.density, detector.alternative))
    )
    assert pixeldefend("screen", clean, "--detector", out).exit_code in (0, 1)


def test_calibrate_refuses_an_output_before_the_work(refused, tmp_path):
    nothing = ("--density", "no", "--data", "no")  # which are asked for later
    refused("calibrate", *nothing, "--out", tmp_path, names=str(tmp_path))
    refused("calibrate", *nothing, "--out", tmp_path / "no" / "x", names=str(tmp_path / "no"))


def test_images_are_sampled(pixeldefend, refused, density, tiny_density, tmp_path):
    assert pixeldefend("sample", density, "-n", "5", "--out", tmp_path / "grid.png").exit_code == 0
    assert Image.open(tmp_path / "grid.png").width > 20
    assert pixeldefend("sample", density, "-n", "5", "--out", tmp_path / "x.npz", "--seed", "3").exit_code == 0
    x = np.load(tmp_path / "x.npz")["x"]
    expected = tiny_density.sample(5, generator=torch.Generator().manual_seed(3))
    assert (x == (expected[:, 0] * 255).round().to(torch.uint8).numpy()).all()
    refused("sample", density, "--out", tmp_path / "x.wav", names=".png or .npz")
    refused("sample", density, "--out", tmp_path / "x.png", "--prompt", "a", names="prompt")


def test_audio_and_text_are_sampled(pixeldefend, refused, tmp_path):
    densities.WaveNet((64,), residual=4, skip=4, depth=2, stacks=1).save(tmp_path / "w.safetensors")
    options = ("-n", "2", "--length", "50", "--out", tmp_path / "x.wav")
    assert pixeldefend("sample", tmp_path / "w.safetensors", *options).exit_code == 0
    assert len(read_wav(tmp_path / "x.wav")[0]) == 100
    text = tmp_path / "t.safetensors"
    densities.RNN((10,), hidden=4, vocabulary="abc").save(text)
    said = pixeldefend("sample", text, "-n", "2", "--prompt", "ab", "--length", "5")
    assert said.exit_code == 0, said.stderr
    assert [len(line) for line in said.stdout.split("\n\n")] == [5, 6]  # the last with its line break
    assert said.stdout.startswith("ab")
    refused("sample", text, "--prompt", "abX", names="'X'")
    assert pixeldefend("sample", text, "-n", "1", "--out", tmp_path / "x.txt").exit_code == 0
    assert set((tmp_path / "x.txt").read_text()) <= set("abc\n")


@pytest.fixture
def models(monkeypatch, tmp_path, detector):
    (tmp_path / "victims.py").write_text("from helpers import Brightness\nclassifier = Brightness()\n")
    monkeypatch.syspath_prepend(tmp_path)
    return ("--detector", detector, "--classifier", "victims:classifier")


QUICK = ("--attacks", "fgsm-8,noise-8", "--statistics", "excess_surprisal", "--limit", "20")


def test_benchmark_and_compare(pixeldefend, models, data, tmp_path):
    more = ("--corruptions", "--no-pictures", "--other", data, "--cache", tmp_path / "cache")
    out = tmp_path / "out"
    result = pixeldefend("benchmark", *models, *QUICK, *more, "--data", data, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert all(name in result.stdout for name in ("fgsm-8", "noise-8", "jpeg-75"))
    assert (out / "roc.png").stat().st_size > 1000
    assert (out / "report.html").is_file()
    results = json.loads((out / "results.json").read_text())
    assert results["command"].startswith("pixeldefend benchmark --detector")
    assert results["examples"] == []
    assert list((tmp_path / "cache").iterdir())
    compared = pixeldefend("compare", out, out / "results.json")
    assert compared.exit_code == 0, compared.stderr
    assert "fgsm-8" in compared.stdout


def test_several_detectors_are_compared(pixeldefend, refused, models, data, tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "other.safetensors")
    several = ("--detector", tmp_path / "other.safetensors", *models, "--data", data, "--out", tmp_path / "out")
    result = pixeldefend("benchmark", *several, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "| other" in result.stdout
    assert (tmp_path / "out" / "comparison.md").is_file()
    refused("benchmark", *several, "--oracle", names="one detector only")


def test_benchmark_refuses_options_that_do_not_go_together(refused, models, data, tmp_path):
    whole = ("benchmark", *models, "--data", data, "--out", tmp_path / "out")
    refused(*whole, "--eps", "4", names="--adaptive")
    refused(*whole, "--adaptive", "all", "--eps", "4.5", names="'4.5'")
    refused(*whole, "--suite", "nope", names="'nope'")
    refused(*whole, "--surrogate-detector", "x", names="--surrogate-classifier")
    refused(*whole, "--attacks", "nope", names="'nope'")
    refused(*whole, *models[:2], names="different file names")


def test_the_leaderboard_is_printed(pixeldefend):
    result = pixeldefend("leaderboard")
    assert result.exit_code == 0
    assert "random" in result.stdout
