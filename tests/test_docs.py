"""The documentation's Python runs, its commands are commands, and the site is built from it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import violations
from shown import COMMANDS, DOCS

import tutelage
from tutelage import api
from tutelage.cli import build_parser

SOURCE = Path(tutelage.__file__).parent
BLOCKS = {
    f"{path.name}, block {number}": block
    for path in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S), 1)
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[name], name, "exec"), {"__name__": "docs"})
    capsys.readouterr()


ALL = sorted({command for commands in COMMANDS.values() for command in commands})


@pytest.mark.parametrize("command", ALL)
def test_a_command_that_is_shown_is_one(command: str) -> None:
    build_parser().parse_args(shlex.split(command)[1:])  # exits where it is not


def script(name: str) -> ModuleType:
    """A script that lies beside the pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        return import_module(name)


def test_there_are_blocks_and_commands() -> None:
    assert len(BLOCKS) >= 2
    assert len(ALL) >= 15


def test_the_command_line_reference_is_the_parsers() -> None:
    reference = script("reference")
    assert reference.page() == reference.PAGE.read_text("utf-8"), "run: python docs/reference.py"


def test_the_korean_readme_shows_the_same_commands() -> None:
    assert COMMANDS["README.ko.md"] == COMMANDS["README.md"]


LINKING = [DOCS.parent / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md")]
LINKING += [DOCS / "llms.txt", *sorted(DOCS.glob("*.md"))]
LINKING += sorted((DOCS.parent / "benchmarks").rglob("*.md"))


@pytest.mark.parametrize("page", LINKING, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    found = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    links = [link for pair in found for link in pair if link and not link.startswith("https:")]
    for link in links:
        name, _, heading = link.partition("#")
        path = page.parent / name if name else page
        assert path.is_file(), link
        assert not heading or heading in headings(path), link


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs write them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


QUOTED = re.findall(r"^\*\*`(.*?)`\.\*\*", (DOCS / "troubleshooting.md").read_text("utf-8"), re.M)


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_that_is_explained_is_one(message: str) -> None:
    source = "".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)  # long messages are written as several strings
    for part in message.split("NAME"):
        assert part in source


def test_llms_txt_names_every_page() -> None:
    text = (DOCS / "llms.txt").read_text("utf-8")
    assert text.startswith("# tutelage\n\n> ")
    named = set(re.findall(r"\]\(([a-z.]+)\): \S", text))
    assert named == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


def test_the_drawn_pictures_are_what_the_script_draws() -> None:
    pictures = script("pictures")
    drawn = {**pictures.badges(), **{name: draw() for name, draw in pictures.DRAWN.items()}}
    for name, content in drawn.items():
        assert (DOCS / "images" / name).read_text("utf-8") == content, "run: docs/pictures.py"


def test_a_terminals_picture_follows_a_bar_and_colours() -> None:
    terminal = script("terminal")
    printed = [(0.5, "\x1b[32mkept\x1b[0m\r\nbar 1|"), (1.5, "\rbar 2|"), (2.0, "\r\x1b[K<end>")]
    shown, speed = terminal.pictures(printed, "tutelage demo", 1.0)
    screens = ["\n".join(terminal.written(line) for line in lines) for lines in shown]
    assert speed == 2
    head = '<tspan class="prompt">$ tutelage demo</tspan>\n<tspan class="green">kept</tspan>'
    assert f"{head}\nbar 1|" in screens
    assert f"{head}\nbar 2|" in screens
    assert screens[-1] == f"{head}\n&lt;end&gt;"
    picture = ElementTree.fromstring(terminal.draw(shown, "demo"))
    assert len(picture.findall("{*}g")) == len(shown)


def test_pictures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (DOCS / "images").iterdir()}
    assert sizes.pop("demo.svg") < 500_000
    assert max(sizes.values()) < 200_000, sizes


