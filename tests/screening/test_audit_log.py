import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from helpers import clean_images
from typer.testing import CliRunner

from pixeldefend import Detector
from pixeldefend.cli.main import app
from pixeldefend.errors import CalibrationError, ParameterError
from pixeldefend.screening import audit_log
from pixeldefend.screening.audit_log import VERSION, AuditLog
from pixeldefend.screening.feedback import confirmed_clean
from pixeldefend.screening.records import LOG_COLUMNS, row_writer
from pixeldefend.serialization import sha256_of

ROW = dict(path="a.png", verdict="clean", p_value=0.5, score=1.0, sha256="ab", detector="tiny")
ROW |= dict(detector_sha256="d", precision="float32")


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "log.sqlite")


def test_rows_come_back_as_they_were_the_newest_first(log):
    first, second = log.add([ROW, {**ROW, "verdict": "error", "error": "broken", "score": None}], source="serve")
    (third,) = log.add([{**ROW, "client": "shop", "verdict": "adversarial"}], source="watch")
    assert [row["id"] for row in log.rows()] == [third, second, first]
    assert [row["id"] for row in log.rows(verdict="error")] == [second]
    assert [row["id"] for row in log.rows(client="shop")] == [third]
    assert [row["id"] for row in log.rows(limit=1)] == [third]
    assert list(log.rows(since=time.time() + 10)) == []
    row = list(log.rows())[-1]
    assert list(row) == [column.name for column in LOG_COLUMNS]
    assert {name: row[name] for name in ROW} == ROW
    assert log.count() == 3


def test_all_rows_of_one_call_or_none(log):
    with pytest.raises(ParameterError, match="colour"):
        log.add([ROW, {**ROW, "colour": "red"}], source="serve")
    with pytest.raises(sqlite3.IntegrityError):
        log.add([{**ROW, "id": "x"}, {**ROW, "id": "x"}], source="serve")
    assert log.count() == 0


def test_names_that_are_no_text_are_kept_readably(log):
    path = os.fsdecode(b"\xff.png")
    log.add([{**ROW, "path": path}], source="watch")
    assert next(log.rows())["path"] == "\\udcff.png"
    assert log.seen("ab", path) == log.seen("ab") == next(log.rows())
    assert log.seen("ab", "other.png") is None
    assert log.seen("other") is None
    assert log.seen(None, path) is None


def test_another_file_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, however long this text may be" * 10)
    with pytest.raises(ParameterError, match="not an audit log"):
        AuditLog(tmp_path / "text")
    for table, reason in [("notes (a)", "its tables are notes"), ("verdicts (a, time, sha256)", "of this version")]:
        path = tmp_path / f"{table[:5]}.sqlite"
        with closing(sqlite3.connect(path)) as other:
            other.execute(f"CREATE TABLE {table}")
        before = path.read_bytes()
        for read_only in (False, True):
            with pytest.raises(ParameterError, match=reason):
                AuditLog(path, read_only=read_only)
        assert path.read_bytes() == before
        assert not path.with_name(f"{path.name}-wal").exists()
    with pytest.raises(FileNotFoundError):
        AuditLog(tmp_path / "nowhere" / "log.sqlite")
    with pytest.raises(FileNotFoundError, match="there is no log"):
        AuditLog(tmp_path / "absent.sqlite", read_only=True)
    with pytest.raises(OSError, match="cannot open"):
        AuditLog(tmp_path)
    for options in ({"max_rows": 0}, {"max_days": 0}):
        with pytest.raises(ParameterError, match="max_"):
            AuditLog(tmp_path / "log.sqlite", **options)


def test_a_log_that_is_only_read_is_left_as_it_is(log):
    log.add([ROW], source="serve")
    reader = AuditLog(log.path, read_only=True)
    assert [row["path"] for row in reader.rows()] == ["a.png"]
    with pytest.raises(OSError, match="readonly"):
        reader.add([ROW], source="serve")
    reader.close()
    log.close()
    assert AuditLog(log.path, read_only=True).count() == 1  # nobody else has it open


EVERY_METHOD = {
    "add": lambda log: log.add([ROW], source="serve"),
    "feedback": lambda log: log.feedback("x", "clean"),
    "rows": lambda log: list(log.rows()),
    "count": lambda log: log.count(),
    "seen": lambda log: log.seen("ab"),
    "prune": lambda log: log.prune(),
}


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_a_damaged_log_is_an_error_of_the_file(log, method):
    log.add([{**ROW, "id": "x"}] + [{**ROW, "path": "x" * 300}] * 200, source="watch")
    log.close()
    data = log.path.read_bytes()
    torn = log.path.with_name("torn.sqlite")
    torn.write_bytes(data[:4096] + bytes(len(data) - 4096))  # its first page is whole

    def use():
        with closing(AuditLog(torn, max_days=1)) as opened:
            EVERY_METHOD[method](opened)

    with pytest.raises(OSError, match="restore it") as caught:
        use()
    assert caught.value.filename == str(torn)


