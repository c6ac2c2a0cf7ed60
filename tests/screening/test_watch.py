import errno
import json
import os
import queue
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import READS_EVERYTHING, clean_images, needs_closed_files
from PIL import Image

from pixeldefend.errors import ParameterError, PixelDefendError
from pixeldefend.screening import Screener, find_files
from pixeldefend.screening import watch as watching
from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.screening.watch import watch_folder
from pixeldefend.serialization import sha256_of


@pytest.fixture
def place(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path


def put(folder: Path, name: str, image: np.ndarray) -> Path:
    Image.fromarray(image).save(folder / name)
    return folder / name


def noise(seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (8, 8)).astype(np.uint8)


def once(place, detector, **options):
    log = AuditLog(place / "log.sqlite")
    try:
        return list(watch_folder(place / "in", log, detector=detector, once=True, settle=0.05, **options))
    finally:
        log.close()


def test_one_screener_serves_all_searches(place, tiny_detector, monkeypatch):
    made = []
    monkeypatch.setattr(watching, "Screener", lambda *a, **k: made.append(Screener(*a, **k)) or made[-1])
    put(place / "in", "a.png", noise(1))
    assert len(once(place, tiny_detector)) == 1
    assert len(made) == 1


@pytest.fixture
def scored(monkeypatch):
    """Names of files that were scored."""
    names, judge = [], Screener.judge

    def watched(self, results, **options):
        names.extend(Path(result.record.path).name for result in results)
        judge(self, results, **options)

    monkeypatch.setattr(Screener, "judge", watched)
    return names


def test_once_ends_though_files_go_on_changing(place, tiny_detector):
    put(place / "in", "growing.png", clean_images(1)[0])
    stopped = threading.Event()

    def grow():
        while not stopped.wait(0.01):
            for name in ("growing.png", "app.log"):
                with (place / "in" / name).open("ab") as file:
                    file.write(b"more")

    growing = threading.Thread(target=grow)
    growing.start()
    try:
        (record,) = once(place, tiny_detector)
    finally:
        stopped.set()
        growing.join()
    assert record.path.endswith("growing.png")


def test_each_content_is_screened_once_across_restarts(place, tiny_detector, scored):
    put(place / "in", "a.png", clean_images(1)[0])
    (place / "in" / "sub").mkdir()
    put(place / "in" / "sub", "b.png", noise())
    (place / "in" / "broken.png").write_bytes(b"")
    (place / "in" / "notes.txt").write_text("no image")
    found = {Path(record.path).name: record.verdict for record in once(place, tiny_detector)}
    assert found == {"a.png": "clean", "b.png": "adversarial", "broken.png": "error"}
    assert once(place, tiny_detector) == []
    put(place / "in", "a.png", noise(1))  # another content under the same name
    put(place / "in", "c.png", clean_images(1)[0])  # the same content under another
    found = {Path(record.path).name: record.verdict for record in once(place, tiny_detector)}
    assert found == {"a.png": "adversarial", "c.png": "clean"}
    assert AuditLog(place / "log.sqlite").count() == 5
    assert sorted(scored) == ["a.png", "a.png", "b.png", "broken.png"]


def test_copies_share_a_verdict_and_are_moved_like_the_first(place, tiny_detector, scored):
    for name in ("a.png", "b.png"):
        put(place / "in", name, noise())
    records = once(place, tiny_detector, quarantine=place / "out")
    put(place / "in", "c.png", noise())
    records += once(place, tiny_detector, quarantine=place / "out")
    assert [Path(record.path).name for record in records] == ["a.png", "b.png", "c.png"]
    assert {(r.verdict, r.score, r.p_value, r.sha256, r.error) for r in records} == {
        ("adversarial", records[0].score, records[0].p_value, records[0].sha256, None)
    }
    assert scored == ["a.png"]
    assert sorted(path.name[:2] for path in (place / "out").iterdir()) == ["a-", "b-", "c-"]
    assert not list((place / "in").iterdir())
    rows = list(AuditLog(place / "log.sqlite").rows())
    assert len({row["id"] for row in rows}) == 3
    assert {(row["verdict"], row["precision"]) for row in rows} == {("adversarial", "float32")}


def test_what_is_no_file_is_passed_over(place, tiny_detector):
    os.mkfifo(place / "in" / "pipe.png")  # nobody writes into it: to open it would last for ever
    (place / "in" / "folder.png").mkdir()
    put(place / "in", "a.png", clean_images(1)[0])
    assert [Path(record.path).name for record in once(place, tiny_detector)] == ["a.png"]


def test_flagged_files_are_moved_and_kept_whole(place, tiny_detector):
    data = put(place / "in", "b.png", noise()).read_bytes()
    put(place / "in", "a.png", clean_images(1)[0])
    once(place, tiny_detector, quarantine=place / "out")
    assert [path.name for path in (place / "in").iterdir()] == ["a.png"]
    (moved,) = (place / "out").iterdir()
    assert moved.name.startswith("b-")
    assert moved.read_bytes() == data


def test_what_was_judged_but_not_yet_moved_is_moved_after_a_restart(place, tiny_detector):
    put(place / "in", "b.png", noise())
    once(place, tiny_detector)  # judged, and killed before it was moved
    assert once(place, tiny_detector, quarantine=place / "out") == []
    assert not list((place / "in").iterdir())
    assert len(list((place / "out").iterdir())) == 1


class Clock:
    """Stands in for `time`, and for the event that ends a watch: to wait for it takes no time, and does something."""

    def __init__(self, while_waiting):
        self.now, self.while_waiting = 0.0, while_waiting

    def monotonic(self):
        return self.now

    def time(self):
        return time.time()

    def is_set(self):
        return False

    def wait(self, seconds):
        self.now += 400
        self.while_waiting()


def test_a_file_is_read_when_it_is_complete(place, tiny_detector, monkeypatch):
    data = put(place, "whole.png", clean_images(1)[0]).read_bytes()
    pieces = [data[i : i + len(data) // 6 + 1] for i in range(0, len(data), len(data) // 6 + 1)]
    coming = iter(pieces)

    def write_on():
        with open(place / "in" / "a.png", "ab") as file:
            file.write(next(coming, b""))

    write_on()
    clock = Clock(write_on)
    monkeypatch.setattr(watching, "time", clock)
    log = AuditLog(place / "log.sqlite")
    (record,) = watch_folder(place / "in", log, detector=tiny_detector, settle=1000, once=True, stop=clock)
    assert record.verdict == "clean"
    assert clock.now > 400 * len(pieces)
    assert log.count() == 1


def test_what_changes_is_looked_at_and_nothing_else(place, tiny_detector, monkeypatch):
    searched = []
    monkeypatch.setattr(
        watching, "find_files", lambda places, *more: searched.extend(places) or find_files(places, *more)
    )
    image = clean_images(4)
    for i in range(2):
        put(place / "in", f"{i}.png", image[i])
    stop = threading.Event()
    log = AuditLog(place / "log.sqlite")
    records = watch_folder(place / "in", log, detector=tiny_detector, settle=0.1, stop=stop)
    assert {Path(next(records).path).name for _ in range(2)} == {"0.png", "1.png"}
    assert searched == [str(place / "in")]
    (place / "come" / "sub").mkdir(parents=True)
    put(place / "come" / "sub", "2.png", image[2])
    os.replace(place / "come", place / "in" / "come")  # a folder with something in it
    assert Path(next(records).path).name == "2.png"
    unreadable = put(place, "3.png", image[3])
    unreadable.chmod(0)
    os.replace(unreadable, place / "in" / "3.png")
    record = next(records)
    if not READS_EVERYTHING:
        assert record.error_kind == "unreadable"
        (place / "in" / "3.png").chmod(0o644)
        record = next(records)
    assert record.verdict == "clean"
    assert searched.count(str(place / "in")) == 1
    stop.set()
    assert list(records) == []


def test_the_same_files_are_found_as_by_a_search(place, tiny_detector):
    names = [".a.png", "_b.png", "c?.png", "d%20#;.png", "e\nf.png", "g", os.fsdecode(b"\xff.png"), "h[1].png"]
    (place / "in" / "_sub").mkdir()
    for i, name in enumerate(names):
        Image.fromarray(clean_images(1, seed=20 + i)[0]).save(place / "in" / "_sub" / name, "PNG")
    (place / "in" / "_sub" / "loop").symlink_to(place / "in")
    (place / "in" / "alias").symlink_to("_sub")
    (place / "in" / "notes.txt").write_text("no image")
    found = [record.path for record in once(place, tiny_detector)]
    assert found == list(find_files([str(place / "in")]))
    assert len(found) == len(names)


def test_a_link_to_the_quarantine_brings_nothing_back(place, tiny_detector):
    put(place / "in", "b.png", noise())
    (place / "out").mkdir()
    (place / "in" / "link").symlink_to(place / "out")
    for count in (1, 0):
        assert len(once(place, tiny_detector, quarantine=place / "out")) == count
        assert len(list((place / "out").iterdir())) == 1


def test_a_flagged_file_that_cannot_be_moved_is_an_error_until_it_is(place, tiny_detector):
    path = put(place / "in", "b.png", noise())
    in_the_way = place / "out" / f"b-{sha256_of(path)[:8]}.png"
    in_the_way.mkdir(parents=True)
    for _ in range(2):  # judged now, and known after a restart
        (record,) = once(place, tiny_detector, quarantine=place / "out")
        assert (record.verdict, record.error_kind) == ("adversarial", "quarantine")
        assert path.exists()
    in_the_way.rmdir()
    assert once(place, tiny_detector, quarantine=place / "out") == []
    assert in_the_way.is_file()
    assert not path.exists()


def test_a_flagged_file_of_any_name_is_moved(place, tiny_detector):
    for i, name in enumerate(("漢" * 80 + ".png", "x" * 250 + ".png"[:4], os.fsdecode(b"\xff" * 200))):
        Image.fromarray(noise(i)).save(place / "in" / name, "PNG")
    assert {record.error for record in once(place, tiny_detector, quarantine=place / "out")} == {None}
    assert len(list((place / "out").iterdir())) == 3


def test_equal_names_do_not_replace_one_another(place, tiny_detector):
    for folder in ("a", "b"):
        (place / "in" / folder).mkdir()
        put(place / "in" / folder, "x.png", noise())
    digest = sha256_of(place / "in" / "a" / "x.png")[:8]
    (place / "out").mkdir()
    (place / "out" / f"x-{digest}.png").write_text("what somebody has put there")
    (place / "out" / f"x-{digest}-2.png").symlink_to("nowhere")
    assert {record.error for record in once(place, tiny_detector, quarantine=place / "out")} == {None}
    assert (place / "out" / f"x-{digest}.png").read_text() == "what somebody has put there"
    kept = {path.name for path in (place / "out").iterdir()}
    assert kept == {f"x-{digest}{number}.png" for number in ("", "-2", "-3", "-4")}


@pytest.fixture
def another_file_system(monkeypatch):
    """Renaming from one folder to another fails, as between file systems."""
    replace = os.replace

    def within(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", within)


def test_a_quarantine_on_another_file_system_gets_whole_files(place, tiny_detector, another_file_system, monkeypatch):
    path = put(place / "in", "x" * 251 + ".png", noise())
    data = path.read_bytes()

    def half(source, target):
        target.write(data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", half)
        (record,) = once(place, tiny_detector, quarantine=place / "out")
    assert (record.verdict, record.error_kind, path.read_bytes()) == ("adversarial", "quarantine", data)
    assert list((place / "out").iterdir()) == []
    assert once(place, tiny_detector, quarantine=place / "out") == []
    (moved,) = (place / "out").iterdir()
    assert moved.read_bytes() == data
    assert not path.exists()


def test_what_cannot_be_removed_is_not_moved(place, tiny_detector, another_file_system, monkeypatch):
    path = put(place / "in", "b.png", noise())
    unlink = Path.unlink

    def refused(file, missing_ok=False):
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        unlink(file, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    for _ in range(2):
        (record,) = once(place, tiny_detector, quarantine=place / "out")
        assert (record.verdict, record.error_kind) == ("adversarial", "quarantine")
        assert "Permission denied" in record.error
        assert path.exists()
        assert list((place / "out").iterdir()) == []


def test_a_quarantine_that_is_gone_is_made_again(place, tiny_detector):
    log, stop = AuditLog(place / "log.sqlite"), threading.Event()
    for i in range(2):
        put(place / "in", f"{i}.png", noise(i))
    records = watch_folder(
        place / "in", log, detector=tiny_detector, quarantine=place / "out", settle=0.05, once=True, stop=stop
    )
    assert next(records).error is None
    shutil.rmtree(place / "out")
    assert next(records).error is None
    assert [path.name[:2] for path in (place / "out").iterdir()] == ["1-"]
    log.close()


def test_a_link_to_a_flagged_image_leaves_its_bytes_in_the_quarantine(place, tiny_detector):
    data = put(place, "elsewhere.png", noise()).read_bytes()
    (place / "in" / "link.png").symlink_to("../elsewhere.png")
    (record,) = once(place, tiny_detector, quarantine=place / "out")
    assert (record.verdict, record.error) == ("adversarial", None)
    (moved,) = (place / "out").iterdir()
    assert moved.read_bytes() == data
    assert not moved.is_symlink()
    assert not list((place / "in").iterdir())


def watching_process(programs, place, *options):
    """Returns a process that watches a folder, and what it writes."""
    reading, writing = os.pipe()
    with open(writing, "wb") as stdout:
        command = ["watch", "in", "--detector", "tiny.safetensors", *options]
        process = programs.start(*command, folder=place, stdout=stdout, stderr="err")
    return process, open(reading)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_well_when_told_to_stop(place, tiny_detector, programs, number):
    tiny_detector.save(place / "tiny.safetensors")
    put(place / "in", "a.png", clean_images(1)[0])
    process, said = watching_process(programs, place, "--settle", "0.1")
    with said:
        assert json.loads(said.readline())["verdict"] == "clean"
        process.send_signal(number)
        assert process.wait(30) == 0
        assert said.read() == (place / "err").read_text() == ""


def test_wrong_arguments(place, tiny_detector):
    log = AuditLog(place / "log.sqlite")
    with pytest.raises(FileNotFoundError, match="no folder"):
        next(watch_folder(place / "absent", log, detector=tiny_detector))
    with pytest.raises(ParameterError, match="quarantine"):
        next(watch_folder(place / "in", log, detector=tiny_detector, quarantine=place / "in" / "q"))
    with pytest.raises(PixelDefendError, match="1e-06"):
        next(watch_folder(place / "in", log, detector=tiny_detector, fpr=1e-6))


def test_killed_again_and_again_nothing_is_missed_and_nothing_done_twice(place, tiny_detector, programs):
    tiny_detector.save(place / "tiny.safetensors")
    contents = [*clean_images(30), *(noise(i) for i in range(10))]
    options = ["--quarantine", "out", "--settle", "0.05"]
    for before_the_kill, start in enumerate(range(0, 40, 10), 1):
        for i, image in enumerate(contents[start : start + 10], start):
            put(place / "in", f"{i}.png", image)
        process, said = watching_process(programs, place, *options)
        with said:
            for _ in range(before_the_kill):
                assert json.loads(said.readline())["verdict"] in ("clean", "adversarial")
            process.kill()
            process.wait()
    run = programs.run("watch", "in", "--detector", "tiny.safetensors", *options, "--once", folder=place)
    assert run.returncode == 0, run.stderr
    rows = list(AuditLog(place / "pixeldefend-log.sqlite").rows())
    assert sorted(int(Path(row["path"]).stem) for row in rows) == list(range(40))
    flagged = {Path(row["path"]).stem for row in rows if row["verdict"] == "adversarial"}
    assert {path.name.rsplit("-", 1)[0] for path in (place / "out").iterdir()} == flagged
    assert len(list((place / "in").iterdir())) == 40 - len(flagged)


# -- what happens to the folder ----------------------------------------------------------------------------------------


class Watch:
    """A watch in a thread, which ends with the block."""

    def __init__(self, folder, log, detector, **options):
        self.records, self.stop = queue.Queue(), threading.Event()
        options |= {"detector": detector, "stop": self.stop, "settle": 0.1}
        self.thread = threading.Thread(target=self.run, args=[folder, log], kwargs=options)

    def run(self, folder, log, **options):
        try:
            for record in watch_folder(folder, log, **options):
                self.records.put(record)
        except BaseException as error:
            self.records.put(error)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.stop.set()
        self.thread.join()

    def gives(self, *names):
        """The next records are of these files."""
        found = [self.records.get(timeout=30) for _ in names]
        assert {os.path.basename(record.path) for record in found} == set(names)
        assert {record.error for record in found} == {None}
        return found


def until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


@pytest.fixture
def watched(place, tiny_detector):
    log = AuditLog(place / "log.sqlite")
    with Watch(place / "in", log, tiny_detector) as watch:
        put(place / "in", "first.png", clean_images(1, seed=50)[0])
        watch.gives("first.png")
        yield watch
    log.close()


def remove(folder, place):
    shutil.rmtree(folder)


def move_away(folder, place):
    os.replace(folder, place / "away")


@pytest.mark.parametrize("go", [remove, move_away])
def test_a_folder_that_is_made_again_is_watched_again(place, watched, caplog, go):
    images = iter(clean_images(9, seed=60))
    go(place / "in", place)
    until(lambda: "is gone" in caplog.text)
    (place / "in").mkdir()
    put(place / "in", "a.png", next(images))  # perhaps before it is seen
    watched.gives("a.png")
    put(place / "in", "b.png", next(images))
    watched.gives("b.png")
    assert [record.getMessage() for record in caplog.records if record.name == "pixeldefend"] == [
        f"the watched folder {place / 'in'} is gone: waiting for a folder of this name",
        f"the watched folder {place / 'in'} is back, and watched again",
    ]
    for name in ("c.png", "d.png"):  # at once, where the new folder may get the number of the old one
        shutil.rmtree(place / "in")
        (place / "in").mkdir()
        put(place / "in", name, next(images))
        watched.gives(name)
        put(place / "in", f"_{name}", next(images))
        watched.gives(f"_{name}")


def test_a_folder_that_becomes_a_link_or_a_file_is_followed(place, watched):
    images = iter(clean_images(9, seed=70))
    (place / "other").mkdir()
    put(place / "other", "a.png", next(images))
    shutil.rmtree(place / "in")
    (place / "in").symlink_to("other")
    watched.gives("a.png")
    put(place / "in", "b.png", next(images))
    watched.gives("b.png")
    (place / "in").unlink()
    (place / "in").write_text("no folder")
    (place / "third").mkdir()
    (place / "in").unlink()
    (place / "in").symlink_to("third")  # and to another folder
    put(place / "third", "c.png", next(images))
    watched.gives("c.png")


def test_folders_inside_that_are_made_again_or_become_links_are_followed(place, watched):
    images = iter(clean_images(9, seed=80))
    for name in ("a.png", "b.png"):
        (place / "in" / "sub" / "deep").mkdir(parents=True)
        put(place / "in" / "sub" / "deep", name, next(images))
        watched.gives(name)
        shutil.rmtree(place / "in" / "sub")
    (place / "other").mkdir()
    (place / "in" / "sub").symlink_to("../other")
    put(place / "other", "c.png", next(images))
    watched.gives("c.png")
    put(place / "other", "d.png", next(images))
    watched.gives("d.png")


def test_names_that_are_no_unicode_are_found_at_once(place, watched, tiny_detector):
    images = clean_images(4, seed=90)
    for i, name in enumerate([os.fsdecode(b"\xff.png"), "a.png"]):
        Image.fromarray(images[i]).save(place / "in" / name)
        watched.gives(name)
    odd = place / os.fsdecode(b"\xfe")
    odd.mkdir()
    log = AuditLog(place / "another.sqlite")
    with Watch(odd, log, tiny_detector) as watch:
        for i, name in enumerate(["b.png", "c.png"]):
            put(odd, name, images[i])
            watch.gives(name)
    log.close()


def test_files_that_change_while_they_are_read_give_a_record_or_none(place, watched, monkeypatch):
    image, other = clean_images(2, seed=95)
    read = Screener.read_file
    changes = {
        "gone.png": lambda path: path.unlink(),
        "cut.png": lambda path: os.truncate(path, 40),
        "replaced.png": lambda path: put(path.parent, path.name, other),
    }

    def changed(self, path):
        changes.pop(Path(path).name, lambda path: None)(Path(path))
        return read(self, path)

    monkeypatch.setattr(Screener, "read_file", changed)
    put(place / "in", "gone.png", image)
    assert watched.records.get(timeout=30).error_kind == "unreadable"
    put(place / "in", "cut.png", noise(96))
    assert watched.records.get(timeout=30).error_kind == "damaged"
    put(place / "in", "replaced.png", noise(97))
    (record,) = watched.gives("replaced.png")
    assert record.sha256 == sha256_of(place / "in" / "replaced.png")


# -- what is skipped or cannot be read ---------------------------------------------------------------------------------


def test_what_is_skipped_is_told_once(place, tiny_detector):
    skipped = []
    (place / "in" / "notes.txt").write_text("no image")
    (place / "in" / "loop").symlink_to(".")
    (place / "in" / "broken").symlink_to("nowhere")
    os.mkfifo(place / "in" / "pipe.png")
    log = AuditLog(place / "log.sqlite")
    with Watch(place / "in", log, tiny_detector, on_skip=lambda *what: skipped.append(what)) as watch:
        until(lambda: len(skipped) == 4)
        (place / "in" / "notes.txt").write_text("more of it")
        (place / "in" / "later.tmp").write_text("an image later")
        until(lambda: len(skipped) == 5)
        put(place / "in", "later.png", clean_images(1)[0])
        os.replace(place / "in" / "later.png", place / "in" / "later.tmp")
        assert watch.records.get(timeout=30).verdict == "clean"
    assert {(Path(path).name, reason) for path, reason in skipped} == {
        ("notes.txt", "not an image"),
        ("loop", "repeated folder"),
        ("broken", "broken link"),
        ("pipe.png", "not a file"),
        ("later.tmp", "not an image"),
    }
    assert len(skipped) == 5
    log.close()


@needs_closed_files
def test_what_cannot_be_read_has_a_record_in_every_run_and_one_row(place, tiny_detector, monkeypatch):
    monkeypatch.setattr(watching, "FULL_SEARCH_INTERVAL", 0.1)
    put(place / "in", "closed.png", clean_images(1)[0]).chmod(0)
    (place / "in" / "shut").mkdir(0)
    for _ in range(2):
        records = once(place, tiny_detector)
        assert {(Path(record.path).name, record.error_kind) for record in records} == {
            ("closed.png", "unreadable"),
            ("shut", "unreadable"),
        }
        assert len(records) == 2
    log = AuditLog(place / "log.sqlite")
    assert log.count() == 2
    with Watch(place / "in", log, tiny_detector) as watch:
        assert {watch.records.get(timeout=30).error_kind for _ in range(2)} == {"unreadable"}
        (place / "in" / "shut").chmod(0o700)
        put(place / "in" / "shut", "a.png", clean_images(2)[1])
        watch.gives("a.png")
        (place / "in" / "shut").chmod(0)
        assert watch.records.get(timeout=30).path == str(place / "in" / "shut")
        assert watch.records.empty()
        (place / "in" / "shut").chmod(0o700)
    log.close()
