"""The numbers of README and docs are those of the result files, and the site can be built."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "pixeldefend" / "weights"


def generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_differs_from_the_result_files() -> None:
    assert list(generator().differences()) == []


def test_a_changed_number_is_found() -> None:
    before = (ROOT / "README.md").read_text()
    forged = re.sub(r"0\.\d{3}(?= \|)", "0.123", before, count=1)
    assert forged != before
    assert generator().generated(forged) == before


def test_a_marker_that_begins_a_line_of_a_sentence_is_refused() -> None:
    with pytest.raises(SystemExit):
        generator().check_markers("In words:\n<!-- generated: models -->4<!-- end --> models.", "page.md")


def test_an_unknown_generator_is_refused() -> None:
    with pytest.raises(SystemExit):
        generator().generated("<!-- generated: nothing-of-this-name -->\n<!-- end -->")


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 8192


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_model_has_a_card(path: Path) -> None:
    card = (ROOT / "docs" / "cards" / f"{path.stem}.md").read_text()
    for heading in ("Data and its terms", "Recipe", "Metrics", "Intended use", "Limits"):
        assert f"## {heading}" in card
    assert f"cards/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    pages = [page for page in tmp_path.rglob("*.html") if page.name != "report.html"]
    assert len(pages) > 30
    elsewhere = r"""["']?(?:https?:)?//"""
    loaded = (
        rf"<(?:script|img|iframe|source)\b[^>]*\bsrc={elsewhere}|<link\b[^>]*\brel=.?stylesheet[^>]*\bhref={elsewhere}"
    )
    for page in pages:
        assert not re.search(loaded, page.read_text()), f"{page.relative_to(tmp_path)} loads something from the network"
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?https?://", style.read_text()), style.name
