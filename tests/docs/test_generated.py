"""The numbers of README and docs are those of the result files, and the site can be built."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "pixeldefend" / "weights"


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_nothing_differs_from_the_result_files() -> None:
    done = run("docs/generate.py", "--check")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_a_changed_number_is_found(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(".*", "site", "build", "data", "runs", "tests", "__pycache__")
    copy = tmp_path / "repository"
    shutil.copytree(ROOT, copy, ignore=ignored)
    readme = copy / "README.md"
    before = readme.read_text()
    forged = re.sub(r"0\.\d{3}(?= \|)", "0.123", before, count=1)
    assert forged != before
    readme.write_text(forged)

    assert run("docs/generate.py", "--check", cwd=copy).returncode == 1
    assert readme.read_text() == forged  # a check writes nothing
    assert run("docs/generate.py", cwd=copy).returncode == 0
    assert readme.read_text() == before


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
    done = run("-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    pages = [page for page in tmp_path.rglob("*.html") if page.name != "report.html"]
    assert len(pages) > 30
    loaded = r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*rel=[\"']?(?:stylesheet|preload|icon)[^>]*//"
    for page in pages:
        assert not re.search(loaded, page.read_text()), f"{page.relative_to(tmp_path)} loads something from the network"
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?https?://", style.read_text()), style.name
