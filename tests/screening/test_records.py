"""The record is declared once: whatever is added to the declaration is in every format."""

import csv
import io
import json
import os
from dataclasses import dataclass, field, fields

import pytest
from pydantic import TypeAdapter

from pixeldefend.errors import ParameterError
from pixeldefend.screening import Record
from pixeldefend.screening.audit_log import AuditLog
from pixeldefend.screening.records import (
    ERROR_KINDS,
    RECORD_COLUMNS,
    LogRow,
    columns_of,
    row_writer,
    to_csv_cell,
)


@dataclass
class Wider(LogRow):
    """A row with one column more."""

    tile: int | None = field(default=None, metadata={"title": "tile"})
    blurred: bool = False


WIDER = columns_of(Wider)
ROW = dict(id="1", time=0.0, source="serve", path="a.png", verdict="clean", tile=3, blurred=True)
NAMES = [item.name for item in fields(Wider)]


def test_every_format_follows_the_declaration(tmp_path):
    assert [column.name for column in WIDER] == NAMES
    text = io.StringIO()
    with row_writer(text, "jsonl", WIDER) as write:
        write(ROW)
    line = json.loads(text.getvalue())
    assert list(line) == NAMES
    assert (line["tile"], line["blurred"], line["feedback"]) == (3, True, None)
    text = io.StringIO()
    with row_writer(text, "csv", WIDER) as write:
        write(ROW)
    assert csv.DictReader(io.StringIO(text.getvalue())).fieldnames == NAMES
    assert TypeAdapter(Wider).json_schema()["properties"].keys() == set(
        NAMES
    )  # the service's schemas are such dataclasses
    log = AuditLog(tmp_path / "log.sqlite", columns=WIDER)
    log.add([{**ROW, "source": "serve"}], source="serve")
    (row,) = log.rows()
    assert list(row) == NAMES
    assert (row["tile"], row["blurred"]) == (3, True)


def test_parquet_follows_it(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with open(tmp_path / "rows.parquet", "wb") as file, row_writer(file, "parquet", WIDER) as write:
        for _ in range(5000):  # more than are written at once
            write(ROW)
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.schema.names == NAMES
    assert str(table.schema.field("tile").type) == "int64"
    assert table["blurred"].to_pylist() == [True] * 5000


def test_an_older_log_gets_the_new_columns(tmp_path):
    with_old = AuditLog(tmp_path / "log.sqlite")
    with_old.add([{"path": "a.png", "verdict": "clean"}], source="watch")
    with_old.close()
    (seen,) = AuditLog(tmp_path / "log.sqlite", columns=WIDER, read_only=True).rows()
    assert (seen["tile"], seen["blurred"]) == (None, False)
    log = AuditLog(tmp_path / "log.sqlite", columns=WIDER)
    log.add([{**ROW, "id": "2", "time": 2e9}], source="watch")
    assert [(row["path"], row["tile"], row["blurred"]) for row in log.rows()] == [
        ("a.png", 3, True),
        ("a.png", None, False),
    ]


def test_what_is_declared():
    columns = {column.name: column for column in RECORD_COLUMNS}
    assert columns["verdict"].choices == ("clean", "adversarial", "error")
    assert (columns["verdict"].nullable, columns["path"].nullable, columns["width"].nullable) == (False, False, True)
    assert columns["p_value"].to_text(0.12345) == "0.1235"
    assert columns["p_value"].to_text(None) == ""
    assert columns["path"].to_text("a\x1b[2J") == r"a\x1b[2J"
    with pytest.raises(ParameterError, match="yaml"), row_writer(io.StringIO(), "yaml"):
        pass


def test_cells_are_no_formulas_and_no_commands():
    cells = {"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@x": "'@x", "a\nb\x07": r"a\nb\x07", "a=1": "a=1"}
    cells |= {
        " =1": "' =1",
        '"=1': "'\"=1",
        "\t=1": r"\t=1",
        "\r=1": r"\r=1",
        "\uff1d1": "'\uff1d1",
        "\uff20x": "'\uff20x",
        "a;=1": "a;'=1",
    }
    cells |= {os.fsdecode(b"\x9b2J"): r"\udc9b2J", "漢 é 😀": "漢 é 😀"}
    assert {text: to_csv_cell(text) for text in cells} == cells
    assert to_csv_cell(-1.5) == -1.5
    assert to_csv_cell(None) is None


def test_a_picture_has_a_name_that_a_file_may_have(tmp_path):
    for path in ("a.png", "漢" * 200 + ".png", os.fsdecode(b"\xff" * 200) + ".png", "in/.hidden", "a\nb?.png"):
        name = Record(path, sha256="0123456789").picture_name()
        assert name.endswith("-01234567.png")
        (tmp_path / name).write_bytes(b"")


def test_pictures_of_different_images_have_different_names(tmp_path):
    paths = ["a/x.png", "b/x.png", "x.jpg", "x" * 300 + "1.png", "x" * 300 + "2.png", *["a/x.png"] * 20]
    taken: set[str] = set()
    names = [Record(path, sha256="0123456789").picture_name(tmp_path, taken) for path in paths]
    assert names[0] == "x-01234567.png"
    assert len(set(names)) == len(paths) == len(taken)
    assert all(len(name) <= 255 and name.endswith(".png") for name in names)


def test_an_error_stands_beside_the_verdict():
    record = Record("a.png", "adversarial", p_value=0.01)
    with record.noting("output", "cannot be written"):
        raise PermissionError(13, "Permission denied", "x")
    assert (record.verdict, record.error_kind) == ("adversarial", "output")
    assert record.error == "cannot be written: Permission denied"
    assert {"output", "quarantine"} <= ERROR_KINDS.keys()
