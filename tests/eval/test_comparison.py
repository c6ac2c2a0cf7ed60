"""Several runs in one table."""

import json

import pytest
from helpers import Brightness

from pixeldefend.errors import DataError, ParameterError
from pixeldefend.eval import (
    compare,
    entry,
    leaderboard_table,
    read_results,
    side_by_side,
    write_comparison,
)


@pytest.fixture
def failing(results):
    checks = [{"what": "more steps do no worse", "passed": False, "detail": "60% and 40%"}]
    return {**results, "adaptive": {**results["adaptive"], "checks": checks}}


@pytest.fixture
def folders(results, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    return tmp_path / "a", tmp_path / "b"


def test_runs_side_by_side(folders, tmp_path):
    a, b = folders
    table = side_by_side([a, b / "results.json"])
    assert "| attack | A | B |" in table
    row = next(line for line in table.splitlines() if line.startswith("| pgd-8 |"))
    assert row.split(" | ")[1] == row.split(" | ")[2].rstrip(" |")
    assert "| joint-pgd, 64/255 |" in table
    with pytest.raises(ParameterError):
        side_by_side([a])
    for text in ("[]", "{}", "half a f"):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(DataError, match=r"c\.json"):
            side_by_side([a, tmp_path / "c.json"])
    with pytest.raises(FileNotFoundError):
        side_by_side([a, tmp_path / "absent"])


def test_failed_checks_are_told_everywhere(failing, folders, tmp_path):
    a, b = folders
    (b / "results.json").write_text(json.dumps(failing))
    table = side_by_side([a, b])
    assert "**1 of 1 FAIL** |" in table
    assert "B FAILS its own check: more steps do no worse (60% and 40%)." in table
    (tmp_path / "entry.json").write_text(json.dumps(entry("mine", failing, "pixeldefend benchmark")))
    assert "**1 of 1 FAIL** |" in leaderboard_table(tmp_path)


def test_detectors_see_the_same_images(detector, data, tmp_path):
    stricter = detector.with_fpr(0.01)
    found = compare({"a": detector, "b": stricter}, Brightness(), data, attacks=["pgd-8"], limit=8)
    write_comparison(found, tmp_path)
    assert read_results(tmp_path / "comparison.json") == json.loads(json.dumps(found))
    a, b = (found["detectors"][name]["rows"] for name in ("a", "b"))
    assert a == b
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| b |")]) == 1 + 3  # means, and a table for each statistic


def test_a_leaderboard(results, tmp_path):
    better = {**results, "rows": [{**row, "auroc": 1.0} for row in results["rows"]]}
    for name, found in (("worse", results), ("better", better)):
        (tmp_path / f"{name}.json").write_text(json.dumps(entry(name, found, "pixeldefend benchmark")))
    lines = leaderboard_table(tmp_path).splitlines()
    places = [next(i for i, line in enumerate(lines) if line.startswith(f"| {name} |")) for name in ("better", "worse")]
    assert places == sorted(places)
    assert "evasion rate, 8/255" in leaderboard_table(tmp_path)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(DataError, match=r"broken\.json"):
        leaderboard_table(tmp_path)
    with pytest.raises(DataError):
        leaderboard_table(tmp_path / "absent")


def test_the_shipped_leaderboard():
    table = leaderboard_table()
    for title in ("## fashion-mnist:", "## cifar10:", "## imagenet-sample, view 224:"):
        assert table.count(title) == 1, title
    for row, sets in (("| PixelCNN++, bits_per_dim |", 2), ("| random |", 3)):
        assert table.count(row) == sets, row
