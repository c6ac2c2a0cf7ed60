"""Training through the command line, on data small enough for seconds."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import clean_images
from PIL import Image

from pixeldefend import densities
from pixeldefend.data import load_dataset, read_wav
from pixeldefend.detectors import Detector
from pixeldefend.training.loop import shifted

PROGRAM = Path(sys.executable).parent / "pixeldefend"
SMALL = ["--set", "filters=4", "--set", "blocks=1", "--set", "scales=1", "--set", "mixtures=2"]
QUICK = ["--batch-size", "16", "--warmup", "10", "--learning-rate", "0.02", "--accelerator", "cpu"]


def run(*arguments) -> subprocess.CompletedProcess:
    command = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ramps.npz"
    x = clean_images(1200)
    np.savez(path, x=x, y=(x[:, 0, 0] > 127).astype(int))
    return path


@pytest.mark.slow
def test_train_resume_calibrate_screen(data, tmp_path):
    train = ["train", "density", "--data", data, *SMALL, *QUICK]
    whole = run(*train, "--out", tmp_path / "whole", "--epochs", "3")
    assert whole.returncode == 0, whole.stderr
    density = densities.load(tmp_path / "whole" / "density.safetensors")
    untrained = densities.build(density.config)
    x = torch.from_numpy(clean_images(50, seed=7))[:, None] / 255
    assert density.bits_per_dim(x).mean() < untrained.bits_per_dim(x).mean() - 1
    with open(tmp_path / "whole" / "metrics.csv") as file:
        validation = [float(row["bits_per_dim"]) for row in csv.DictReader(file) if row["bits_per_dim"]]
    assert len(validation) == 3
    finished = run(*train, "--out", tmp_path / "whole", "--epochs", "3", "--resume", tmp_path / "whole" / "last.ckpt")
    assert finished.returncode == 2
    assert "has already been trained for 3 epochs" in finished.stderr
    assert validation[-1] < validation[0]

    # a run cut after two epochs goes on to the same weights
    again = run(*train, "--out", tmp_path / "again", "--epochs", "3")
    assert again.returncode == 0
    torch.testing.assert_close(
        densities.load(tmp_path / "again" / "density.safetensors").state_dict(), density.state_dict()
    )
    code = f"""
import pixeldefend.training.loop as training
from lightning import Trainer
fit = Trainer.fit
def cut(self, task, *args, **kwargs):
    class Cut(__import__("lightning").Callback):
        def on_train_epoch_start(self, trainer, task):
            if trainer.current_epoch == 2: raise SystemExit(9)
    self.callbacks.append(Cut())
    fit(self, task, *args, **kwargs)
