"""Every engine finds the same files in the same tree, and gives the same records."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from trees import TREES, grown

from pixeldefend.screening import Statistics, find_files, screen
from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.screening.ray import find_absolute
from pixeldefend.screening.records import to_storable
from pixeldefend.screening.watch import watch_folder

# ways to name a tree, whose root and whose folder "a" are given
WAYS = {
    "folder": lambda root: [root],
    "trailing slash": lambda root: [f"{root}//"],
    "relative": lambda root: [os.path.relpath(root)],
    "twice": lambda root: [root, root],
    "overlapping": lambda root: [root, f"{root}/a", f"{root}/b.png"],
    "by a link": lambda root: [f"{root.parent}/link"],
    "through a link": lambda root: [f"{root.parent}/deep/../root"],
    "pattern": lambda root: [f"{root}/*"],
    "relative pattern": lambda root: [f"{os.path.relpath(root)}/*.png"],
    "all folders": lambda root: [f"{root}/**/*.png"],
    "folders only": lambda root: [f"{root}/*/"],
}


def sources(root: Path, way: str) -> list[str]:
    for name, target in (("link", "root"), ("deep", "outside/deep")):
        if not os.path.lexists(root.parent / name):
            (root.parent / name).symlink_to(target)
    return [str(source) for source in WAYS[way](root)]


def locally(listed, detector):
    statistics = Statistics()
    found = find_files(listed, statistics)
    return [result.record for result in screen(found, detector, statistics=statistics)], statistics


def assert_same(given, expected):
    """Compares records in any order. Scores depend a little on the other images of a batch."""

    def order(record):
        return record.path, record.sha256 or "", record.error or ""

    given, expected = (sorted(records, key=order) for records in (given, expected))
    assert [record.path for record in given] == [record.path for record in expected]
    for one, other in zip(given, expected, strict=True):
        for name, value in asdict(other).items():
            assert getattr(one, name) == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES, st.sampled_from(list(WAYS)))
def test_ray_lists_the_same_files(tmp_path_factory, monkeypatch, tree, way):
    here = tmp_path_factory.mktemp("a[1]*?")
    with grown(here, tree) as root, monkeypatch.context() as patch:
        patch.chdir(here)
        listed = sources(root, way)
        local, on_ray = Statistics(), Statistics()
        expected = list(find_files(listed, local))
        found = list(find_absolute(listed, on_ray))
        assert on_ray.skipped == local.skipped
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert type(one) is type(other)
            path, given = (one, other) if isinstance(one, str) else (one.path, other.path)
            assert os.path.isabs(path)
            assert os.path.join(os.getcwd(), os.path.normpath(given)) == os.path.normpath(path) or ".." in given
            if isinstance(one, str) and os.path.exists(one):
                assert os.path.samefile(one, other)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
@example([(["pipe.png"], "pipe"), (["gone.png"], "link to nothing"), (["x"], "closed file"), (["y"], "closed folder")])
def test_a_watched_folder_gives_the_same_records(tmp_path_factory, tiny_detector, tree):
    here = tmp_path_factory.mktemp("watched")
    with grown(here / "in", tree) as root:
        expected, local = locally([str(root)], tiny_detector)
        watched = Statistics()
        log = AuditLog(here / "log.sqlite")
        found = watch_folder(root, log, detector=tiny_detector, once=True, settle=0, on_skip=watched.skip)
        records = list(found)
        assert_same(records, [record for record in expected if record.error_kind != "nothing found"])
        assert {reason: sorted(paths) for reason, paths in watched.skipped.items()} == {
            reason: sorted(paths) for reason, paths in local.skipped.items()
        }
        assert log.count() == len(records)
        log.close()


@pytest.mark.slow
@settings(max_examples=2, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TREES, st.sampled_from(list(WAYS))), min_size=12, max_size=20))
def test_ray_gives_the_same_records(tmp_path_factory, monkeypatch, ray_cluster, detector_file, trees):
    """Each run takes seconds, so it screens many trees. The first example has the simplest trees, which are empty."""
    from contextlib import ExitStack

    from pyarrow.parquet import read_table

    from pixeldefend.screening import Record
    from pixeldefend.screening.ray import screen_on_ray

    here = tmp_path_factory.mktemp("a[1]*?")
    with ExitStack() as stack, monkeypatch.context() as patch:
        patch.chdir(here)
        listed = []
        for i, (tree, way) in enumerate(trees):
            (here / str(i)).mkdir()
            listed += sources(stack.enter_context(grown(here / str(i), tree)), way)
        expected, local = locally(listed, detector_file)
        on_ray = Statistics()
        screen_on_ray(listed, here / "out", detector=detector_file, workers=1, statistics=on_ray)
        records = [Record(**row) for row in read_table(here / "out").to_pylist()]
        absolute = [
            replace(record, path=to_storable(str(Path(record.path).absolute())), error=to_storable(record.error))
            for record in expected
        ]
        assert_same(records, absolute)
        assert (on_ray.verdicts, on_ray.errors) == (local.verdicts, local.errors)
        assert (on_ray.skipped, on_ray.summary()) == (local.skipped, local.summary())


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory, tiny_detector):
    path = tmp_path_factory.mktemp("detector") / "tiny.safetensors"
    tiny_detector.save(path)
    return str(path)
