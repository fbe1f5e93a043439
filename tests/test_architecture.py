"""Imports point one way, as CONTRIBUTING.md says."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import tutelage

ROOT = Path(tutelage.__file__).parent

# Each layer may import itself and the ones above it in this list.
LAYERS = (
    ("errors", "_version", "files", "cores", "claims", "ranks", "stop"),
    ("config", "console", "metrics", "data", "augment", "models", "losses"),
    ("batch", "calibrate", "checkpoint", "clusters", "curve", "decisions", "ema", "loader",
     "bank", "label", "labelerrors", "machine", "outofclass", "plan", "probe", "runfolder",
     "solar", "steps", "suggest", "teachers", "together", "tracking", "train"),
    ("stages", "selftrain", "trunk", "student", "candidates", "tune", "runs", "pipeline", "arms",
     "students", "evidence", "ladder", "survey", "worklist", "report", "deploy", "bench", "review",
     "web"),
    ("api",),
    ("tables", "cli", "estimator", "__main__", "__init__"),
)  # fmt: skip
ROOMS = ("data", "augment", "models", "losses")  # know nothing of each other
TORCH_FREE = (
    "__init__", "__main__", "_version", "api", "claims", "cli", "config", "console", "cores",
    "curve", "deploy.accepted", "deploy.runtime", "deploy.latency", "deploy.answers",
    "deploy.openapi", "deploy.pool", "deploy.serve",
    "decisions", "errors", "files", "labelerrors", "metrics", "ranks", "review.app",
    "review.items", "runfolder", "solar", "stop", "tables", "bench.model", "tracking", "web",
)  # fmt: skip


@cache
def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text())
        for path in ROOT.rglob("*.py")
    }


def imports(tree: ast.AST, names: set[str]) -> set[str]:
    """The package's modules that a tree imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if _ours(a.name)}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            if node.module and _ours(node.module):
                base = node.module.partition(".")[2]
                for alias in node.names:
                    whole = f"{base}.{alias.name}".lstrip(".")
                    found.add(whole if {whole, f"{whole}.__init__"} & names else base or "__init__")
    return found


def _ours(name: str) -> bool:
    return name.partition(".")[0] == "tutelage"


def layer(module: str) -> int:
    room = module.partition(".")[0]
    (number,) = (n for n, members in enumerate(LAYERS) if room in members)
    return number


@cache
def graph() -> dict[str, set[str]]:
    trees = modules()
    return {name: imports(tree, set(trees)) for name, tree in trees.items()}


def test_every_module_is_found() -> None:
    found = graph()
    assert found["pipeline"] >= {"runs", "stages", "student"}
    assert found["runs"] >= {"tune", "data.store"}
    assert "pipeline" in found["api"]  # imported inside a function
    for name in found:
        layer(name)


def test_imports_point_to_the_same_layer_or_above() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if layer(other) > layer(name) and name != "__init__"
    ]
    assert not wrong


def test_no_module_imports_itself_through_others() -> None:
    found = graph()
    rooms = {name: {o if o in found else f"{o}.__init__" for o in found[name]} for name in found}
    list(TopologicalSorter(rooms).static_order())  # raises CycleError


def test_rooms_do_not_know_each_other() -> None:
    for name, others in graph().items():
        room = name.partition(".")[0]
        if room in ROOMS:
            strangers = {o for o in others if o.partition(".")[0] in ROOMS} - _room(room, others)
            assert not strangers, f"{name} imports {strangers}"


def _room(room: str, names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] == room}


def test_steps_and_the_loop_do_not_know_each_other() -> None:
    found = graph()
    assert not _room("steps", found["train"])
    steps = _room("steps", set(found))
    assert len(steps) >= 4
    for name in steps:
        assert not found[name] & {"train", "stages", "pipeline", "loader"}, name
        assert not _room("steps", found[name]), f"{name} imports another step"


def test_the_base_install_imports_torch_nowhere_at_the_top() -> None:
    for name, tree in modules().items():
        if name not in TORCH_FREE and name.partition(".")[0] != "data":
            continue
        top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        outer = {
            part.partition(".")[0]
            for node in top
            for part in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            )
            if part
        }
        heavy = {"torch", "timm", "torchvision", "pyarrow", "jinja2", "matplotlib", "onnx"}
        assert not outer & heavy, f"{name} imports {outer & heavy}"
