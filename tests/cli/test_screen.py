"""pixeldefend screen and purify."""

import csv
import io
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from helpers import EXAMPLES, bomb
from PIL import Image

from pixeldefend.classifier import ResNet
from pixeldefend.images.corruptions import CORRUPTIONS
from pixeldefend.screening import Record


@pytest.fixture
def noise(clean) -> Path:
    path = clean / "noise.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8), np.uint8)).save(path)
    return path


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_clean_folder_exits_with_0(pixeldefend, detector, clean):
    result = pixeldefend("screen", clean, "--detector", detector, "--format", "jsonl")
    assert result.exit_code == 0, result.stderr
    assert [record["path"] for record in records(result.stdout)] == [f"{clean}/{i}.png" for i in range(3)]
    assert list(records(result.stdout)[0]) == [field.name for field in fields(Record)]
    assert len(result.stderr.splitlines()) == 1  # the summary, and no progress bar in a pipe
    assert "3 clean" in result.stderr


def test_a_flagged_image_exits_with_1_in_every_format(pixeldefend, detector, clean, noise, tmp_path):
    table = pixeldefend("screen", clean, "--detector", detector)
    assert table.exit_code == 1
    assert "adversarial" in table.stdout
    assert "\x1b" not in table.stdout
    output = tmp_path / "out.csv"
    result = pixeldefend("screen", f"{clean}/*.png", "--detector", detector, "--format", "csv", "--output", output)
    assert (result.exit_code, result.stdout) == (1, "")
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert [row["verdict"] for row in rows] == ["clean"] * 3 + ["adversarial"]


def test_animations_and_conversions_are_options(pixeldefend, detector, clean, noise):
    attacked, first = Image.open(noise), Image.open(clean / "0.png")
    noise.unlink()
    first.save(clean / "animated.gif", save_all=True, append_images=[attacked])
    first.save(clean / "scan.tif")
    arguments = ("screen", clean, "--detector", detector, "--format", "jsonl")

    def found(*options: str) -> tuple[int, dict[str, dict]]:
        result = pixeldefend(*arguments, *options)
        return result.exit_code, {Path(record["path"]).name: record for record in records(result.stdout)}

    status, refused = found()
    assert status == 2
    assert (refused["animated.gif"]["error_kind"], refused["scan.tif"]["error_kind"]) == ("mode", "mode")
    status, judged = found("--frames", "first", "--convert")
    assert status == 0
    assert judged["scan.tif"]["conversion"] == "TIFF decoded to 8 bits"
    status, judged = found("--frames", "all", "--convert")
    assert status == 1
    assert (judged["animated.gif"]["verdict"], judged["animated.gif"]["frame"]) == ("adversarial", 1)


def test_a_list_of_files_comes_from_standard_input(pixeldefend, refused, detector, clean, noise, tmp_path):
    listed = "\n".join(str(path) for path in sorted(clean.glob("*.png")))
    pictures = ("--heatmaps", tmp_path / "maps", "--picture", tmp_path / "sheet.png", "--timing")
    result = pixeldefend("screen", "-", "--detector", detector, "--batch-size", "2", *pictures, stdin=listed)
    assert result.exit_code == 1
    assert len(list((tmp_path / "maps").glob("*.png"))) == 4
    assert Image.open(tmp_path / "sheet.png").width > 100
    assert "files a second" in result.stderr
    assert pixeldefend("screen", "-", stdin="\n").exit_code == 2


