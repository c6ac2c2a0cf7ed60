"""Training of densities and classifiers, on data small enough for seconds."""

import csv
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import clean_images

from pixeldefend import densities
from pixeldefend.classifier import ResNet
from pixeldefend.data import load_dataset
from pixeldefend.errors import DataError, ParameterError
from pixeldefend.serialization import load_tensors
from pixeldefend.training import MaximumLikelihood, build_for, train, train_classifier, train_density
from pixeldefend.training.tasks import changed, shifted

PROGRAM = Path(sys.executable).parent / "pixeldefend"
SMALL = dict(filters=4, blocks=1, scales=1, mixtures=2)
QUICK = dict(batch_size=16, warmup=10, learning_rate=0.02, accelerator="cpu", precision="32-true", progress=False)
EPOCHS = 3


def grey_images(count: int, *, seed: int = 0) -> np.ndarray:
    """Images without black and white, which many perturbations leave as they are."""
    return 32 + clean_images(count, seed=seed) // 4 * 3


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "ramps.npz"
    x = grey_images(600)
    np.savez(path, x=x, y=(x[:, 0, 0] > 127).astype(int))
    return str(path)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    made = train_density(data, tmp_path_factory.mktemp("trained"), arguments=SMALL, epochs=EPOCHS, **QUICK)
    # whatever the caller draws afterwards does not depend on the training
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[2])
    return made


@pytest.fixture(scope="module")
def new():
    return torch.from_numpy(grey_images(50, seed=7))[:, None] / 255


def column(folder: Path, name: str) -> list[float]:
    with open(folder / "metrics.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_training_makes_the_data_likelier(trained, new):
    density = densities.load(trained.path)
    assert density.bits_per_dim(new).mean() < densities.build(density.config).bits_per_dim(new).mean() - 1
    validation = column(trained.path.parent, "bits_per_dim")
    assert len(validation) == EPOCHS
    assert validation[-1] < validation[0]
    assert trained.metrics["bits_per_dim"] == pytest.approx(validation[-1])
    assert trained.held_out == 50


def test_the_file_says_how_it_was_trained(trained, data):
    meta = load_tensors(trained.path)[1]
    assert meta["recipe"] == trained.recipe
    assert meta["recipe"]["train_sha256"] == load_dataset(data).train.digest()
    assert {"data", "images", "epochs", "batch_size", "learning_rate", "seed"} <= meta["recipe"].keys()


def test_a_density_of_perturbed_images_starts_from_one_of_clean_images(trained, data, new, tmp_path):
    longer, made = (
        train_density(data, tmp_path / str(perturb), start=trained.path, perturb=perturb, epochs=EPOCHS, **QUICK)
        for perturb in (False, True)
    )
    of_clean, of_perturbed = longer.model, made.model
    noisy = changed(new, perturb=True)
    assert of_clean.bits_per_dim(new).mean() < densities.load(trained.path).bits_per_dim(new).mean()
    with torch.no_grad():
        on_clean, on_noisy = (of_perturbed.bits_per_dim(x) - of_clean.bits_per_dim(x) for x in (new, noisy))
    assert on_noisy.mean() < on_clean.mean()
    assert made.recipe["start"] == str(trained.path)
    assert made.recipe["recipe_of_start"] == trained.recipe
    assert made.recipe["perturb"]


def test_training_images_are_changed_as_they_are_asked_to(new):
    assert changed(new, perturb=False) is new
    torch.manual_seed(0)
    moved = changed(new, perturb=True)
    assert (moved != new).flatten(1).any(1).all()
    torch.testing.assert_close(moved, (255 * moved).round() / 255)
    many = new.repeat(8, 1, 1, 1)
    same = (changed(many, False, ["brighter-10%", "jpeg-50"]) == many).flatten(1).all(1)
    assert 0.3 < same.double().mean() < 0.5
    grey = torch.full((400, 1, 28, 28), 120 / 255)
    brighter = changed(grey, True, ["brighter-10%"]).mean((1, 2, 3)) > 126 / 255  # perturbations hardly change means
    assert 0.5 < brighter.double().mean() < 0.7


def test_a_start_that_does_not_suit_is_refused(trained, data, tmp_path):
    with pytest.raises(ParameterError, match="leave out filters"):
        train_density(data, tmp_path, start=trained.path, arguments=SMALL, **QUICK)
    with pytest.raises(ParameterError, match="leave out model"):
        train_density(data, tmp_path, start=trained.path, model="made", **QUICK)
    with pytest.raises(ParameterError, match="models events of shape"):
        train_density(data, tmp_path, start="cifar10", **QUICK)
    with pytest.raises(ParameterError, match="unknown corruption"):
        train_density(data, tmp_path, corruptions=["rain"], **QUICK)
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
    with pytest.raises(ParameterError, match="only 8-bit images"):
        train_density(str(rows), tmp_path, model="made", perturb=True, **QUICK)


def test_a_run_that_was_cut_goes_on_to_the_same_weights(trained, data, tmp_path):
    class Cut(MaximumLikelihood):
        def on_train_epoch_start(self):
            if self.current_epoch == EPOCHS - 1:
                raise ConnectionAbortedError

    images = load_dataset(data)
    torch.manual_seed(0)
    task = Cut(build_for(images, "pixelcnnpp", **SMALL), QUICK["learning_rate"], QUICK["warmup"])
    place = {name: value for name, value in QUICK.items() if name not in ("warmup", "learning_rate")}
    with pytest.raises(ConnectionAbortedError):
        train(task, images.train, images.validation, out=tmp_path, epochs=EPOCHS, ema=0.999, clip=5.0, **place)
    resume = tmp_path / "last.ckpt"
    resumed = train_density(data, tmp_path, arguments=SMALL, epochs=EPOCHS, resume=resume, **QUICK)
    torch.testing.assert_close(
        densities.load(resumed.path).state_dict(), densities.load(trained.path).state_dict(), atol=1e-4, rtol=1e-3
    )
    assert (tmp_path / "metrics.1.csv").is_file()
    with pytest.raises(ParameterError, match=f"{EPOCHS} epochs"):
        train_density(data, tmp_path, arguments=SMALL, epochs=EPOCHS, resume=resume, **QUICK)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (dict(model="nope"), "'nope'"),
        (dict(arguments=dict(nope=1)), "nope"),
        (dict(arguments=dict(model="nade")), "model"),
        (dict(resume="DATA"), "last.ckpt"),
        (dict(accelerator="abacus"), "abacus"),
        (dict(devices=1000), "1000 devices"),
    ],
)
def test_bad_options_are_refused(data, tmp_path, options, names):
    if options.get("resume") == "DATA":
        options = {"resume": Path(data)}
    with pytest.raises(ParameterError, match=re.escape(names)):
        train_density(data, tmp_path, **{**QUICK, "arguments": SMALL, "epochs": 1, **options})


