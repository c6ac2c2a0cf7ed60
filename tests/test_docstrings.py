"""Docstrings are in Google style: one sentence first, then sections, of which Args names exactly the parameters."""

import ast
import re
from collections.abc import Iterator

import pytest
from source_code import modules

ABBREVIATIONS = re.compile(r"\b(?:e\.g|i\.e|al|vs|cf)\.(?= )")
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Reference|References|Examples?|Notes?):$", re.MULTILINE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Yields the public classes and functions of a module, and those public methods that have a docstring.

    The others may take that of a base class. The name of a method contains a dot.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node.name, node
            for part in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(part, Function) and not part.name.startswith("_") and ast.get_docstring(part):
                    yield f"{node.name}.{part.name}", part


def problems(name: str, node: ast.ClassDef | Function) -> list[str]:
    """Returns what is wrong with the docstring of a class or function."""
    text = ast.get_docstring(node)
    if not text:
        return ["has no docstring"]
    found = []
    first, *rest = text.split("\n")
    # a method may say in one line what it does and what it returns
    several = not ("." in name and not rest) and re.search(r"[.!?] [A-Z`]", ABBREVIATIONS.sub("", first))
    if not first.endswith(".") or several:
        found.append(f"does not begin with one sentence on one line: {first}")
    if rest and rest[0].strip():
        found.append("has no empty line after its first line")
    if re.search(r"\bRaises \w+", SECTION.split(text)[0]):
        found.append("says what it raises in running text: write a section Raises")
    wanted, given = parameters(node), documented(text)
    if wanted is None:
        return found
    if given is not None and _bare(given) != _bare(wanted):
        found.append(f"its Args are {sorted(given)}, its parameters {sorted(wanted)}")
    if given is None and len(wanted) > 1 and "." not in name and not explains_itself(node):
        found.append(f"has no section Args for {', '.join(wanted)}")
    return found


def _bare(names: list[str]) -> list[str]:
    return sorted(name.lstrip("*") for name in names)


def parameters(node: ast.ClassDef | Function) -> list[str] | None:
    """Returns the public parameters of a function or of a class's constructor, or None if that one is inherited."""
    if isinstance(node, ast.ClassDef):
        constructor = next((part for part in node.body if getattr(part, "name", "") == "__init__"), None)
        if isinstance(constructor, Function):
            return _of_function(constructor, bound=True)
        return None if node.bases else _fields(node)
    first = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)][:1]
    return _of_function(node, bound=first in (["self"], ["cls"]))


def _of_function(node: Function, *, bound: bool) -> list[str]:
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][bound:]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [argument.arg for argument in arguments.kwonlyargs]
    names += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return [name for name in names if not name.startswith("_")]


def _fields(node: ast.ClassDef) -> list[str]:
    """Returns the fields of a data class; other classes without a constructor have none."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return []
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    names = [ast.unparse(field.target) for field in fields if "ClassVar" not in ast.unparse(field.annotation)]
    return [name for name in names if not name.startswith("_")]


def documented(text: str) -> list[str] | None:
    """Returns the names in the section Args, or None if there is no such section."""
    sections = SECTION.split(text)
    if "Args" not in sections[1::2]:
        return None
    section = sections[sections.index("Args") + 1]
    names = re.findall(r"^ {4}([\w*][\w*, ]*?)(?: \([^)]*\))?: ", section, re.MULTILINE)
    return [name for together in names for name in together.split(", ")]


def explains_itself(node: ast.ClassDef | Function) -> bool:
    """Returns whether the parameters are described elsewhere: in Attributes, or as options of a command or route."""
    if isinstance(node, ast.ClassDef):
        return "Attributes" in SECTION.split(ast.get_docstring(node) or "")[1::2]
    annotations = [ast.unparse(argument.annotation) for argument in ast.walk(node.args) if _annotated(argument)]
    return any("Annotated[" in one or "options." in one or one == "Request" for one in annotations)


def _annotated(node: ast.AST) -> bool:
    return isinstance(node, ast.arg) and node.annotation is not None


def report(tree: ast.Module) -> list[str]:
    """Returns the problems of a module, one a line."""
    return [f"{node.lineno}: {name} {problem}" for name, node in definitions(tree) for problem in problems(name, node)]


@pytest.mark.parametrize("module", sorted(modules()))
def test_docstrings(module):
    found = report(modules()[module])
    assert not found, "\n".join([f"{len(found)} problems in {module}:", *found])


GOOD = '''
def plain(x):
    """Returns x."""

@dataclass
class Point:
    """A point.

    Attributes:
        x: In pixels.
        y: In pixels.
    """

    x: int
    y: int

class Net:
    """A net by He et al. in 2016.

    Args:
        width: Channels.
        *sizes: Sides, in pixels.
        **options: Passed on.

    Raises:
        ParameterError: If width is 0.
    """

    def __init__(self, width: int, *sizes: int, _hidden: int = 0, **options: int) -> None: ...

    def forward(self, x): ...

    def scale(self, x, factor):
        """Scales x."""

def _private(x, y): ...
'''
BAD = '''
def missing(x): ...

def two(x):
    """One sentence. Another one."""

def no_stop(x):
    """Returns x"""

def wrapped(x):
    """A sentence that goes on
    here."""

def prose(x):
    """Returns x.

    Raises ValueError if it is wrong.
    """

def undocumented(x, y):
    """Adds two numbers."""

def others(x, y):
    """Adds two numbers.

    Args:
        x: A number.
        z: A number.
    """

class Net:
    """A net."""

    def __init__(self, width, depth): ...
'''


def test_the_check_finds_what_it_looks_for():
    assert report(ast.parse(GOOD)) == []
    found = "\n".join(report(ast.parse(BAD)))
    assert [name for name in ast.parse(BAD).body if name.name not in found] == []