def test_a_cut_or_altered_log_is_read_or_refused(log):
    log.add([{**ROW, "path": "x" * 30}] * 100, source="watch")
    log.close()
    data, random = log.path.read_bytes(), np.random.RandomState(0)
    kinds = set()
    for i in range(150):
        altered = bytearray(data if i % 3 else data[: random.randint(2, len(data))])
        for _ in range(random.choice([1, 3, 30])):
            altered[random.randint(min(len(altered), 6000) if i % 2 else len(altered))] ^= 1 << random.randint(8)
        path = log.path.with_name(f"{i}.sqlite")
        path.write_bytes(altered)
        try:
            with closing(AuditLog(path, read_only=True)) as altered_log:
                kinds.add(len(list(altered_log.rows())) <= 200)
        except (OSError, ParameterError) as error:
            kinds.add(type(error) if str(path) in str(error) else "unnamed")
    assert kinds == {True, OSError, ParameterError}


def test_a_locked_log_says_so(log, monkeypatch):
    monkeypatch.setattr(audit_log, "BUSY_SECONDS", 0.01)
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match="locked by another process") as caught:
            AuditLog(log.path)
        assert caught.value.filename == str(log.path)
        assert list(AuditLog(log.path, read_only=True).rows()) == []
        other.execute("ROLLBACK")


@pytest.mark.parametrize("how", ["deleted", "replaced", "without its journal", "without its folder"])
def test_a_log_that_is_no_longer_there_takes_no_row(tmp_path, how):
    path = tmp_path / "logs" / "log.sqlite"
    path.parent.mkdir()
    log = AuditLog(path)
    log.add([ROW], source="serve")
    if how == "replaced":
        AuditLog(tmp_path / "other.sqlite").close()
        os.replace(tmp_path / "other.sqlite", path)
    elif how == "without its folder":
        shutil.rmtree(path.parent)
    else:
        os.remove(path if how == "deleted" else f"{path}-wal")
    for method in ("add", "prune"):
        with pytest.raises(OSError, match="deleted or replaced") as caught:
            EVERY_METHOD[method](log)
        assert caught.value.filename == str(path)
    log.close()


