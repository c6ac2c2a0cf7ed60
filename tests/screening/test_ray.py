"""Screening by Ray, in this machine's own processes."""

import os

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

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)  # one scores, one reads
    yield
    ray.shutdown()


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


def same_as_without_ray(place, source, output, statistics):
    """The rows that Ray has written are the records of the same screening without it."""
    rows = read_table(place / output).to_pylist()
    alone = Statistics()
    files = find_files([str(place / source)], alone)
    expected = [result.record for result in screen(files, str(place / "tiny.safetensors"), statistics=alone)]
    assert sorted(row["path"] for row in rows) == sorted(to_storable(record.path) for record in expected)
    assert (statistics.verdicts, statistics.errors) == (alone.verdicts, alone.errors)
    assert statistics.skipped == alone.skipped
    by_path = {row["path"]: row for row in rows}
    for record in expected:
        row = by_path[to_storable(record.path)]
        for name in ("verdict", "sha256", "detector", "error", "error_kind"):
            assert row[name] == getattr(record, name)
        if record.score is not None:
            np.testing.assert_allclose(row["score"], record.score, rtol=1e-4, atol=1e-4)


def test_the_same_records_as_without_it_and_a_run_goes_on(place):
    statistics = Statistics()
    counts = run(place, "in", output="out.parquet", statistics=statistics)
    assert counts["error"] == 2
    assert sum(counts.values()) == 16
    same_as_without_ray(place, "in", "out.parquet", statistics)
    # it was cut off after 9 rows, and something new has come: only what is missing is screened
    (part,) = (place / "out.parquet").glob("*.parquet")
    pandas.read_parquet(part).iloc[:9].to_parquet(part)
    note = place / "out.parquet" / "_pixeldefend.json"
    note.write_text(note.read_text().replace('"precision"', '"arithmetic"'))  # as before 0.2
    Image.fromarray(clean_images(1, seed=9)[0]).save(place / "in" / "new.png")
    resumed = Statistics()
    assert sum(run(place, "in", output="out.parquet", statistics=resumed).values()) == 8
    assert (resumed.verdicts - statistics.verdicts).total() == 1, "the records that were there count"
    assert resumed.verdicts.total() == 17
    assert resumed.errors == statistics.errors
    paths = pandas.read_parquet(place / "out.parquet")["path"].tolist()
    assert len(paths) == len(set(paths)) == 17
    # another detector's verdicts do not go among these
    with pytest.raises(ParameterError, match="another --output"):
        run(place, "in", output="out.parquet", fpr=0.2)


def test_odd_names_links_and_what_is_missing(place):
    odd = place / "odd"
    names = [".a.png", "_b.png", "c?.png", "d%20#;.png", "e\nf.png", "g", os.fsdecode(b"\xff.png"), "h[1].png"]
    for i, name in enumerate(names):
        (odd / "_in").mkdir(parents=True, exist_ok=True)
        Image.fromarray(clean_images(1, seed=20 + i)[0]).save(odd / "_in" / name, "PNG")
    (odd / "_in" / "loop").symlink_to(odd)
    (odd / "link").symlink_to("_in")
    statistics = Statistics()
    assert run(place, "odd", output="odd.parquet", statistics=statistics).keys() <= {"clean", "adversarial"}
    same_as_without_ray(place, "odd", "odd.parquet", statistics)
    assert run(place, "odd/*.jpg", "gone.png", output="gone.parquet") == {"error": 2}
    assert set(pandas.read_parquet(place / "gone.parquet")["error_kind"]) == {"nothing found", "unreadable"}
    assert run(place, "odd/*.jpg", "gone.png", output="gone.parquet") == {}


def test_tables_with_a_column_of_images(place):
    files = sorted((place / "in").glob("*.png"))
    rows = [{"picture": {"bytes": file.read_bytes()}, "path": file.name} for file in files]
    pandas.DataFrame(rows).to_parquet(place / "table.parquet")
    counts = run(place, "table.parquet", output="from_table", column="picture")
    assert counts["error"] == 1
    assert sorted(pandas.read_parquet(place / "from_table")["path"]) == [file.name for file in files]
    with pytest.raises(ParameterError, match="'image'"):
        run(place, "table.parquet", output="from_table")


def test_images_beside_tables_are_screened_and_a_name_does_not_make_a_table(place):
    both = place / "both.parquet"
    both.mkdir()
    pandas.DataFrame({"image": [b""]}).to_parquet(both / "table.parquet")
    image = (place / "in" / "0.png").read_bytes()
    (both / "image.parquet").write_bytes(image)
    (both / "text.parquet").write_text("no table")
    statistics = Statistics()
    assert run(place, "both.parquet", output="from_both", statistics=statistics) == {"clean": 1}
    same_as_without_ray(place, "both.parquet", "from_both", statistics)
    assert sorted(os.path.basename(path) for path in statistics.skipped["not an image"]) == [
        "table.parquet",
        "text.parquet",
    ]
    assert run(place, "both.parquet/image.parquet", output="named") == {"clean": 1}
    assert run(place, "both.parquet/table.parquet", output="table") == {"error": 1}


def test_a_local_folder_may_be_named_like_the_scheme_of_a_url(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "s3:").mkdir()
    (place / "s3:" / "a.png").write_bytes((place / "in" / "0.png").read_bytes())
    options = {"detector": str(place / "tiny.safetensors"), "workers": 1}
    assert screen_on_ray(["s3://*.png", "s3:/gone.png"], place / "named_s3", **options) == {"clean": 1, "error": 1}


def test_images_without_names_that_come_twice_are_all_kept(place):
    (place / "unnamed").mkdir()
    data = (place / "in" / "0.png").read_bytes()
    pandas.DataFrame({"image": [data, data, data]}).to_parquet(place / "unnamed" / "part.parquet")
    assert run(place, "unnamed", output="all_three", column="image") == {"clean": 3}
    assert len(pandas.read_parquet(place / "all_three")) == 3
    with pytest.raises(ParameterError, match="no column 'path'"):
        run(place, "unnamed", output="all_three", column="image")


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
    with pytest.raises(ParameterError, match="all image files or all Parquet"):
        run(place, "in", "table.parquet", output="x")
    with pytest.raises(FileNotFoundError):
        run(place, "absent.parquet", output="x")
