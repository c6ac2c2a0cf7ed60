"""Hooks of the build: formulas become MathML, and reports of the benchmark become part of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FORMULA = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns formulas into MathML, which browsers show without a script."""
    return FORMULA.sub(lambda found: f'<div class="formula">{convert(found[1], display="block")}</div>', markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the reports and plots of eval/results and benchmarks under results/reports/."""
    for path in sorted((ROOT / "eval" / "results").glob("*/*")):
        if path.name in ("report.html", "roc.png"):
            _add(files, config, path, f"{path.parent.name}/{path.name}")
    for path in sorted((ROOT / "benchmarks").rglob("*.svg")):
        _add(files, config, path, path.name)
    return files


def _add(files: Files, config: MkDocsConfig, path: Path, name: str) -> None:
    files.append(File.generated(config, f"results/reports/{name}", abs_src_path=str(path)))
