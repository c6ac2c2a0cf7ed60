"""The source of the installed package, for the tests that read it."""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# attacks and eval may lie in folders of their own, if the installation is editable
ROOTS = ("pixeldefend", "pixeldefend.attacks", "pixeldefend.eval")


@cache
def files() -> dict[str, Path]:
    """Returns the file of every module of the package, by the module's name."""
    found = {}
    for root in ROOTS:
        spec = importlib.util.find_spec(root)
        assert spec is not None, root
        for folder in map(Path, spec.submodule_search_locations or ()):
            for file in sorted(folder.rglob("*.py")):
                parts = [*root.split("."), *file.relative_to(folder).with_suffix("").parts]
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found[name] = file
    return found


@cache
def modules() -> dict[str, ast.Module]:
    """Returns the syntax tree of every module of the package, by the module's name."""
    return {name: ast.parse(file.read_text(encoding="utf-8"), filename=str(file)) for name, file in files().items()}


def is_package(module: str) -> bool:
    """Returns whether a module is a folder with others in it."""
    return any(name.startswith(module + ".") for name in modules())


def imports(module: str, *, inside_functions: bool) -> set[str]:
    """Returns the modules of the package that one of them imports, with or without those that its functions import.

    What stands under `if TYPE_CHECKING:` is left out.
    """
    found = set()
    for node in _nodes(modules()[module], inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            # from a package come modules or names: the names are those of its __init__
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base for alias in node.names}
    return (found & modules().keys()) - {module}


def _base(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package(module)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _nodes(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
            continue
        yield node
        yield from _nodes(node, inside_functions)