MAPS = (DOCS / "design.md", DOCS.parent / "CONTRIBUTING.md")


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.name)
def test_the_files_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(r"`([a-z_./]+\.py)`", page.read_text("utf-8")))
    assert len(named) >= 10
    assert not [name for name in named if not _exists(name)]


def _exists(name: str) -> bool:
    return any((root / name).exists() for root in (SOURCE, DOCS.parent))


def test_the_map_names_every_package() -> None:
    rooms = (DOCS / "design.md").read_text("utf-8").split("## The rooms")[1].split("\n## ")[0]
    found = re.findall(r"^\| `([a-z_]+)/` \|", rooms, re.M)
    assert sorted(found) == sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def test_the_snippet_that_opens_a_model_once_runs(
    finished: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (DOCS / "reference.md").read_text("utf-8")
    (snippet,) = re.findall(r"```\n(import tutelage\n.*?)```", page, re.S)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(finished)
    (tmp_path / "photos").symlink_to(photos)
    image = (photos / "test" / "disc" / "disc1.jpg").read_bytes()
    for name in ("photo.jpg", "a.jpg", "new/b.jpg", "more/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["a.jpg", "new/b.jpg", "more/c.png"]


def test_the_snippet_that_needs_torch_alone_runs(finished: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    page = (DOCS / "deployment.md").read_text("utf-8")
    (snippet,) = re.findall(r"```\n(program = .*?)```", page, re.S)
    path = tmp_path / "model.pt2"
    api.export(finished / "student", path, format="torch")
    names = {"torch": torch, "images": torch.zeros(5, 40, 30, 3, dtype=torch.uint8)}
    exec(snippet.replace("runs/first/student/model.pt2", str(path)), names)
    assert names["probabilities"].shape == (5, 3)
    assert names["energy"].shape == (5,)


@pytest.mark.skipif(find_spec("timm") is None, reason="the extra train is not installed")
def test_the_snippet_that_needs_timm_alone_runs(tmp_path: Path) -> None:
    from PIL import Image

    from tutelage.deploy.hub import export_timm
    from tutelage.models import zoo

    model = zoo.create("test_efficientnet", ("ant", "bee"), canvas=32, weights="none")
    export_timm(model, tmp_path / "photos-timm", [np.zeros((32, 40, 3), np.uint8)], tmp_path)
    page = (DOCS / "deployment.md").read_text("utf-8")
    (snippet,) = re.findall(r"```\n(import timm.*?)```", page, re.S)
    room = {"image": Image.new("RGB", (50, 40))}
    exec(snippet.replace("photos-timm", str(tmp_path / "photos-timm")), room)
    assert room["probabilities"].shape == (1, 2)
    assert tuple(room["classes"]) == ("ant", "bee")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; strict: a broken link fails."""
    if find_spec("mkdocs") is None:
        pytest.skip("the extra docs is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(out)]
    done = subprocess.run(
        command,
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return out


def test_the_python_reference_is_made_from_the_code(site: Path) -> None:
    assert "FewLabelClassifier" in (site / "reference" / "index.html").read_text("utf-8")


def test_every_page_fits_a_phone_and_asks_no_other_host(chromium: Any, site: Path) -> None:
    pages = sorted(site.glob("**/index.html"))
    assert len(pages) > 10
    with chromium.new_page(viewport={"width": 360, "height": 700}) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for path in pages:
            page.goto(path.as_uri())
            assert page.locator("h1").count() == 1, path
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(wide) <= 0, path
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("name", ["", "deployment/", "scale/", "cli/"])
def test_axe_finds_nothing(chromium: Any, site: Path, name: str) -> None:
    host = "http://docs/"  # the theme does less in files that are opened from a disk
    with chromium.new_page(viewport={"width": 390, "height": 844}) as page:
        page.route(
            f"{host}**",
            lambda route: route.fulfill(path=site / route.request.url.removeprefix(host)),
        )
        page.goto(f"{host}{name}index.html")
        # The theme gives every block of code a bar of buttons that it calls navigation.
        found = [line for line in violations(page) if "landmark-unique" not in line]
    assert found == []