def test_every_bad_file_is_a_record_and_the_rest_go_on(pixeldefend, detector, clean, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    whole = (clean / "0.png").read_bytes()
    (bad / "a_text.png").write_text("not an image")
    (bad / "b_truncated.png").write_bytes(whole[: len(whole) // 2])
    (bad / "c_bomb.png").write_bytes(bomb(20_000, 20_000))
    (bad / "d_empty.png").write_bytes(b"")
    Image.new("L", (28, 9)).save(bad / "e_size.png")
    (bad / "g_good.png").write_bytes(whole)
    sources = (bad, tmp_path / "missing", clean / "1.png")
    result = pixeldefend("screen", *sources, "--detector", detector, "--format", "jsonl")
    assert result.exit_code == 2
    found = {Path(record["path"]).name: record for record in records(result.stdout)}
    kinds = {name: record["error_kind"] for name, record in found.items()}
    assert kinds["a_text.png"] == "format"
    assert kinds["b_truncated.png"] == "damaged"
    assert kinds["c_bomb.png"] == "too large"
    assert kinds["d_empty.png"] == "empty"
    assert kinds["e_size.png"] == "size"
    assert kinds["missing"] is not None
    assert found["g_good.png"]["verdict"] == found["1.png"]["verdict"] == "clean"


@pytest.mark.parametrize("fpr", ["0", "1", "0.00001", "nan"])
def test_rates_that_cannot_be_promised_are_refused(refused, detector, clean, fpr):
    refused("screen", clean, "--detector", detector, "--fpr", fpr, names="calibration" if fpr == "0.00001" else "fpr")


def test_a_flipped_byte_in_a_detector_is_refused(refused, detector, clean, tmp_path):
    damaged = bytearray(detector.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(bytes(damaged))
    refused("screen", clean, "--detector", tmp_path / "damaged.safetensors", names="damaged.safetensors")


def test_outputs_that_cannot_be_written_are_refused_before_the_work(refused, detector, clean, tmp_path):
    own = ("--detector", detector)
    sheet = tmp_path / "sheet.png"
    sheet.mkdir()
    refused("screen", clean, *own, "--picture", sheet, names=str(sheet))
    refused("screen", clean, *own, "--picture", tmp_path / "x.foo", names="x.foo")
    refused("screen", clean, *own, "--output", tmp_path / "no" / "x.csv", names=str(tmp_path / "no"))
    refused("screen", clean, *own, "--output", tmp_path, names=str(tmp_path))


def test_other_refusals(refused, detector, clean):
    refused("screen", clean, "--detector", "nope", names="cifar10, cifar10-jpeg, fashion-mnist")
    refused("screen", clean, "--detector", detector, "--workers", "2", names="--engine ray")
    refused("screen", clean, "--engine", "ray", names="--output")
    refused("screen", clean, "--engine", "ray", "--timing", names="--engine ray")
    refused("screen", clean, "--detector", detector, "--backend", "quick", names="'quick'")


def test_a_shape_without_a_shipped_detector_is_an_error_record(pixeldefend, clean):
    result = pixeldefend("screen", clean, "--format", "jsonl")
    assert result.exit_code == 2
    assert [record["error_kind"] for record in records(result.stdout)] == ["size"] * 3


def test_names_that_are_not_unicode_are_carried_through(pixeldefend, detector, clean, tmp_path):
    odd = os.fsencode(clean) + b"/a\xff.png"
    os.replace(clean / "0.png", odd)
    output = tmp_path / "out.jsonl"
    result = pixeldefend("screen", clean, "--detector", detector, "--format", "jsonl", "--output", output)
    assert result.exit_code == 0, result.stderr
    assert os.fsencode(records(output.read_text())[-1]["path"]) == odd


def test_drift_is_reported(pixeldefend, refused, tiny_detector, tiny_density, detector, clean, noise, tmp_path):
    result = pixeldefend("screen", "--detector", detector, "--drift", noise)
    assert result.exit_code == 1
    assert "e-values" in result.stderr
    wide = tmp_path / "wide.safetensors"  # scores of a maximum over corruptions are no stream of uniform p-values
    images = np.random.RandomState(0).randint(100, 120, (120, 8, 8), np.uint8)
    type(tiny_detector)(tiny_density, fpr=0.05).fit(images, corruptions=list(CORRUPTIONS)[:1]).save(wide)
    refused("screen", "--detector", wide, "--drift", noise, names="corruption")


def test_of_several_detectors_those_that_can_test_for_drift_do(pixeldefend, tmp_path):
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "grey.jpg")
    shutil.copy(EXAMPLES / "clean_0333.png", tmp_path)
    result = pixeldefend("screen", tmp_path, "--drift", "--format", "jsonl")
    assert {record["detector"] for record in records(result.stdout)} == {"cifar10-jpeg", "fashion-mnist"}
    assert "fashion-mnist: no drift" in result.stderr
    assert "cifar10-jpeg: not tested" in result.stderr


def test_the_examples_are_judged_as_promised(pixeldefend, tmp_path):
    """`make demo`: at least 18 of the 20 attacked images are flagged and at most 1 of the 20 clean ones."""
    result = pixeldefend("screen", EXAMPLES, "--format", "jsonl", "--picture", tmp_path / "demo.png")
    assert result.exit_code == 1
    verdicts = {Path(record["path"]).name: record["verdict"] for record in records(result.stdout)}
    clean = [verdict for name, verdict in verdicts.items() if name.startswith("clean_")]
    attacked = [verdict for name, verdict in verdicts.items() if not name.startswith("clean_")]
    assert len(clean) == len(attacked) == 20
    assert clean.count("adversarial") <= 1
    assert attacked.count("adversarial") >= 18
    assert Image.open(tmp_path / "demo.png").width > 1000


def test_a_heat_map_that_cannot_be_written_costs_no_verdict(pixeldefend, detector, clean, noise, tmp_path):
    maps = tmp_path / "maps"
    long = noise.with_name(f"{'漢' * 83}.png")
    os.replace(noise, long)
    result = pixeldefend("screen", clean, "--detector", detector, "--format", "jsonl", "--heatmaps", maps)
    assert result.exit_code == 1, result.stderr
    assert len(list(maps.iterdir())) == 4
    in_the_way = next(path for path in maps.iterdir() if path.name.startswith("漢"))
    in_the_way.unlink()
    in_the_way.mkdir()
    result = pixeldefend("screen", clean, "--detector", detector, "--format", "jsonl", "--heatmaps", maps)
    assert result.exit_code == 2
    by_name = {Path(record["path"]).name: record for record in records(result.stdout)}
    record = by_name.pop(long.name)
    assert (record["verdict"], record["error_kind"]) == ("adversarial", "output")
    assert str(in_the_way) in record["error"]
    assert {other["error"] for other in by_name.values()} == {None}
    assert "\x1b" not in pixeldefend("screen", clean, "--detector", detector, "--heatmaps", maps).stdout


def test_equal_names_have_pictures_of_their_own(pixeldefend, detector, clean, tmp_path):
    (clean / "sub").mkdir()
    (clean / "sub" / "0.png").write_bytes((clean / "0.png").read_bytes())
    for _ in range(2):  # a further run writes them again
        result = pixeldefend("screen", clean, "--detector", detector, "--heatmaps", tmp_path / "maps")
        assert result.exit_code == 0, result.stderr
        assert len(list((tmp_path / "maps").iterdir())) == 4
    result = pixeldefend("purify", clean, "--detector", detector, "--out", tmp_path / "out")
    assert len({record["purified"] for record in records(result.stdout)}) == 4


# -- purify ------------------------------------------------------------------------------------------------------------


def test_purify_writes_an_image_a_file_and_says_what_changed(pixeldefend, detector, noise, tmp_path):
    classifier = tmp_path / "classifier.safetensors"
    ResNet((1, 8, 8), width=2).save(classifier)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    picture = tmp_path / "sheet.png"
    options = ("--eps", "4", "--detector", detector, "--classifier", classifier, "--picture", picture)
    done = pixeldefend("purify", noise, bad, "--out", tmp_path / "purified", *options)
    assert done.exit_code == 2, done.stderr
    good, wrong = records(done.stdout)
    assert wrong["purified"] is None
    assert wrong["error"]
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (noise, good["purified"]))
    assert 0 < np.abs(after - before).max() <= 4
    assert good["changed"] == pytest.approx((after != before).mean())
    assert good["bits_per_dim"][1] < good["bits_per_dim"][0]
    assert len(good["label"]) == 2
    assert Image.open(picture).width > 100


def test_a_purified_image_that_cannot_be_written_is_an_error_of_its_file(pixeldefend, detector, clean, tmp_path):
    out = tmp_path / "out"
    options = ("--out", out, "--detector", detector)
    first, *_ = records(pixeldefend("purify", clean, *options).stdout)
    os.remove(first["purified"])
    os.mkdir(first["purified"])
    done = pixeldefend("purify", clean, *options)
    assert done.exit_code == 2, done.stderr
    failed, *others = records(done.stdout)
    assert failed["purified"] is None
    assert "cannot be written" in failed["error"]
    assert failed["p_value"] == first["p_value"]
    assert all(record["error"] is None and Path(record["purified"]).is_file() for record in others)


def test_purify_refuses_a_bad_eps(refused, detector, noise, tmp_path):
    refused("purify", noise, "--out", tmp_path, "--eps", 300, "--detector", detector, names="got 300")
