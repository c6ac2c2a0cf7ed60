"""Reads result files, whichever version of the package wrote them."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from pixeldefend.eval.upgrade import upgrade

ROOT = Path(__file__).parents[2]
# where the benchmarks write what they measured
MEASUREMENTS = (ROOT / "benchmarks" / "results", ROOT / "benchmarks")


def load(path: str) -> Any:
    """Reads a JSON file of results.

    Args:
        path: Relative to the repository, or the bare name of a file that a benchmark wrote, such as "likelihoods".

    Returns:
        Its content; what the benchmark wrote, in the format of today.
    """
    return _load(measured(path, ".json") if "/" not in path else ROOT / path)


def measured(name: str, suffix: str) -> Path:
    """Finds a file that a benchmark wrote."""
    for folder in MEASUREMENTS:
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    raise FileNotFoundError(f"there is no {name}{suffix} in {' or '.join(map(str, MEASUREMENTS))}")


@functools.cache
def _load(path: Path) -> Any:
    found = json.loads(path.read_text())
    return upgrade(found) if path.is_relative_to(ROOT / "eval") else found


def results(name: str) -> Any:
    """Reads the results.json of one benchmark run, a folder of eval/results."""
    return load(f"eval/results/{name}/results.json")


def pick(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """Returns the only row that has these values."""
    found = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows have {wanted}, wanted 1")
    return found[0]


def query(value: Any, path: str) -> Any:
    """Follows a path such as `rows[attack=cw-l2,statistic=fused].auroc` into a result file."""
    for step in re.findall(r"[^.\[\]]+(?:\.\d+[^.\[\]]*)?|\[[^\]]*\]", path):
        if step.startswith("["):
            wanted = dict(part.split("=", 1) for part in step[1:-1].split(","))
            value = pick([{**row, **{k: str(row.get(k)) for k in wanted}} for row in value], **wanted)
        else:
            value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def attack_title(name: str) -> str:
    """Spells out the name of an attack preset: "pgd-l2-0.25" becomes "PGD L2 0.25"."""
    spelled = {"noise": "uniform noise", "deepfool-linf": "DeepFool Linf", "deepfool-l2": "DeepFool L2"}
    spelled |= {"cw-l2": "C&W L2", "cw-l2-slow": "C&W L2, small steps", "fmn-l0": "FMN L0"}
    spelled |= {"salt-and-pepper": "salt and pepper", "square": "Square", "ead-l1": "EAD L1", "ddn": "DDN"}
    if name in spelled:
        return spelled[name]
    family, _, rest = name.partition("-")
    if family in ("apgd", "mi", "ti"):
        kind, _, eps = rest.partition("-")
        return f"{family.upper()}-{kind.upper()} {eps}/255"
    if rest.startswith("l2-"):
        return f"{family.upper()} L2 {rest.removeprefix('l2-')}"
    return f"{spelled.get(family, family.upper())} {rest}/255" if rest else name


def percent(share: float, digits: int = 0) -> str:
    """Writes a share between 0 and 1 as a percentage."""
    return f"{share:.{digits}%}"
