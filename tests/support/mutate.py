"""Put a bug into the package's source for the length of a test."""

from __future__ import annotations
import __future__

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = ("tutelage", "tiny", "trainings", "silent_checks")  # modules that may hold the mutated name


def mutate(monkeypatch: pytest.MonkeyPatch, module_name: str, old: str, new: str) -> None:
    """Replace ``old`` (it must occur once) by ``new`` in a module's source.

    Only the function or class around it is compiled anew, and the classes of the module that are
    derived from it; they take the originals' places wherever these were imported to.
    """
    module = importlib.import_module(module_name)
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    found = source.count(old)
    assert found == 1, (
        f"{module_name} holds the text of this mutation {found} times, not once: the code moved "
        f"on, so put the same bug into the new code. The text: {old!r}"
    )
    start = source.index(old) + len(old) - len(old.lstrip())
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
