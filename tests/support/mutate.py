"""Put a bug into the package's source for the length of a test."""

from __future__ import annotations
import __future__

import ast
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
CHECKED = "checked"  # the modules of tests that are run as checks, by their places in tests/
HERE = ("tutelage", "tiny", "trainings", "silent_checks", CHECKED)  # may hold the mutated name


def mutate(monkeypatch: pytest.MonkeyPatch, module_name: str, old: str, new: str) -> None:
    """Replace ``old`` (it must occur once) by ``new`` in a module's source.

    Only the function or class around it is compiled anew, and the classes of the module that are
    derived from it; they take the originals' places wherever these were imported to.
    """
    module = importlib.import_module(module_name)
    source, start = place_of(module_name, old)
    line = source[:start].count("\n") + 1
    name = _around(ast.parse(source), line).name
    nodes = _with_derived(ast.parse(source.replace(old, new)), name)
    code = compile(
        ast.Module(nodes, []),
        str(module.__file__),
        "exec",
        flags=__future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    scope: dict[str, Any] = {}
    exec(code, vars(module), scope)
    for changed, other in scope.items():
        replace_everywhere(monkeypatch, getattr(module, changed), other)


def place_of(module_name: str, old: str) -> tuple[str, int]:
    """The source of a module, and where ``old``, which it must hold once, begins in it."""
    path = importlib.util.find_spec(module_name)
    assert path is not None
    source = Path(str(path.origin)).read_text(encoding="utf-8")
    found = source.count(old)
    assert found == 1, (
        f"{module_name} holds the text of this mutation {found} times, not once: the code moved "
        f"on, so put the same bug into the new code. The text: {old!r}"
    )
    return source, source.index(old) + len(old) - len(old.lstrip())


def checked(check: str) -> Callable[..., None]:
    """A test, "steps/test_fixmatch.py::test_this", to be called by its name."""
    path, _, test = check.partition("::")
    name = f"{CHECKED}.{path.removesuffix('.py').replace('/', '.')}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    found: Callable[..., None] = getattr(sys.modules[name], test)
    return found


def run_check(check: str, folder: Path) -> None:
    """Call such a test of a folder and a monkeypatch with all its parameters, until it fails."""
    test = checked(check)
    marks = [mark.args for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    names = [[names] if isinstance(names, str) else names for names, _ in marks]
    for number, values in enumerate(itertools.product(*(values for _, values in marks))):
        given: dict[str, Any] = {}
        for these, value in zip(names, values, strict=True):
            given |= zip(these, [value] if len(these) == 1 else value, strict=True)
        wanted = inspect.signature(test).parameters
        with pytest.MonkeyPatch.context() as patch:
            own = {"tmp_path": folder / str(number), "monkeypatch": patch}
            own["tmp_path"].mkdir()
            test(**given, **{name: own[name] for name in own if name in wanted})


def _with_derived(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The function or class of this name, and the classes that are derived from it."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        bases = {ast.unparse(base) for base in getattr(node, "bases", ())}
        own = getattr(node, "name", "")
        if own == name or bases & found.keys():
            found[own] = node
    return list(found.values())


def replace_everywhere(monkeypatch: pytest.MonkeyPatch, original: object, other: object) -> None:
    """Put ``other`` wherever a module holds ``original``."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in HERE:
            for attribute, value in list(vars(module).items()):
                if value is original:
                    monkeypatch.setattr(module, attribute, other)


def _around(tree: ast.Module, line: int) -> ast.FunctionDef | ast.ClassDef:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first <= line <= (node.end_lineno or first):
                return node
    raise AssertionError(f"line {line} is in no top-level function or class")
