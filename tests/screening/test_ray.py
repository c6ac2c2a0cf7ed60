"""Screening by Ray, in this machine's own processes."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import clean_images
from PIL import Image

from pixeldefend.errors import ParameterError, PixelDefendError
from pixeldefend.screening import Statistics, find_files, screen
from pixeldefend.screening.records import to_storable

pandas = pytest.importorskip("pandas")
ray = pytest.importorskip("ray")
from pyarrow.parquet import read_table  # noqa: E402

from pixeldefend.screening.ray import screen_on_ray  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_detector):
    folder = tmp_path_factory.mktemp("ray")
    tiny_detector.save(folder / "tiny.safetensors")
    (folder / "in" / "sub").mkdir(parents=True)
    random = np.random.RandomState(0)
    for i, image in enumerate([*clean_images(10), *random.randint(0, 256, (4, 8, 8)).astype(np.uint8)]):
        Image.fromarray(image).save(folder / "in" / ("sub" if i % 2 else "") / f"{i}.png")
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG no more than that")
    (folder / "in" / "empty.jpg").write_bytes(b"")
    (folder / "in" / "notes.txt").write_text("no image")
    return folder


def run(place, *sources, output, **options):
    return screen_on_ray(
        [str(place / source) for source in sources],
        place / output,
        detector=str(place / "tiny.safetensors"),
        workers=1,
        **options,
    )


def same_as_without_ray(sources, detector, output, statistics):
    """The rows that Ray has written are the records of the same screening without it, under absolute paths."""
    rows = read_table(output).to_pylist()
    alone = Statistics()
    files = find_files(sources, alone)
    expected = [result.record for result in screen(files, detector, statistics=alone)]
    path_of = {id(record): to_storable(str(Path(record.path).absolute())) for record in expected}
    assert sorted(row["path"] for row in rows) == sorted(path_of.values())
    assert (statistics.verdicts, statistics.errors) == (alone.verdicts, alone.errors)
    assert statistics.skipped == alone.skipped
    by_path = {row["path"]: row for row in rows}
    for record in expected:
        row = by_path[path_of[id(record)]]
        for name in ("verdict", "sha256", "detector", "error", "error_kind"):
            assert row[name] == getattr(record, name)
        if record.score is not None:
            np.testing.assert_allclose(row["score"], record.score, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def with_odd_names(place):
    """A folder with eight clean images under odd names, and links."""
    odd = place / "odd"
    (odd / "_in").mkdir(parents=True)
    names = [".a.png", "_b.png", "c?.png", "d%20#;.png", "e\nf.png", "g", os.fsdecode(b"\xff.png"), "h[1].png"]
    for i, name in enumerate(names):
        Image.fromarray(clean_images(1, seed=20 + i)[0]).save(odd / "_in" / name, "PNG")
    (odd / "_in" / "loop").symlink_to(odd)
    (odd / "link").symlink_to("_in")
    return "odd"


@pytest.fixture(scope="module")
def named_like_a_table(place):
    """An image, and a folder with an image, a table and a text, all of which are named like tables."""
    both = place / "both.parquet"
    both.mkdir()
    pandas.DataFrame({"image": [b""]}).to_parquet(both / "table.parquet")
    (both / "text.parquet").write_text("no table")
    for image in (both / "image.parquet", place / "image.parquet"):
        image.write_bytes((place / "in" / "0.png").read_bytes())
    return ["both.parquet", "image.parquet"]


@pytest.fixture(scope="module")
def named_like_a_url(place):
    """A pattern of local files that looks like a URL."""
    (place / "s3:").mkdir()
    (place / "s3:" / "a.png").write_bytes((place / "in" / "0.png").read_bytes())
    return "s3://*.png"


def test_the_same_records_as_without_it_and_a_run_goes_on(
    place, monkeypatch, with_odd_names, named_like_a_table, named_like_a_url
):
    """A run takes seconds, and so one run gets everything that is not a table."""
    monkeypatch.chdir(place)
    sources = ["in", with_odd_names, *named_like_a_table, named_like_a_url, "s3:/gone.png", "odd/*.jpg"]
    detector = str(place / "tiny.safetensors")

    def screen_all(statistics, **options):
        return screen_on_ray(sources, "out.parquet", detector=detector, workers=1, statistics=statistics, **options)

    statistics = Statistics()
    counts = screen_all(statistics)
    assert counts["error"] == 4
    assert sum(counts.values()) == 16 + 8 + 2 + 1 + 2
    assert statistics.errors.keys() >= {"unreadable", "nothing found"}
    assert {os.path.basename(path) for path in statistics.skipped["not an image"]} == {
        "notes.txt",
        "table.parquet",
        "text.parquet",
    }
    same_as_without_ray(sources, detector, "out.parquet", statistics)
    # it was cut off after 9 of the images, and something new has come: only what is missing is screened
    part = max((place / "out.parquet").glob("*.parquet"), key=lambda part: part.stat().st_size)
    rows = pandas.read_parquet(part)
    assert len(rows) == 28
    rows.iloc[:9].to_parquet(part)
    note = place / "out.parquet" / "_pixeldefend.json"
    note.write_text(note.read_text().replace('"precision"', '"arithmetic"'))  # as before 0.2
    Image.fromarray(clean_images(1, seed=9)[0]).save(place / "in" / "new.png")
    resumed = Statistics()
    assert sum(screen_all(resumed).values()) == 19 + 1
    assert (resumed.verdicts - statistics.verdicts).total() == 1, "the records that were there count"
    assert resumed.verdicts.total() == 30
    assert resumed.errors == statistics.errors
    paths = pandas.read_parquet(place / "out.parquet")["path"].tolist()
    assert len(paths) == len(set(paths)) == 30
    # another detector's verdicts do not go among these
    with pytest.raises(ParameterError, match="another --output"):
        screen_all(Statistics(), fpr=0.2)


def test_tables_with_a_column_of_images(place):
    files = [place / "in" / name for name in ("0.png", "2.png", "broken.png")]
    rows = [{"picture": {"bytes": file.read_bytes()}, "path": file.name} for file in files]
    pandas.DataFrame(rows).to_parquet(place / "table.parquet")
    counts = run(place, "table.parquet", output="from_table", column="picture")
    assert counts["error"] == 1
    assert sorted(pandas.read_parquet(place / "from_table")["path"]) == [file.name for file in files]
    with pytest.raises(ParameterError, match="'image'"):
        run(place, "table.parquet", output="from_table")


def test_images_without_names_that_come_twice_are_all_kept(place, named_like_a_table):
    """A folder of tables and the name of a table are tables, though no column is given."""
    (place / "unnamed").mkdir()
    data = (place / "in" / "0.png").read_bytes()
    pandas.DataFrame({"image": [data, data, data]}).to_parquet(place / "unnamed" / "part.parquet")
    assert run(place, "unnamed", "both.parquet/table.parquet", output="all") == {"clean": 3, "error": 1}
    assert len(pandas.read_parquet(place / "all")) == 4
    with pytest.raises(ParameterError, match="no column 'path'"):
        run(place, "unnamed", output="all", column="image")


def test_another_programs_parquet_is_not_added_to(place):
    (place / "others").mkdir()
    pandas.DataFrame({"a": [1]}).to_parquet(place / "others" / "part.parquet")
    with pytest.raises(ParameterError, match="did not write"):
        run(place, "in", output="others")
    assert len(list((place / "others").iterdir())) == 1


def test_wrong_arguments(place):
    with pytest.raises(ParameterError, match="nothing to screen"):
        run(place, output="x")
    with pytest.raises(PixelDefendError, match="1e-09"):
        run(place, "in", output="x", fpr=1e-9)
    pandas.DataFrame({"image": [b""]}).to_parquet(place / "some.parquet")
    with pytest.raises(ParameterError, match="all image files or all Parquet"):
        run(place, "in", "some.parquet", output="x")
    with pytest.raises(FileNotFoundError):
        run(place, "absent.parquet", output="x")
