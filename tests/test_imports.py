"""Imports go one way, and importing changes nothing in the process."""

import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from source_code import imports, is_package, modules

# A part of the package imports only parts of earlier lines, and itself. The parts of one line do not know each other.
LAYERS = (
    "errors paths",
    "ambient serialization batching devices markdown extras",
    "threads process",
    "lazy",
    "images classifier imagenet",
    "densities data",
    "scores preprocessing",
    "calibration",
    "detectors",
    "zoo",
    "purification",
    "attacks screening",
    "training",
    "eval serving",
    "cli",
)
# further imports that are meant
ALSO = {
    "pixeldefend": {"detectors", "zoo", "purification", "images", "errors", "lazy"},  # the public names
    "weights": set(),
}
MAY_IMPORT = {
    part: {other for earlier in LAYERS[:place] for other in earlier.split()}
    for place, line in enumerate(LAYERS)
    for part in line.split()
} | ALSO


def part_of(module: str) -> str:
    """Returns the part of the package that a module belongs to: its second name."""
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("part", sorted({part_of(module) for module in modules()}))
def test_imports_go_one_way(part):
    assert part in MAY_IMPORT, f"say in this file where {part} stands"
    wrong = [
        f"{module} imports {other}"
        for module in modules()
        if part_of(module) == part
        for other in sorted(imports(module, inside_functions=True))
        if not _allowed(part, other)
    ]
    assert not wrong, "\n".join(wrong)


def _allowed(part: str, other: str) -> bool:
    # the root is imported for names of its own, such as the version: what it imports lies above
    return part_of(other) in MAY_IMPORT[part] | {part} and other != "pixeldefend"


def test_no_circle_of_modules_at_import_time():
    graph = {}
    for module in modules():
        graph[module] = imports(module, inside_functions=False)
        # a module also needs the packages that it lies in, unless these are what imports it
        graph[module] -= {module.rpartition(".")[0]}
    assert _circle(graph) == []


def test_no_circle_of_parts_with_the_imports_inside_functions():
    graph: dict[str, set[str]] = {}
    for module in modules():
        others = {part_of(other) for other in imports(module, inside_functions=True)}
        graph.setdefault(part_of(module), set()).update(others - {part_of(module)})
    assert _circle(graph) == []


def _circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_the_reading_of_imports_finds_those_that_are_known():
    assert "pixeldefend.errors" in imports("pixeldefend.images.batch", inside_functions=False)
    assert "pixeldefend.scores.evidence" in imports("pixeldefend.scores.pit", inside_functions=False)
    assert "pixeldefend.densities" in imports("pixeldefend.scores.evidence", inside_functions=False)
    assert not imports("pixeldefend.errors", inside_functions=True)
    assert is_package("pixeldefend.eval")
    assert {part_of(module) for module in modules()} >= {"attacks", "eval", "cli", "scores"}
    assert not _allowed("densities", "pixeldefend.detectors")
    assert _circle({"a": {"b"}, "b": {"a"}})


def run(code: str) -> str:
    """Returns what Python prints when it runs code in a process of its own."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=variables, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_library_changes_no_environment_variable():
    assert run("import os; before = dict(os.environ); import pixeldefend; print(dict(os.environ) == before)") == "True"


def test_importing_all_of_the_library_changes_neither_threads_nor_environment():
    parts = ["detectors", "densities", "scores", "images", "zoo", "purification", "screening"]
    lines = [
        "import os, sklearn, torch",  # these may
        "def state(): return dict(os.environ), torch.get_num_threads(), torch.get_num_interop_threads()",
        "before = state()",
        *(f"import pixeldefend.{part}" for part in parts),
        "print(state() == before)",
    ]
    assert run("\n".join(lines)) == "True"


@pytest.mark.parametrize("module", ["pixeldefend", "pixeldefend.cli", "pixeldefend.errors"])
def test_light_modules_do_not_import_torch(module):
    assert run(f"import sys, {module}; print(sorted({{'torch', 'sklearn', 'scipy'}} & set(sys.modules)))") == "[]"
