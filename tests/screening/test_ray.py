"""Screening by Ray, in this machine's own processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from helpers import clean_images
from PIL import Image

from pixeldefend.screening import screen

pytest.importorskip("ray")
COMMAND = Path(sys.executable).parent / "pixeldefend"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_detector):
    folder = tmp_path_factory.mktemp("ray")
    tiny_detector.save(folder / "tiny.safetensors")
    (folder / "in" / "sub").mkdir(parents=True)
    random = np.random.RandomState(0)
    for i, image in enumerate([*clean_images(30), *random.randint(0, 256, (10, 8, 8)).astype(np.uint8)]):
        Image.fromarray(image).save(folder / "in" / ("sub" if i % 2 else "") / f"{i}.png")
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG no more than that")
    (folder / "in" / "empty.jpg").write_bytes(b"")
    return folder


def run(place, *arguments):
    command = [COMMAND, "screen", "--detector", "tiny.safetensors", "--engine", "ray", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment, timeout=240)


def test_the_same_records_as_without_it_and_a_run_goes_on(place):
    result = run(place, "in", "--output", "out.parquet")
    assert result.returncode == 2, result.stderr  # there are errors
    table = pandas.read_parquet(place / "out.parquet").set_index("path").sort_index()
    files = sorted(str(path) for path in (place / "in").rglob("*") if path.is_file())
    expected = {r.record.path: r.record for r in screen(files, str(place / "tiny.safetensors"))}
    assert list(table.index) == sorted(expected)
    for path, row in table.iterrows():
        record = expected[path]
        assert row["verdict"] == record.verdict
        assert row["sha256"] == record.sha256
        assert (row["error"] if isinstance(row["error"], str) else None) == record.error
        if record.score is not None:
            np.testing.assert_allclose(row["score"], record.score, rtol=1e-4, atol=1e-4)
    assert sum(table["verdict"] == "error") == 2
    # it was cut off after 20 rows, and something new has come: only what is missing is screened
    (part,) = (place / "out.parquet").glob("*.parquet")
    table.iloc[:20].reset_index().to_parquet(part)
    Image.fromarray(clean_images(1, seed=9)[0]).save(place / "in" / "new.png")
    result = run(place, "in", "--output", "out.parquet")
    assert "23 files" in result.stderr
    paths = pandas.read_parquet(place / "out.parquet")["path"].tolist()
    assert len(paths) == len(set(paths)) == 43
    # another detector's verdicts do not go among these
    result = run(place, "in", "--output", "out.parquet", "--fpr", "0.2")
    assert result.returncode == 2
    assert '"fpr": 0.05' in result.stderr
    assert '"fpr": 0.2' in result.stderr
    assert "another --output" in result.stderr


def test_tables_with_a_column_of_images(place):
    files = sorted((place / "in").glob("*.png"))
    rows = [{"picture": {"bytes": file.read_bytes()}, "path": file.name} for file in files]
    pandas.DataFrame(rows).to_parquet(place / "table.parquet")
    result = run(place, "table.parquet", "--column", "picture", "--output", "from_table")
    assert result.returncode == 2, result.stderr
    table = pandas.read_parquet(place / "from_table")
    assert sorted(table["path"]) == [file.name for file in files]


def test_images_without_names_that_come_twice_are_all_kept(place):
    (place / "unnamed").mkdir()
    data = (place / "in" / "0.png").read_bytes()
    pandas.DataFrame({"image": [data, data, data]}).to_parquet(place / "unnamed" / "part.parquet")
    folder = (place / "unnamed").as_uri()  # a folder at a URL is Parquet if there is a column to be read
    result = run(place, folder, "--column", "image", "--output", "all_three")
    assert result.returncode in (0, 1), result.stderr
    assert len(pandas.read_parquet(place / "all_three")) == 3
    again = run(place, folder, "--column", "image", "--output", "all_three")
    assert again.returncode == 2
    assert "no column 'path'" in again.stderr


def test_another_programs_parquet_is_not_added_to(place):
    (place / "others").mkdir()
    pandas.DataFrame({"a": [1]}).to_parquet(place / "others" / "part.parquet")
    result = run(place, "in", "--output", "others")
    assert result.returncode == 2
    assert "not of this command" in result.stderr
    assert len(list((place / "others").iterdir())) == 1


def test_wrong_arguments(place):
    for arguments, reason in [
        (["in"], "wants --output"),
        (["in", "--output", "x", "--format", "csv"], "no other output"),
        (["absent", "--output", "x"], "no file or folder"),
        (["in", "--output", "x", "--fpr", "1e-9"], "1e-09"),
    ]:
        result = run(place, *arguments)
        assert result.returncode == 2
        assert reason in result.stderr, result.stderr
