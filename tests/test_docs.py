"""The documentation's Python runs, its commands are commands, and the site is built from it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tutelage import api
from tutelage.cli import build_parser

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = {
    f"{path.name}, block {number}": block
    for path in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S), 1)
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[name], name, "exec"), {"__name__": "docs"})
    capsys.readouterr()


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 2


PAGES = [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"]
COMMANDS = sorted(
    {
        line.strip()
        for page in PAGES
        if page.name != "cli.md"
        for block in re.findall(r"```\n(.*?)```", page.read_text("utf-8"), re.S)
        for part in block.splitlines()
        for line in part.split("&&")
        if line.strip().startswith("tutelage ")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_shown_is_one(command: str) -> None:
    build_parser().parse_args(shlex.split(command)[1:])  # exits where it is not


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 15


def test_the_command_line_reference_is_the_parsers() -> None:
    sys.path.insert(0, str(DOCS))
    try:
        import reference
    finally:
        sys.path.pop(0)
    assert reference.page() == reference.PAGE.read_text("utf-8"), "run: python docs/reference.py"


def test_the_snippet_that_needs_onnxruntime_alone_runs(
    finished: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (DOCS / "howto.md").read_text("utf-8")
    (snippet,) = re.findall(r"```\n(import json, numpy.*?)```", page, re.S)
    image = next((photos / "test" / "disc").iterdir())
    snippet = snippet.replace("runs/first/student.onnx", str(finished / "student.onnx"))
    exec(snippet.replace("photo.jpg", str(image)), {})
    label, probability = capsys.readouterr().out.split()
    assert label in ("disc", "square", "triangle")
    assert 1 / 3 < float(probability) <= 1


def test_the_snippet_that_needs_torch_alone_runs(finished: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    page = (DOCS / "howto.md").read_text("utf-8")
    (snippet,) = re.findall(r"```\n(program = .*?)```", page, re.S)
    path = tmp_path / "model.pt2"
    api.export(finished / "student", path, format="torch")
    names = {"torch": torch, "images": torch.zeros(5, 40, 30, 3, dtype=torch.uint8)}
    exec(snippet.replace("runs/first/student/model.pt2", str(path)), names)
    assert names["probabilities"].shape == (5, 3)
    assert names["energy"].shape == (5,)


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the extra docs is not installed")
def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "FewLabelClassifier" in (tmp_path / "python" / "index.html").read_text("utf-8")
