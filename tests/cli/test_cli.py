"""The command line as a process."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import EXAMPLES, bomb, clean_images
from PIL import Image

PROGRAM = Path(sys.executable).parent / "pixeldefend"


def pixeldefend(*arguments, stdin: str | None = None, cwd=None) -> subprocess.CompletedProcess:
    command = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


def refused(*arguments, says: str) -> None:
    result = pixeldefend(*arguments)
    assert result.returncode == 2, result.stderr
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def detector(tiny_detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "tiny.safetensors"
    tiny_detector.save(path)
    return path


@pytest.fixture
def clean(tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    for i, image in enumerate(clean_images(3, seed=9)):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_help_names_the_commands_and_imports_no_torch():
    result = pixeldefend("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("screen", "calibrate", "benchmark", "train"))
    code = "import sys, pixeldefend.cli; assert not {'torch', 'numpy', 'matplotlib', 'foolbox'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_clean_folder_exits_with_0(detector, clean):
    result = pixeldefend("screen", clean, "--detector", detector, "--format", "jsonl")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["path"] for record in records] == [f"{clean}/{i}.png" for i in range(3)]
    assert list(records[0]) == [
        "path", "verdict", "p_value", "bits_per_dim", "score", "detector", "sha256", "width", "height", "error",
    ]  # fmt: skip
    assert result.stderr.strip() == "3 files: 3 clean, 0 adversarial, 0 error"  # and no progress bar in a pipe


def test_a_flagged_image_exits_with_1_in_every_format(detector, clean, tmp_path):
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8), np.uint8)).save(clean / "noise.png")
    table = pixeldefend("screen", clean, "--detector", detector)
    assert table.returncode == 1
    assert "adversarial" in table.stdout
    assert "\x1b" not in table.stdout
    output = tmp_path / "out.csv"
    result = pixeldefend("screen", f"{clean}/*.png", "--detector", detector, "--format", "csv", "--output", output)
    assert result.returncode == 1
    assert result.stdout == ""
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert [row["verdict"] for row in rows] == ["clean"] * 3 + ["adversarial"]
    heatmaps = tmp_path / "heat"
    listed = "\n".join(str(path) for path in sorted(clean.glob("*.png")))
    result = pixeldefend(
        "screen", "-", "--detector", detector, "--heatmaps", heatmaps, "--batch-size", "2", stdin=listed
    )
    assert result.returncode == 1
    assert len(list(heatmaps.glob("*.png"))) == 4


def test_every_bad_file_is_a_record_and_the_rest_go_on(detector, clean, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    whole = (clean / "0.png").read_bytes()
    (bad / "a_text.png").write_text("not an image")
    (bad / "b_truncated.png").write_bytes(whole[: len(whole) // 2])
    (bad / "c_bomb.png").write_bytes(bomb(20_000, 20_000))
    (bad / "d_empty.png").write_bytes(b"")
    Image.new("L", (28, 9)).save(bad / "e_size.png")
    (bad / "f_unreadable.png").symlink_to("/proc/self/mem")  # opens, and fails to be read, for the superuser too
    (bad / "g_good.png").write_bytes(whole)
    os.mkfifo(bad / "h_pipe.png")
    (bad / "i_dangling.png").symlink_to("nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    result = pixeldefend(
        "screen", bad, empty, tmp_path / "missing", clean / "1.png", "--detector", detector, "--format", "jsonl"
    )
    assert result.returncode == 2
    records = {Path(record["path"]).name: record for record in map(json.loads, result.stdout.splitlines())}
    expected = {
        "a_text.png": "not a PNG",
        "b_truncated.png": "truncated or damaged",
        "c_bomb.png": "bomb",
        "d_empty.png": "the file is empty",
        "e_size.png": "the image is 9 x 28, the detector models 8 x 8",
        "f_unreadable.png": "Input/output error",
        "h_pipe.png": "is not a file",
        "i_dangling.png": "there is no file",
        "empty": "the folder holds no image",
        "missing": "there is no file",
    }
    for name, reason in expected.items():
        assert records[name]["verdict"] == "error", name
        assert reason in records[name]["error"]
    assert records["g_good.png"]["verdict"] == "clean"
    assert records["1.png"]["verdict"] == "clean"


@pytest.mark.parametrize(
    ("fpr", "says"),
    [
        ("0", "fpr must lie strictly between 0 and 1, got 0.0"),
        ("1", "fpr must lie strictly between 0 and 1, got 1.0"),
        ("0.00001", "needs at least 99999 calibration images"),
        ("nan", "strictly between 0 and 1"),
    ],
)
def test_rates_that_cannot_be_promised_are_refused(clean, fpr, says):
    refused("screen", clean, "--fpr", fpr, says=says)


def test_a_flipped_byte_in_a_detector_is_refused(detector, clean, tmp_path):
    damaged = bytearray(detector.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(bytes(damaged))
    refused("screen", clean, "--detector", tmp_path / "damaged.safetensors", says="damaged.safetensors is damaged")


def test_other_refusals(detector, clean, tmp_path):
    refused("screen", clean, "--detector", "nope", says="no shipped detector 'nope'; there are: cifar10, fashion-mnist")
    refused("screen", clean, "--detector", detector, "--output", tmp_path / "no" / "x.csv", says="there is no folder")
    refused(
        "screen",
        clean,
        "--detector",
        detector,
        "--picture",
        tmp_path / "x.foo",
        says="--picture wants the name of a .png",
    )
    refused("screen", clean, "--detector", detector, "--output", tmp_path, says="it is a folder")
    assert pixeldefend("screen", "-", stdin="\n").returncode == 2
    refused("screen", clean, "--detector", detector, "--workers", "2", says="--workers and --ray-address are for")
    refused("screen", clean, "--detector", detector, "--heatmaps", clean / "0.png", says="0.png is a file, where a")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(detector, clean, tmp_path):
    sheet = tmp_path / "sheet.png"
    sheet.mkdir()
    result = pixeldefend("screen", clean, "--detector", detector, "--picture", sheet)
    assert (result.returncode, result.stdout) == (2, "")
    assert "it is a folder" in result.stderr
    # none of these has its model or its data, which are asked for later
    refused("calibrate", "--density", "no", "--data", "no", "--out", tmp_path, says="it is a folder")
    refused("calibrate", "--density", "no", "--data", "no", "--out", tmp_path / "no" / "x", says="there is no folder")


def test_names_that_are_not_unicode_and_names_that_look_like_formulas(detector, clean, tmp_path):
    odd = [os.fsencode(clean) + name for name in (b"/a\xff.png", b"/$\\foo$.png", b"/" + b"x" * 240 + b".png")]
    for name in odd:
        os.replace(clean / f"{odd.index(name)}.png", name)
    command = [PROGRAM, "screen", "-", "--detector", detector, "--format", "csv", "--output", tmp_path / "out.csv"]
    pictures = ["--heatmaps", tmp_path / "maps", "--picture", tmp_path / "sheet.png"]
    result = subprocess.run([*command, *pictures], input=b"\n".join(odd), capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    written = (tmp_path / "out.csv").read_bytes().splitlines()
    assert [line.split(b",")[0] for line in written[1:]] == odd
    assert len(list((tmp_path / "maps").iterdir())) == 3


def test_a_shape_without_a_shipped_detector_lists_those_that_exist(clean):
    result = pixeldefend("screen", clean, "--format", "jsonl")
    assert result.returncode == 2
    assert len(result.stdout.splitlines()) == 3
    for line in result.stdout.splitlines():
        assert "fashion-mnist (1, 28, 28)" in json.loads(line)["error"]


def test_pixels_out_of_range_are_refused_by_the_library_call():
    code = """