AS_NOBODY = """
import os, sys
from pixeldefend.screening.audit_log import AuditLog
os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    try:
        log = AuditLog(path, read_only=True)
        print(len(list(log.rows())))
    except OSError as error:
        print(error)
    try:
        AuditLog(path)
    except OSError as error:
        print(error)
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_log_of_another_user_is_read_and_not_written():
    with tempfile.TemporaryDirectory() as folder:  # the folders of pytest are closed to others
        os.chmod(folder, 0o755)
        log = AuditLog(Path(folder) / "log.sqlite")
        log.add([ROW], source="serve")
        copy = Path(folder) / "copy.sqlite"
        shutil.copy(log.path, copy)  # its rows are in the -wal file, and nothing can be made beside it
        shutil.copy(f"{log.path}-wal", f"{copy}-wal")
        closed = AuditLog(Path(folder) / "closed.sqlite")
        closed.add([ROW] * 3, source="serve")
        closed.close()
        command = [sys.executable, "-P", "-c", AS_NOBODY, log.path, closed.path, copy]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        log.close()
    being_written, refused, whole, refused_too, torn, refused_again = done.stdout.splitlines()
    assert (being_written, whole) == ("1", "3")
    assert "unable to open" in torn, "the rows in the -wal file are not left out silently"
    for line in (refused, refused_too, refused_again, torn):
        assert f"({folder} cannot be written)" in line


def test_questions_need_not_be_text(log):
    (id,) = log.add([{**ROW, "client": os.fsdecode(b"\xff")}], source="serve")
    assert [row["id"] for row in log.rows(client=os.fsdecode(b"\xff"), limit=10**30)] == [id]
    with pytest.raises(KeyError):
        log.feedback("\ud800", "clean")


def test_old_rows_go(tmp_path):
    log = AuditLog(tmp_path / "log.sqlite", max_rows=3, max_days=1)
    log.add([{**ROW, "time": time.time() - 2 * 86400}], source="serve")
    log.add([{**ROW, "path": str(i)} for i in range(5)], source="serve")
    assert log.prune() == 3
    assert [row["path"] for row in log.rows()] == ["4", "3", "2"]
    log.add([ROW] * 1000, source="serve")  # now and then it does so by itself
    assert log.count() == 3


def test_feedback_must_fit_the_verdict(log):
    clean, flagged = log.add([ROW, {**ROW, "verdict": "adversarial"}], source="serve")
    log.feedback(clean, "missed")
    log.feedback(clean, "clean")
    log.feedback(flagged, "attack")
    log.feedback(flagged, "false_alarm")
    assert [row["feedback"] for row in log.rows()] == ["false_alarm", "clean"]
    with pytest.raises(ParameterError, match="false_alarm"):
        log.feedback(clean, "false_alarm")
    with pytest.raises(ParameterError, match="'wrong'"):
        log.feedback(clean, "wrong")
    with pytest.raises(KeyError):
        log.feedback("x", "clean")


def test_exports(log, tmp_path):
    paths = ["\x1b[2J.png", "=1+1.png", 'quote".png']
    log.add([{**ROW, "path": path, "score": None if '"' in path else 1.0} for path in paths], source="serve")
    file = io.StringIO()
    with row_writer(file, "csv", LOG_COLUMNS) as write:
        for row in log.rows():
            write(row)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    # no spreadsheet takes it for a formula, and no terminal for a command
    assert [row["path"] for row in rows] == ['quote".png', "'=1+1.png", "\\x1b[2J.png"]
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    with open(tmp_path / "log.parquet", "wb") as file, row_writer(file, "parquet", LOG_COLUMNS) as write:
        for row in log.rows():
            write(row)
    table = pandas.read_parquet(tmp_path / "log.parquet")
    assert list(table.columns) == [column.name for column in LOG_COLUMNS]
    assert table["path"].tolist() == paths[::-1]
    assert np.isnan(table["score"][0])
    assert table["score"][1] == 1.0


# the table that logs had before 0.2, at user_version 0
OLD_TABLE = """
CREATE TABLE verdicts (
    id TEXT PRIMARY KEY, time REAL NOT NULL, source TEXT NOT NULL, client TEXT, request TEXT, path TEXT, sha256 TEXT,
    verdict TEXT NOT NULL, p_value REAL, bits_per_dim REAL, score REAL, detector TEXT, detector_sha256 TEXT,
    arithmetic TEXT, width INTEGER, height INTEGER, error TEXT, query_attack INTEGER NOT NULL DEFAULT 0, feedback TEXT
);
CREATE INDEX by_time ON verdicts (time);
CREATE INDEX by_sha256 ON verdicts (sha256);
"""


@pytest.fixture
def old_log(tmp_path):
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.execute("PRAGMA journal_mode=WAL")
        old.executescript(OLD_TABLE)
        for i in range(3):
            old.execute(
                "INSERT INTO verdicts (id, time, source, path, sha256, verdict, score, detector_sha256, arithmetic, "
                "query_attack, feedback) VALUES (?, ?, 'watch', 'a.png', 'ab', 'clean', 1.5, 'd', ?, 1, 'clean')",
                [str(i), float(i), "bfloat16"],
            )
        old.commit()
    return path


def version_of(path):
    with closing(sqlite3.connect(path)) as log:
        return log.execute("PRAGMA user_version").fetchone()[0]


def test_a_log_of_the_first_version_is_read_as_it_is(old_log):
    before = old_log.read_bytes()
    log = AuditLog(old_log, read_only=True)
    rows = list(log.rows())
    assert [row["id"] for row in rows] == ["2", "1", "0"]
    assert {(row["precision"], row["error_kind"], row["query_attack"]) for row in rows} == {("bfloat16", None, True)}
    assert log.seen("ab", "a.png") == rows[0]
    assert confirmed_clean(log, "d", "bfloat16").scores.tolist() == [1.5] * 3
    assert (version_of(old_log), old_log.read_bytes()) == (0, before)
    # while it is open, another process carries it over
    AuditLog(old_log).close()
    assert list(log.rows()) == rows
    log.close()


def test_a_log_of_the_first_version_is_carried_over(old_log):
    with closing(AuditLog(old_log, read_only=True)) as log:
        before = list(log.rows())
    log = AuditLog(old_log)
    assert version_of(old_log) == VERSION
    assert list(log.rows()) == before
    log.add([{**ROW, "error_kind": "size"}], source="serve")
    log.feedback("0", "missed")
    log.close()
    again = AuditLog(old_log)
    assert [(row["precision"], row["error_kind"]) for row in again.rows(limit=2)] == [
        ("float32", "size"),
        ("bfloat16", None),
    ]
    assert again.count() == 4


def test_a_log_is_carried_over_as_a_whole_or_not_at_all(old_log):
    with closing(sqlite3.connect(old_log)) as old:  # another thing has the index's name: the last step cannot succeed
        old.execute("DROP INDEX by_time")
        old.execute("CREATE VIEW by_time AS SELECT 1")
    with pytest.raises(ParameterError):
        AuditLog(old_log)
    assert version_of(old_log) == 0
    assert {row["precision"] for row in AuditLog(old_log, read_only=True).rows()} == {"bfloat16"}
    with closing(sqlite3.connect(old_log)) as old:
        assert "arithmetic" in [column[1] for column in old.execute("PRAGMA table_info(verdicts)")]


def test_a_log_of_a_later_version_is_refused(log):
    log.close()
    with closing(sqlite3.connect(log.path)) as later:
        later.execute(f"PRAGMA user_version = {VERSION + 1}")
    for read_only in (False, True):
        with pytest.raises(ParameterError, match=f"version {VERSION + 1}"):
            AuditLog(log.path, read_only=read_only)
    assert version_of(log.path) == VERSION + 1


WRITER = """
import sys
from pixeldefend.screening.audit_log import AuditLog
log = AuditLog(sys.argv[1])
while True:
    ids = log.add([dict(verdict="clean", path="x" * 200, score=1.0)] * 3, source="serve")
    print(*ids, flush=True)