Trainer.fit = cut
import sys
sys.argv = ["pixeldefend", *{[str(a) for a in train]!r}, "--out", {str(tmp_path / "cut")!r}, "--epochs", "3"]
from pixeldefend.cli import main
main()
"""
    cut = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert cut.returncode != 0
    assert not (tmp_path / "cut" / "density.safetensors").exists()
    resumed = run(*train, "--out", tmp_path / "cut", "--epochs", "3", "--resume", tmp_path / "cut" / "last.ckpt")
    assert resumed.returncode == 0, resumed.stderr
    torch.testing.assert_close(
        densities.load(tmp_path / "cut" / "density.safetensors").state_dict(),
        density.state_dict(),
        atol=1e-4,
        rtol=1e-3,
    )

    out = tmp_path / "detector.safetensors"
    calibrated = run(
        "calibrate",
        "--density",
        tmp_path / "whole" / "density.safetensors",
        "--data",
        data,
        "--out",
        out,
        "--score",
        "bits_per_dim",
        "--fpr",
        "0.02",
    )
    assert calibrated.returncode == 0, calibrated.stderr
    detector = Detector.load(out)
    assert len(detector.calibration_scores_) == 100
    noise = np.random.RandomState(0).randint(0, 256, (20, 8, 8), np.uint8)
    assert detector.bits_per_dim(noise).mean() > detector.bits_per_dim(clean_images(20, seed=8)).mean() + 0.5
    assert detector.statistic == "bits_per_dim"

    wide = tmp_path / "wide.safetensors"
    density_file = ["--density", tmp_path / "whole" / "density.safetensors", "--data", data]
    options = ["--score", "fused", "--transformation", "jpeg-75", "--fpr", "0.02"]
    calibrated = run("calibrate", *density_file, *options, "--out", wide)
    assert calibrated.returncode == 0, calibrated.stderr
    assert np.isfinite(Detector.load(wide).p_value(noise)).all()
    Image.fromarray(noise[0]).save(tmp_path / "noise.png")
    refused = run("screen", "--detector", wide, "--watch", tmp_path / "noise.png")
    assert refused.returncode == 2
    assert "cannot watch a stream" in refused.stderr
    screened = run("screen", "--detector", out, "--watch", tmp_path / "noise.png")
    assert screened.returncode == 1, screened.stderr
    assert "like clean traffic (highest e-values: drift" in screened.stderr


@pytest.mark.slow
def test_two_processes_train_one_model(data, tmp_path):
    result = run(
        "train", "density", "--data", data, "--out", tmp_path, *SMALL, *QUICK, "--epochs", "2", "--devices", "2"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("held-out images") == 1
    density = densities.load(tmp_path / "density.safetensors")
    x = torch.from_numpy(clean_images(50, seed=7))[:, None] / 255
    learned = density.bits_per_dim(x).mean()
    assert learned < densities.build(density.config).bits_per_dim(x).mean() - 1
    # as much as one process learns from batches of the same size altogether
    options = [*SMALL, *QUICK, "--epochs", "2", "--batch-size", str(2 * int(QUICK[QUICK.index("--batch-size") + 1]))]
    alone = run("train", "density", "--data", data, "--out", tmp_path / "alone", *options)
    assert alone.returncode == 0, alone.stderr
    other = densities.load(tmp_path / "alone" / "density.safetensors").bits_per_dim(x).mean()
    assert abs(learned - other) < 0.1


@pytest.mark.slow
def test_train_a_classifier_and_benchmark_it(data, tmp_path, tiny_detector):
    result = run("train", "classifier", "--data", data, "--out", tmp_path, "--width", "4", "--epochs", "2", *QUICK)
    assert result.returncode == 0, result.stderr
    assert "accuracy" in result.stdout
    tiny_detector.save(tmp_path / "detector.safetensors")
    models = ["--detector", tmp_path / "detector.safetensors", "--classifier", tmp_path / "classifier.safetensors"]
    choice = ["--attacks", "fgsm-8,noise-8", "--scores", "excess_surprisal", "--limit", "30"]
    more = ["--controls", "--other", data, "--oracle"]
    result = run("benchmark", *models, *choice, *more, "--data", data, "--out", tmp_path / "b")
    assert result.returncode == 0, result.stderr
    assert "| noise-8 |" in result.stdout
    assert "| jpeg-75 |" in result.stdout
    assert "| *oracle* |" in result.stdout
    assert (tmp_path / "b" / "roc.png").stat().st_size > 1000

    tiny_detector.save(tmp_path / "other.safetensors")
    models = ["--detector", tmp_path / "other.safetensors", *models]
    result = run("benchmark", *models, *choice, "--data", data, "--out", tmp_path / "c")
    assert result.returncode == 0, result.stderr
    rows = [line.split("|") for line in result.stdout.splitlines() if line.startswith(("| other", "| detector |"))]
    assert len(rows) == 9  # three tables: the means, its own score, the one asked for
    assert "## excess_surprisal" in (tmp_path / "c" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["density", "--data", "nope", "--out", "x"], "'nope' is no data set"),
        (["density", "--data", "DATA", "--out", "x", "--model", "nope"], "unknown density 'nope'"),
        (["density", "--data", "DATA", "--out", "x", "--resume", "nope.ckpt"], "there is no checkpoint nope.ckpt"),
        (["density", "--data", "DATA", "--out", "x", "--set", "filters"], "--set wants NAME=VALUE, got 'filters'"),
        (["density", "--data", "DATA", "--out", "x", "--set", "nope=1"], "nope"),
        (["density", "--data", "DATA", "--out", "x", "--set", "model=nade"], "model is given by the data and --model"),
        (["density", "--data", "DATA", "--out", "x", "--resume", "DATA"], "is no checkpoint of a training"),
        (["density", "--data", "DATA", "--out", "x", "--accelerator", "abacus"], "abacus"),
    ],
)
def test_bad_input_is_refused(data, tmp_path, arguments, says):
    arguments = [str(data) if a == "DATA" else str(tmp_path / a) if a == "x" else a for a in arguments]
    result = run("train", *arguments)
    assert result.returncode == 2
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_text_from_training_to_new_text(tmp_path):
    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 200)
    train = ["train", "density", "--data", tmp_path / "t.txt", "--length", "48", "--out", tmp_path / "lstm", *QUICK]
    result = run(*train, "--model", "rnn", "--set", "hidden=48", "--epochs", "60", "--ema", "0", "--patience", "20")
    assert result.returncode == 0, result.stderr
    assert "held-out events" in result.stdout
    sampled = run(
        "sample", tmp_path / "lstm" / "density.safetensors", "-n", "1", "--prompt", "the c", "--length", "40",
        "--temperature", "0.1",
    )  # fmt: skip
    assert sampled.returncode == 0, sampled.stderr
    assert sampled.stdout.startswith("the cat sat on the mat. the cat sat on")
    refused = run("sample", tmp_path / "lstm" / "density.safetensors", "--prompt", "XYZ")
    assert refused.returncode == 2
    assert "the vocabulary has no 'X'" in refused.stderr


@pytest.mark.slow
def test_the_best_weights_are_kept_and_training_stops_when_they_get_no_better(tmp_path):
    bits = (np.random.RandomState(0).rand(240, 30) < 0.5).astype(np.uint8)  # nothing to learn but by heart
    np.savez(tmp_path / "bits.npz", x=bits)
    train = ["train", "density", "--data", tmp_path / "bits.npz", "--model", "nade", "--ema", "0", *QUICK]
    result = run(*train, "--out", tmp_path / "out", "--epochs", "200", "--patience", "5")
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "out" / "metrics.csv") as file:
        validation = [float(row["nll"]) for row in csv.DictReader(file) if row["nll"]]
    assert len(validation) < 100
    kept = densities.load(tmp_path / "out" / "density.safetensors")
    held_out = load_dataset(str(tmp_path / "bits.npz")).validation.float()
    assert -kept.log_prob(held_out).mean().item() == pytest.approx(min(validation), rel=0.02)


def test_samples_are_written_as_what_they_are(tiny_density, tmp_path):
    tiny_density.save(tmp_path / "d.safetensors")
    result = run("sample", tmp_path / "d.safetensors", "-n", "5", "--out", tmp_path / "grid.png")
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "grid.png").size[0] > 100
    run("sample", tmp_path / "d.safetensors", "-n", "5", "--out", tmp_path / "x.npz", "--seed", "3")
    x = np.load(tmp_path / "x.npz")["x"]
    assert (x.shape, x.dtype) == ((5, 8, 8), np.uint8)
    expected = tiny_density.sample(5, generator=torch.Generator().manual_seed(3))
    assert (x == (expected[:, 0] * 255).round().numpy()).all()
    refused = run("sample", tmp_path / "d.safetensors", "--out", tmp_path / "x.wav")
    assert refused.returncode == 2
    assert "models images: --out wants a file .png or .npz" in " ".join(refused.stderr.split())
    audio = densities.WaveNet((64,), residual=4, skip=4, depth=2, stacks=1)
    audio.save(tmp_path / "w.safetensors")
    heard = run("sample", tmp_path / "w.safetensors", "-n", "2", "--length", "100", "--out", tmp_path / "x.wav")
    assert heard.returncode == 0, heard.stderr
    assert len(read_wav(tmp_path / "x.wav")[0]) == 200


def test_shifted_images_are_crops_of_the_padded_ones():
    torch.manual_seed(0)
    x = torch.rand(200, 2, 5, 6) + 0.1
    moved = shifted(x, 2)
    assert moved.shape == x.shape
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    crops = torch.stack([padded[:, :, i : i + 5, j : j + 6] for i in range(5) for j in range(5)], 1)
    which = (crops == moved[:, None]).flatten(2).all(2)
    assert which.any(1).all()
    assert len(set(which.float().argmax(1).tolist())) == 25
    assert shifted(x, 0) is x
