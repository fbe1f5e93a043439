"""What docs/security.md says: its tests are there, and the package keeps to "never"."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import tutelage

ROOT = Path(__file__).parents[1]
PACKAGE = Path(tutelage.__file__).parent
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))

# Modules that run code from data, run programs, or open connections; and who may import them.
NEVER: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("pickle", "marshal", "shelve", "dill", "joblib", "runpy", "code", "pty"), ()),
    # These start tutelage itself: to measure, or to compile, in a process of its own.
    "subprocess": ("deploy.bench", "augment.engine.ahead"),
}
NETWORK = {
    "socket": ("system.web",),
    "uvicorn": ("system.web",),
    "huggingface_hub": ("models.zoo", "models.teachers"),  # the latter lists its cache
    "fsspec": ("system.storage",),
    "ray": ("system.engines",),
    "urllib": ("deploy.images",),
    "http": ("deploy.images",),
    **dict.fromkeys(("ftplib", "smtplib", "ssl", "requests", "httpx", "aiohttp", "boto3"), ()),
}
OFFLINE = ("urllib.parse",)  # of the same packages: it takes addresses apart, and opens none
NEVER_CALLED = ("eval", "exec", "os.system", "os.popen", "torch.jit.load")


@cache
def trees() -> list[tuple[str, ast.Module]]:
    return [
        (
            ".".join(path.relative_to(PACKAGE).with_suffix("").parts),
            ast.parse(path.read_text("utf-8")),
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def imported(tree: ast.Module) -> set[str]:
    """The first parts of the names of what a module imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module not in OFFLINE:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("need", "import_module"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                found.add(str(first.value).partition(".")[0])
    return found


def breaches(tree: ast.Module) -> list[str]:
    """Calls that could run code from data."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in NEVER_CALLED:
            found.append(ast.unparse(node))
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append(ast.unparse(node))
        if options.get("allow_pickle") not in (None, "False") or options.get("shell") == "True":
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_what_the_page_names_is_there(file: str, test: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    assert re.search(rf"^(async )?def {test or 'test_'}", text, re.M), f"{file} has no {test}"


def test_every_boundary_names_a_test() -> None:
    table = PAGE.partition("## The boundaries")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 16
    for row in rows:
        assert "`tests/" in row.rpartition(" | ")[2], row


def test_what_the_package_never_imports_or_calls() -> None:
    for name, tree in trees():
        for module in imported(tree) & NEVER.keys():
            assert name in NEVER[module], f"{name} imports {module}"
        assert not breaches(tree), name


def test_where_the_network_is() -> None:
    for name, tree in trees():
        for module in imported(tree) & NETWORK.keys():
            assert name in NETWORK[module], f"{name} imports {module}"
    users = {module for _, tree in trees() for module in imported(tree) & NETWORK.keys()}
    assert users == {module for module, allowed in NETWORK.items() if allowed}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        'need("dill", "train")',
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "run(command, shell=True)",
    ],
)
def test_a_breach_is_seen(line: str) -> None:
    tree = ast.parse(f"def inside():\n    {line}\n")
    assert imported(tree) & NEVER.keys() or breaches(tree)
