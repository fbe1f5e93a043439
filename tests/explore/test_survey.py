"""``tutelage augment`` on real files: its two files, its words, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("timm")

from shapes import CLASSES, SETTINGS, as_options, contents

from tutelage import api, cli
from tutelage.explore import survey
from tutelage.stats.coverage import METRICS, Figures
from tutelage.stats.intervals import Interval
from tutelage.system.errors import TutelageError

pytestmark = pytest.mark.usefixtures("own_cache")
LOOK = {name: SETTINGS[name] for name in ("teacher", "weights", "input_size", "canvas")}
LOOK |= {"labels_per_class": 4, "seed": 1}


@pytest.fixture(scope="module")
def looked(
    photos: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder and the content of a survey."""
    out = tmp_path_factory.mktemp("survey") / "look"
    return out, api.augment(photos, out, quiet=True, **LOOK)


def test_the_figures_are_all_there_with_intervals(looked: tuple[Path, dict[str, Any]]) -> None:
    out, content = looked
    assert json.loads((out / "augment.json").read_text()) == content
    assert (content["labeled"], content["pool"], content["size"]) == (12, 30, 32)
    assert content["verdict"].split(":")[0] in ("Yes", "No", "In part", "Cannot tell")
    assert list(content["clouds"]) == ["labelled", "weak view", "strong view"]
    for cloud in content["clouds"].values():
        for metric in METRICS:
            figure = cloud[metric]
            assert figure["low"] <= figure["value"] <= figure["high"], metric
    assert content["clouds"]["labelled"]["views"] == 1
    views = {content["clouds"][name]["views"] for name in ("weak view", "strong view")}
    assert views == {survey.VIEWS}
    change = content["strong_minus_weak"]["coverage"]
    parts = [content["clouds"][n]["coverage"]["value"] for n in ("strong view", "weak view")]
    assert change["value"] == pytest.approx(parts[0] - parts[1], abs=2e-6)
    assert content["strong_view"]["name"] == "RandAugment 2/9, crop from 0.35"
    assert all(hole["image"].startswith(("unlabeled", "train")) for hole in content["holes"])
    assert content["command"].startswith("tutelage augment ")


def test_the_same_call_looks_again_and_sees_the_same(
    looked: tuple[Path, dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    _, before = looked
    for _ in range(2):
        content = api.augment(photos, tmp_path / "look", quiet=True, **LOOK)
        assert content["clouds"]["strong view"] == before["clouds"]["strong view"]
    other = api.augment(photos, tmp_path / "wide", quiet=True, **{**LOOK, "augment": "none"})
    assert other["strong_view"]["name"] == "no operations, crop from 0.35"
    assert other["clouds"]["strong view"] != before["clouds"]["strong view"]
    assert other["clouds"]["weak view"] == before["clouds"]["weak view"]


def test_folders_of_others_are_refused_and_settings_checked(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for out, changed, said in (
        ("mine", {}, "is not empty and holds no tutelage run"),
        ("new", {"lr_head": 0.1}, "'augment' has no setting 'lr_head'"),
        ("new", {"weights": "nowhere"}, "nowhere"),
    ):
        with pytest.raises(TutelageError, match=said):
            api.augment(photos, tmp_path / out, quiet=True, **{**LOOK, **changed})
    assert list(contents(tmp_path / "mine")) == ["thesis.txt"]
    assert not (tmp_path / "new").exists()


def test_without_a_pool_it_says_so_and_the_command_still_prints(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos / "train", tmp_path / "data")
    options = as_options({k: v for k, v in LOOK.items() if k != "labels_per_class"})
    words = ["augment", str(tmp_path / "data"), "--out", str(tmp_path / "look"), *options]
    assert cli.main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert content["measured"] is False
    assert "coverage needs 12 unlabelled images" in content["reason"]
    assert "not measured: coverage needs" in captured.err
    assert "Not measured: coverage needs" in (tmp_path / "look" / "augment.html").read_text()


def test_the_page_is_whole_and_needs_no_network_and_no_script_and_pictures_have_words(
    looked: tuple[Path, dict[str, Any]],
) -> None:
    out, content = looked
    text = (out / "augment.html").read_text()
    assert len(text) < 5e6
    names = [Path(hole["image"]).name for hole in content["holes"]]
    assert names
    for part in ("shear x", "equalize", "CutMix", *names):
        assert part in text
    assert {"augment.html", "augment.json", "config.json", "split.parquet"} <= set(contents(out))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'content="{policy}"' in text
    assert not re.search(r"<(script|link|iframe|object|embed|base|form)\b", text)
    assert not re.search(r"(?:src|href)=\"https?://|@import", text)
    sources = re.findall(r'\b(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(source.startswith(("#", "data:image/")) for source in sources)
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]*>", text))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in re.findall(r'href="(#\w+)"', text)} <= set(ids)


def test_hostile_names_stay_text(photos: Path, tmp_path: Path) -> None:
    hostile = '"><img src=x onerror=alert(2)>{{ 7 * 7 }}'
    shutil.copytree(photos, tmp_path / hostile)
    for number, path in enumerate(sorted((tmp_path / hostile / "unlabeled").iterdir())):
        path.rename(path.with_stem(f"{hostile}{number}"))
    shutil.move(tmp_path / hostile / "train" / CLASSES[0], tmp_path / hostile / "train" / hostile)
    api.augment(tmp_path / hostile, tmp_path / "look", quiet=True, **LOOK)
    text = (tmp_path / "look" / "augment.html").read_text()
    assert "<img src=x" not in text
    assert text.count("{{ 7 * 7 }}") > 2


# --- the verdict


def figures(coverage: float, distance: float, noise: float) -> Figures:
    values = {"coverage": coverage, "distance": distance, "density": coverage}
    wave = torch.from_numpy(np.random.default_rng(int(1000 * coverage)).normal(size=100)) * noise
    halves = {name: value + wave for name, value in values.items()}
    return Figures({n: Interval(v, v - 0.1, v + 0.1) for n, v in values.items()}, halves, 2.0, 4)


@pytest.mark.parametrize(
    ("coverage", "distance", "noise", "word"),
    [(0.7, 0.0, 0.01, "Yes: "), (0.7, 0.2, 0.01, "In part: "), (0.3, 0.0, 0.01, "No: "),
     (0.5, 0.2, 0.01, "No: "), (0.6, 0.0, 0.2, "Cannot tell: ")],
)  # fmt: skip
def test_the_verdict_is_by_the_interval_of_the_difference(
    coverage: float, distance: float, noise: float, word: str
) -> None:
    seen = {
        "labelled": figures(0.3, 0.0, noise),
        "weak view": figures(0.501, 0.0, noise),
        "strong view": figures(coverage, distance, noise),
    }
    told = survey.figures_in_words(seen, 20, 200)
    head, said = told["verdict"], told["sentences"]
    assert head.startswith(word)
    assert f"{100 * coverage:.0f}% of the real images, the weak view 50%" in head
    assert any("Worse: density fell" in sentence for sentence in said) == (coverage < 0.5)