"""


def test_a_kill_loses_no_acknowledged_row_and_tears_none(tmp_path):
    path, acknowledged = tmp_path / "log.sqlite", []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        lines = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait()
        acknowledged += [id for line in lines if line.endswith("\n") for id in line.split()]
    rows = list(AuditLog(path).rows())
    assert len(acknowledged) >= 3 * 60
    assert set(acknowledged) <= {row["id"] for row in rows}
    assert len(rows) % 3 == 0  # all rows of a call or none
    assert all(row["path"] == "x" * 200 and row["score"] == 1.0 for row in rows)


def test_recalibration_wants_images_confirmed_without_regard_to_their_verdict(log, tiny_detector):
    scores = -tiny_detector.score_samples(clean_images(400, seed=5))
    flagged = scores > -tiny_detector.offset_
    rows = [
        {**ROW, "score": float(score), "verdict": "adversarial" if flag else "clean"}
        for score, flag in zip(scores, flagged, strict=True)
    ]
    ids = log.add(rows, source="serve")
    with pytest.raises(CalibrationError, match="float32"):
        confirmed_clean(log, "d")
    for id, flag in zip(ids[:200], flagged[:200], strict=True):
        log.feedback(id, "false_alarm" if flag else "clean")
    found = confirmed_clean(log, "d")
    np.testing.assert_array_equal(np.sort(found.scores), np.sort(scores[:200]))
    assert len(found.traffic) == 400
    after = tiny_detector.with_calibration(found.scores)
    assert 0.02 < (scores > -after.offset_).mean() < 0.09  # promised: 0.05
    assert tiny_detector.calibration_scores_.shape == (99,)
    log.add([{**ROW, "detector_sha256": "other", "verdict": "adversarial"}] * 50, source="serve")
    for row in list(log.rows(verdict="adversarial")):
        if row["detector_sha256"] == "other":
            log.feedback(row["id"], "false_alarm")
    log.add([{**ROW, "detector_sha256": "other"}] * 500, source="serve")
    with pytest.raises(CalibrationError, match="at random"):
        confirmed_clean(log, "other")
    assert len(confirmed_clean(log, "other", like_traffic=False).scores) == 50
    # what another precision scored is not mixed in
    (id,) = log.add([{**ROW, "precision": "bfloat16", "score": 7.0}], source="serve")
    log.feedback(id, "clean")
    assert len(confirmed_clean(log, "d").traffic) == 400
    assert confirmed_clean(log, "d", "bfloat16").scores.tolist() == [7.0]
    for scores in ([1.0], [np.nan] * 50, [[1.0] * 50]):
        with pytest.raises(ValueError, match=r"scores must be|calibration"):
            tiny_detector.with_calibration(scores)


def test_confirmed_attacks_are_not_traffic(log):
    ids = log.add([ROW] * 100 + [{**ROW, "verdict": "adversarial", "score": 9.0}] * 60, source="serve")
    for id in ids[:100]:
        log.feedback(id, "clean")
    with pytest.raises(CalibrationError):
        confirmed_clean(log, "d")
    for id in ids[100:]:
        log.feedback(id, "attack")
    found = confirmed_clean(log, "d")
    assert len(found.scores) == len(found.traffic) == 100


@pytest.fixture
def pixeldefend(tmp_path, monkeypatch):
    """Runs a command in this process, in a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_lists_filters_and_exports(log, tmp_path, pixeldefend):
    def run(*arguments, status=0):
        done = pixeldefend("log", *arguments)
        assert done.exit_code == status, done.stderr
        return done.stdout + done.stderr

    hostile = "\x1b[31m[bold]red\x07.png"
    (first, _, third) = log.add(
        [{**ROW, "client": "shop"}, {**ROW, "verdict": "error", "error": "broken"}, {**ROW, "path": hostile}],
        source="serve",
    )
    log.add([{**ROW, "path": "old.png", "time": time.time() - 3 * 86400}], source="serve")
    log.feedback(first, "missed")
    shown = run("log.sqlite")
    assert all(word in shown for word in ("a.png", "shop", "broken", "missed", "old.png", third))
    assert r"\x1b[31m[bold]red\x07.png" in shown  # neither the terminal nor the table obeys a name
    assert "\x1b" not in shown

    def listed(*options):
        return [json.loads(line)["path"] for line in run("log.sqlite", "--format", "jsonl", *options).splitlines()]

    assert listed() == [hostile, "a.png", "a.png", "old.png"]
    assert listed("--limit", "1") == [hostile]
    assert listed("--days", "1") == [hostile, "a.png", "a.png"]
    for options in (["--client", "shop"], ["--feedback", "missed"], ["--verdict", "error"]):
        assert listed(*options) == ["a.png"]
    run("log.sqlite", "--format", "csv", "--output", "log.csv")
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5
    run("log.sqlite", "--format", "parquet", "--output", "log.parquet")
    assert (tmp_path / "log.parquet").read_bytes().startswith(b"PAR1")
    assert "needs --output" in run("log.sqlite", "--format", "parquet", status=2)
    assert "is not one of" in run("log.sqlite", "--feedback", "falsealarm", status=2)
    assert "there is no log" in run("absent.sqlite", status=2)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE notes (a)")
    before = (tmp_path / "other.sqlite").read_bytes()
    assert "its tables are notes" in run("other.sqlite", status=2)
    assert (tmp_path / "other.sqlite").read_bytes() == before


