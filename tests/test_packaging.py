"""What is tested is what users get: a regular installation."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
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


def test_waiting_threads_sleep_unless_told_otherwise():
    """Threads that spin take a busy machine's cores; torch reads it when it is imported, which is after this."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    program = f"import os, sys, pixeldefend; print(*map(os.environ.get, {names}), 'torch' in sys.modules)"
    for given, expected in ((None, "PASSIVE 1000 False"), ("ACTIVE", "ACTIVE None False")):
        environment = {name: value for name, value in os.environ.items() if name not in names}
        environment |= {"OMP_WAIT_POLICY": given} if given else {}
        found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert found.stdout.strip() == expected, found.stderr
