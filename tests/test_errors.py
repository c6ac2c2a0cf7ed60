"""Errors are types: each has a kind, and no code raises another sort or reads a message."""

import ast
import builtins
import inspect
import pickle

import pytest
from source_code import modules

from pixeldefend import errors
from pixeldefend.errors import IMAGE_ERROR_KINDS, ImageError, MissingExtraError, NoDetectorError, PixelDefendError

PACKAGE_ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PixelDefendError)]

# what the package may raise besides its own errors and those of the operating system: Python asks for these
PROTOCOLS = {
    "NotImplementedError",
    "TypeError",
    "SystemExit",
    "KeyboardInterrupt",
    "StopIteration",
    "StopAsyncIteration",
}
# ... where the function is `__getattr__`, or its docstring says so
IN_GETATTR, WHERE_DOCUMENTED = "AttributeError", "KeyError"
SEARCHES = {"startswith", "endswith", "find", "index", "count", "lower", "casefold", "partition"}


@pytest.mark.parametrize("error", PACKAGE_ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_a_kind_and_crosses_processes(error):
    made = error("torch", "extra") if error is MissingExtraError else error("a message")
    assert isinstance(made, ValueError)
    assert isinstance(made.kind, str)
    assert made.kind
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), again.kind, str(again)) == (error, made.kind, str(made))
    if issubclass(error, ImageError):
        assert made.kind in IMAGE_ERROR_KINDS


def test_kinds_tell_errors_apart():
    kinds = [error.kind for error in PACKAGE_ERRORS if not issubclass(error, ImageError)]
    assert len(set(kinds)) == len(kinds)
    assert not set(kinds) & IMAGE_ERROR_KINDS.keys()
    assert ImageError("dark", "mode").kind == "mode"
    assert NoDetectorError("9 x 9").kind == "size"
    assert pickle.loads(pickle.dumps(ImageError("dark", "mode"))).kind == "mode"


def test_a_missing_extra_says_what_to_install():
    error = MissingExtraError("foolbox", "attacks")
    assert isinstance(error, ModuleNotFoundError)
    assert "pixeldefend[attacks]" in str(error)
    assert (error.module, error.extra) == ("foolbox", "attacks")


# -- what the source does ----------------------------------------------------------------------------------------------


def wrong_raises(tree: ast.Module) -> list[str]:
    """Returns the statements that raise what the package must not raise, as "line: statement"."""
    return [
        f"{node.lineno}: {ast.unparse(node)[:80]}"
        for node, functions in _with_functions(tree)
        if isinstance(node, ast.Raise) and node.exc is not None and not _may_raise(node.exc, functions)
    ]


def _may_raise(raised: ast.expr, functions: list[ast.FunctionDef]) -> bool:
    name = ast.unparse(raised.func if isinstance(raised, ast.Call) else raised).rpartition(".")[2]
    kind = getattr(builtins, name, None)
    if not inspect.isclass(kind):  # a variable, a class of the package, or one of a framework
        return True
    if name == IN_GETATTR:
        return any(function.name == "__getattr__" for function in functions)
    if name == WHERE_DOCUMENTED:
        return any(name in (ast.get_docstring(function) or "") for function in functions)
    return issubclass(kind, OSError) or name in PROTOCOLS


def reads_of_messages(tree: ast.Module) -> list[str]:
    """Returns where code compares or searches the message of an error, as "line: expression"."""
    found = []
    for node, functions in _with_functions(tree):
        if any(function.name == "is_out_of_memory" for function in functions):
            continue
        if isinstance(node, ast.Compare):
            read = any(_is_message(side) for side in (node.left, *node.comparators))
            contains = any(isinstance(operator, ast.In | ast.NotIn) for operator in node.ops)
            named = any(ast.unparse(side).rpartition(".")[2] in ("error", "message") for side in node.comparators)
            wrong = read or (contains and named)
        else:
            wrong = (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in SEARCHES
                and _is_message(node.func.value)
            )
        if wrong:
            found.append(f"{node.lineno}: {ast.unparse(node)[:80]}")
    return found


def _is_message(node: ast.expr) -> bool:
    """Returns whether an expression is the text of an error: `str(error)`, `repr(error)` or `error.args`."""
    if isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Attribute):
        return node.attr == "args" and _is_error(node.value)
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("str", "repr")
        and len(node.args) == 1
        and _is_error(node.args[0])
    )


def _is_error(node: ast.expr) -> bool:
    return ast.unparse(node) in ("error", "exception", "exc", "err", "e", "failure", "caught.value")


def unknown_kinds(tree: ast.Module) -> list[str]:
    """Returns the calls of `ImageError` whose kind is none."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ImageError":
            kinds = [*node.args[1:], *(keyword.value for keyword in node.keywords if keyword.arg == "kind")]
            found += [
                f"{node.lineno}: {kind.value}"
                for kind in kinds
                if isinstance(kind, ast.Constant) and kind.value not in IMAGE_ERROR_KINDS
            ]
    return found


def _with_functions(node: ast.AST, functions: tuple[ast.FunctionDef, ...] = ()):
    """Yields every node below, with the functions that it stands in."""
    for child in ast.iter_child_nodes(node):
        yield child, list(functions)
        inner = (*functions, child) if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else functions
        yield from _with_functions(child, inner)


@pytest.mark.parametrize("check", [wrong_raises, reads_of_messages, unknown_kinds])
def test_the_source_has_no(check):
    found = [f"{module}:{place}" for module, tree in modules().items() for place in check(tree)]
    assert not found, "\n".join(found)


def test_the_checks_find_what_they_look_for():
    assert len(wrong_raises(ast.parse("def f():\n    raise ValueError('no')"))) == 1
    assert len(wrong_raises(ast.parse("def f():\n    raise RuntimeError"))) == 1
    assert len(wrong_raises(ast.parse("def f():\n    raise KeyError(1)"))) == 1
    assert len(wrong_raises(ast.parse("def f():\n    raise AttributeError('x')"))) == 1
    allowed = (
        "def __getattr__(name):\n    raise AttributeError(name)",
        "def f():\n    '''Raises KeyError.'''\n    raise KeyError(1)",
        "def f():\n    raise FileNotFoundError('x')",
        "def f():\n    raise ParameterError('x')",
        "try:\n    pass\nexcept ValueError as error:\n    raise error",
    )
    assert [wrong_raises(ast.parse(code)) for code in allowed] == [[]] * len(allowed)
    for code in ("'x' in str(error)", "str(error) == 'x'", "error.args[0].startswith('x')", "'x' in record.error"):
        assert len(reads_of_messages(ast.parse(code))) == 1, code
    for code in ("print(str(error))", "kind in kinds", "def is_out_of_memory(error):\n    return 'x' in str(error)"):
        assert reads_of_messages(ast.parse(code)) == [], code
    assert len(unknown_kinds(ast.parse("ImageError('x', 'odd')"))) == 1