import numpy as np
from pixeldefend import is_adversarial
for image in (np.full((28, 28), np.nan), np.full((28, 28), 200.0)):
    try:
        is_adversarial(image)
    except ValueError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    nan, large = result.stdout.splitlines()
    assert nan == "got NaN or infinite pixels; wanted floating point in [0, 1]"
    assert large == "got floating point pixels from 200 to 200; wanted [0, 1]; divide by 255 or pass uint8"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_no_half_written_output(detector, clean, tmp_path, how):
    output = tmp_path / "out.jsonl"
    output.write_text("what was there before")
    listed = f"{clean}/0.png\n" * 200_000
    command = [str(PROGRAM), "screen", "-", "--detector", str(detector), "--format", "jsonl", "--output", str(output)]
    # a shell that runs the tests in the background lets their children ignore SIGINT
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, preexec_fn=heeded)
    process.stdin.write(listed.encode())
    process.stdin.close()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.jsonl.*")) and time.monotonic() < deadline:
        time.sleep(0.05)  # until it has begun to write
    assert process.poll() is None
    process.send_signal(how)
    assert process.wait(60) != 0
    assert output.read_text() == "what was there before"
    if how != signal.SIGKILL:
        assert not list(tmp_path.glob(".out.jsonl.*"))


def test_the_examples_are_judged_as_promised(tmp_path):
    """`make demo`: at least 18 of the 20 attacked images are flagged and at most 1 of the 20 clean ones."""
    result = pixeldefend("screen", EXAMPLES, "--format", "jsonl", "--picture", tmp_path / "demo.png")
    assert result.returncode == 1
    records = [json.loads(line) for line in result.stdout.splitlines()]
    clean = [record["verdict"] for record in records if Path(record["path"]).name.startswith("clean_")]
    attacked = [record["verdict"] for record in records if not Path(record["path"]).name.startswith("clean_")]
    assert len(clean) == len(attacked) == 20
    assert clean.count("adversarial") <= 1
    assert attacked.count("adversarial") >= 18
    assert Image.open(tmp_path / "demo.png").size[0] > 1000