def test_a_missing_checkpoint_is_refused(data, tmp_path):
    with pytest.raises(FileNotFoundError):
        train_density(data, tmp_path, arguments=SMALL, resume=tmp_path / "no.ckpt", **QUICK)


def test_a_classifier_learns(data, tmp_path):
    made = train_classifier(data, tmp_path, width=8, epochs=2, shift=1, **QUICK)
    assert made.metrics["accuracy"] > 0.8
    assert ResNet.load(made.path).config["classes"] == 2
    assert load_tensors(made.path)[1]["metrics"] == made.metrics


def test_a_classifier_needs_labels(tmp_path):
    np.savez(tmp_path / "x.npz", x=clean_images(24))
    with pytest.raises(DataError, match="x has no labels"):
        train_classifier(str(tmp_path / "x.npz"), tmp_path, **QUICK)


def test_the_best_weights_are_kept_and_training_stops_when_they_get_no_better(tmp_path):
    bits = (np.random.RandomState(0).rand(240, 30) < 0.5).astype(np.uint8)  # nothing to learn but by heart
    np.savez(tmp_path / "bits.npz", x=bits)
    options = dict(model="nade", arguments=dict(hidden=20), epochs=200, ema=0.0, patience=3)
    made = train_density(str(tmp_path / "bits.npz"), tmp_path, **options, **QUICK)
    validation = column(tmp_path, "nll")
    assert len(validation) < 100
    held_out = load_dataset(str(tmp_path / "bits.npz")).validation.float()
    assert -made.model.log_prob(held_out).mean().item() == pytest.approx(min(validation), rel=0.02)


@pytest.mark.slow
def test_text_from_training_to_new_text(tmp_path):
    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 200)
    options = dict(model="rnn", arguments=dict(hidden=48), length=48, epochs=60, ema=0.0, patience=20)
    made = train_density(str(tmp_path / "t.txt"), tmp_path, **options, **QUICK)
    generator = torch.Generator().manual_seed(0)
    given = made.model.encode("the c")
    said = made.model.sample(1, generator=generator, given=given, temperature=0.1, length=40)
    assert made.model.decode(said)[0].startswith("the cat sat on the mat. the cat sat on")


@pytest.mark.slow
def test_two_processes_train_one_model(data, new, tmp_path):
    """Lightning starts the second process itself, from the command line."""
    words = [f"--set={name}={value}" for name, value in SMALL.items()]
    words += ["--batch-size=16", "--warmup=10", "--learning-rate=0.02", "--accelerator=cpu", "--epochs=2"]
    command = [PROGRAM, "train", "density", "--data", data, "--out", tmp_path, "--devices", "2", *words]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("held-out images") == 1
    density = densities.load(tmp_path / "density.safetensors")
    learned = density.bits_per_dim(new).mean()
    assert learned < densities.build(density.config).bits_per_dim(new).mean() - 1
    # as much as one process learns from batches of the same size altogether
    alone = train_density(data, tmp_path / "alone", arguments=SMALL, epochs=2, **{**QUICK, "batch_size": 32})
    assert abs(learned - alone.model.bits_per_dim(new).mean()) < 0.1


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
