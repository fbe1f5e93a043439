"""Imports point one way, as CONTRIBUTING.md says."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import tutelage

ROOT = Path(tutelage.__file__).parent

# The order of the packages is the order of the imports: each may import itself and those before
# it. The members of a tuple do not know each other.
ORDER: tuple[tuple[str, ...], ...] = (
    ("_version",),
    ("system",),
    ("config",),
    ("stats",),
    ("pages",),
    ("data", "augment", "models", "losses"),
    ("training",),
    ("steps", "heads"),
    ("deploy",),
    ("report",),
    ("review", "watch"),
    ("chain",),
    ("ladder", "explore"),
    ("api",),
    ("cli", "estimator"),
    ("__main__", "__init__"),
)
ROOT_MODULES = 7  # a stranger finds the rooms at a glance
# Steps know no other step, but for the relatives of FixMatch and who picks one by its name.
BUILT_ON = {
    "steps.thresholds": {"steps.fixmatch"},
    "steps.online": {"steps.fixmatch", "steps.mean_teacher", "steps.thresholds"},
}
TORCH_FREE = (
    "__init__", "__main__", "_version", "api", "cli", "config", "data", "deploy.answers",
    "deploy.bench", "deploy.export", "deploy.find", "deploy.images",
    "deploy.label_files", "deploy.predict", "deploy.pseudo_label", "deploy.runtime",
    "deploy.serve", "deploy.uploads",
    "explore.request", "ladder.request", "models.folder",
    "review.app", "review.deciding",
    "pages", "review.items", "stats.calibrate", "stats.shift",
    "stats.intervals", "stats.label_errors", "stats.metrics",
    "stats.pseudo_labels", "stats.suggest", "stats.two_sample", "stats.unknown", "system", "watch",
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


def floor(module: str) -> int:
    room = module.partition(".")[0]
    (number,) = (n for n, members in enumerate(ORDER) if room in members)
    return number


@cache
def graph() -> dict[str, set[str]]:
    trees = modules()
    return {name: imports(tree, set(trees)) for name, tree in trees.items()}


def test_every_module_is_found() -> None:
    found = graph()
    assert found["chain.run"] >= {"chain.stages", "chain.pipeline", "chain.finish"}
    assert found["chain.load"] >= {"chain.machine", "data.store"}
    assert "chain.run" in found["api"]  # imported inside a function
    for name in found:
        floor(name)


def test_imports_point_to_the_same_package_or_to_one_before() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if not _may_import(name, other)
    ]
    assert not wrong


def _may_import(name: str, other: str) -> bool:
    if floor(other) == floor(name):
        return name.partition(".")[0] == other.partition(".")[0] or "__" in name
    return floor(other) < floor(name)


def test_an_import_that_points_back_is_noticed() -> None:
    assert not _may_import("stats.metrics", "training.loop")
    assert not _may_import("data.store", "models.zoo")
    assert _may_import("steps.supervised", "losses")


def test_few_modules_lie_in_the_root() -> None:
    root = [name for name in modules() if "." not in name]
    assert len(root) <= ROOT_MODULES, root


def test_no_module_imports_itself_through_others() -> None:
    found = graph()
    rooms = {name: {o if o in found else f"{o}.__init__" for o in found[name]} for name in found}
    list(TopologicalSorter(rooms).static_order())  # raises CycleError


def _room(room: str, names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] == room}


def test_steps_and_the_loop_do_not_know_each_other() -> None:
    found = graph()
    assert not _room("steps", found["training.loop"])
    steps = _room("steps", set(found))
    assert len(steps) >= 4
    for name in steps:
        assert not found[name] & {"training.loop", "training.loader"}, name
        assert _room("steps", found[name]) <= BUILT_ON.get(name, set()), f"{name} imports a step"


def test_the_base_install_imports_torch_nowhere_at_the_top() -> None:
    for name, tree in modules().items():
        if name not in TORCH_FREE and name.partition(".")[0] not in TORCH_FREE:
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
        heavy = {"torch", "timm", "torchvision", "pyarrow", "matplotlib", "onnx"}
        assert not outer & heavy, f"{name} imports {outer & heavy}"