def test_purify_writes_an_image_a_file_and_says_what_changed(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    out, picture = tmp_path / "purified", tmp_path / "sheet.png"
    image = next(EXAMPLES.glob("pgd*.png"))
    options = ("--eps", "4", "--classifier", "fashion-mnist", "--picture", str(picture))
    done = pixeldefend("purify", image, bad, "--out", out, *options)
    assert done.returncode == 2, done.stderr
    good, wrong = (json.loads(line) for line in done.stdout.splitlines())
    assert wrong["purified"] is None
    assert "not a PNG" in wrong["error"]
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (image, good["purified"]))
    assert 0 < np.abs(after - before).max() <= 4
    assert good["changed"] == pytest.approx((after != before).mean())
    assert good["bits_per_dim"][1] < good["bits_per_dim"][0]
    assert len(good["label"]) == 2
    assert Image.open(picture).width > 400


def test_purify_asks_the_classifier_where_the_score_does(tmp_path):
    score = ("--statistic", "purified_disagreement", "--classifier", "fashion-mnist", "--fpr", "0.1")
    with np.load(Path(__file__).parent / "data" / "fashion_mnist_test_500.npz") as file:
        np.savez(tmp_path / "few.npz", x=file["x"][:120])
    made = tmp_path / "detector.safetensors"
    done = pixeldefend("calibrate", "--density", "fashion-mnist", "--data", tmp_path / "few.npz", *score, "--out", made)
    assert done.returncode == 0, done.stderr
    image = next(EXAMPLES.glob("pgd*.png"))
    options = ("--out", tmp_path, "--eps", "4", "--detector", made, "--classifier", "fashion-mnist")
    done = pixeldefend("purify", image, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["p_value"][0] <= 1


def test_purify_refuses_a_bad_eps(tmp_path):
    image = next(EXAMPLES.glob("*.png"))
    refused("purify", image, "--out", tmp_path, "--eps", 300, says="whole number of 8-bit steps, 0 to 255, got 300")


def test_a_backend_screens_as_the_reference_does():
    files = sorted(EXAMPLES.glob("*.png"))[:6]
    verdicts = []
    for backend in ((), ("--backend", "openvino"), ("--backend", "bfloat16")):
        result = pixeldefend("screen", *files, "--format", "jsonl", *backend)
        assert result.returncode in (0, 1), result.stderr
        verdicts.append([json.loads(line)["verdict"] for line in result.stdout.splitlines()])
    assert len(verdicts[0]) == 6
    assert verdicts[0] == verdicts[1] == verdicts[2]
    refused("screen", files[0], "--backend", "quick", says="backend must be one of float32, bfloat16, openvino")
