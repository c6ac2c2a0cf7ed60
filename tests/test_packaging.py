"""What is tested is what users get: a regular installation."""

import importlib.metadata
from pathlib import Path

import pixeldefend
import pixeldefend.attacks
import pixeldefend.eval


def test_the_installed_package_is_tested():
    assert "site-packages" in pixeldefend.__file__
    assert Path(pixeldefend.attacks.__file__).parent == Path(pixeldefend.__file__).parent / "attacks"
    assert pixeldefend.__version__ == importlib.metadata.version("pixeldefend")


def test_attacks_and_eval_are_not_installed_under_words_that_general():
    top = {Path(str(file)).parts[0] for file in importlib.metadata.files("pixeldefend") or []}
    assert {"pixeldefend"} == {name for name in top if not name.endswith(".dist-info") and name != ".."}


def test_what_is_not_python_is_in_it():
    root = Path(pixeldefend.__file__).parent
    assert (root / "py.typed").exists()
    for name in ("results.md.j2", "report.html.j2"):
        assert (root / "eval" / "templates" / name).exists()
    assert (root / "eval" / "results.schema.json").exists()
    assert list((root / "eval" / "results" / "leaderboard").glob("*.json"))
    assert list((root / "weights").glob("*.safetensors"))


def test_every_package_of_the_tree_is_listed():
    root = Path(pixeldefend.__file__).parent
    for path in root.rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), path
    importlib.import_module("pixeldefend.attacks.detector_aware")
    importlib.import_module("pixeldefend.eval.adaptive")