def test_the_table_of_a_screening_obeys_no_name(tmp_path, pixeldefend):
    (tmp_path / "\x1b[31mred.png").write_bytes(b"")
    done = pixeldefend("screen", tmp_path)
    assert done.exit_code == 2
    assert r"\x1b[31mred.png" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_command_recalibrates_and_refuses_too_few(log, tiny_detector, tmp_path, pixeldefend):
    def recalibrate(*more, source=log.path):
        options = ["--detector", "tiny.safetensors", "--from-log", source, "--out", "ours.safetensors"]
        return pixeldefend("recalibrate", *options, *more)

    tiny_detector.save(tmp_path / "tiny.safetensors")
    digest = sha256_of(str(tmp_path / "tiny.safetensors"))
    dark = clean_images(60, seed=5) // 2  # this traffic is not what calibrated
    scores = -tiny_detector.score_samples(dark)
    flagged = scores > -tiny_detector.offset_
    rows = [
        {**ROW, "detector_sha256": digest, "score": float(score), "verdict": "adversarial" if flag else "clean"}
        for score, flag in zip(scores, flagged, strict=True)
    ]
    for id, flag in zip(log.add(rows, source="serve"), flagged, strict=True):
        log.feedback(id, "false_alarm" if flag else "clean")
    done = recalibrate()
    assert done.exit_code == 0, done.stderr
    assert "calibrated on 60 images" in done.stdout
    assert f"of 60 images of the log, flagged: {flagged.mean():.2%} -> " in done.stdout
    ours = Detector.load(tmp_path / "ours.safetensors")
    np.testing.assert_allclose(np.sort(ours.calibration_scores_), np.sort(scores), rtol=1e-6)
    assert f"{-tiny_detector.offset_:.4g} -> {-ours.offset_:.4g}" in done.stdout
    few = recalibrate("--fpr", "0.001")
    assert few.exit_code == 2
    assert "999" in few.stderr  # calibration images that it would take
    absent = recalibrate(source=tmp_path / "absent.sqlite")
    assert absent.exit_code == 2
    assert "there is no log" in absent.stderr
    assert not (tmp_path / "absent.sqlite").exists()
