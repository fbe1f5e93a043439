"""``tutelage suggest`` on real files: from a bare folder to a model, and what it keeps."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import huggingface as hf
import pyarrow.parquet as parquet
from PIL import Image
from reviewing import decide, opened
from shapes import CLASSES, SETTINGS, as_options, contents

import tutelage
from tutelage import api, cli
from tutelage.data.decisions import FILE, Decision, Decisions
from tutelage.data.open import open_data
from tutelage.explore import suggest
from tutelage.models.folder import load_model
from tutelage.review.items import Items, open_suggested
from tutelage.system.errors import TutelageError

pytestmark = pytest.mark.usefixtures("own_cache")
LOOK = {name: SETTINGS[name] for name in ("teacher", "weights", "input_size", "canvas")}


@pytest.fixture(scope="module")
def album(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 shapes without any order; one of them again, twice, and a broken one."""
    folder = tmp_path_factory.mktemp("flat") / "album"
    folder.mkdir()
    for path in (photos / "train").rglob("*.*"):
        shutil.copy(path, folder / path.name)
    shutil.copy(folder / "disc0.png", folder / "z_again.png")
    pixels = np.asarray(Image.open(folder / "square0.png")).astype(float)
    Image.fromarray((0.97 * pixels).astype(np.uint8)).save(folder / "z_darker.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.fixture(scope="module")
def chosen(
    album: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder and the content of a choice of 12; tests copy it."""
    out = tmp_path_factory.mktemp("chosen") / "s"
    return out, api.suggest(album, out, budget=12, quiet=True, **LOOK)


@pytest.fixture
def begun(chosen: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(chosen[0], tmp_path / "s"))


def names(content: dict[str, Any]) -> list[str]:
    return [row["image"] for row in content["suggested"]]


def command(album: Path, out: Path) -> list[str]:
    return ["suggest", str(album), "--budget", "12", "--out", str(out), *as_options(LOOK)]


def label(out: Path, *decisions: Decision) -> None:
    with Decisions(out / FILE) as file:
        for decision in decisions:
            file.decide(decision)


# --- what it writes


def test_the_list_the_sheet_and_the_figures_agree(
    album: Path, chosen: tuple[Path, dict[str, Any]]
) -> None:
    out, content = chosen
    assert json.loads((out / "suggest.json").read_text()) == content
    with (out / "suggested.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == names(content)
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 13)]
    assert all(row["why"] for row in rows)
    page = (out / "suggested.html").read_text()
    assert all(row["image"] in page and row["why"] in page for row in rows)
    assert len(set(names(content))) == 12
    assert (content["unlabelled"], content["labelled"], content["classes"]) == (24, 0, [])
    assert content["next"] == f"tutelage run {album} --decisions {out}"
    assert content["command"].startswith(f"tutelage suggest {album} --out {out} --budget 12")


def test_broken_images_are_named_and_copies_count_once(
    album: Path, own_cache: Path, tmp_path: Path
) -> None:
    content = api.suggest(album, tmp_path / "s", budget=99, quiet=True, **LOOK)
    assert len(names(content)) == 24
    assert {"z_again.png", "z_darker.png", "broken.jpg"}.isdisjoint(names(content))
    assert (content["copies"], content["unreadable"]) == (2, 1)
    assert "broken.jpg" in (tmp_path / "s" / "skipped.csv").read_text()
    kept = api.suggest(album, tmp_path / "k", budget=99, quiet=True, duplicates="keep", **LOOK)
    assert (kept["copies"], kept["unlabelled"]) == (0, 26)


# --- from a bare folder to a model


def test_from_a_bare_folder_to_a_model_without_a_table_by_hand(
    album: Path, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.chain.plan.STEPS", (4,))
    items = open_suggested(begun)
    with Decisions(begun / FILE) as decisions:
        page = opened(items, decisions)
        for item in range(len(items)):
            of_class = next(name for name in CLASSES if items.name(item).startswith(name))
            answer = decide(page, action="relabel", ids=[item], label=of_class, new=True)
            assert answer.status_code == 200
    typed = {name for name in CLASSES for i in range(len(items)) if items.name(i).startswith(name)}
    run = tmp_path / "run"
    api.run(album, run, quiet=True, decisions=str(begun), **SETTINGS)
    assert load_model(run / "student").spec.classes == tuple(sorted(typed))
    split = parquet.read_table(run / "split.parquet").to_pylist()
    labelled = {row["image"]: row["label"] for row in split if row["role"] == "labeled"}
    assert set(labelled) == {items.name(i) for i in range(len(items))}
    assert all(image.startswith(of_class) for image, of_class in labelled.items())
    rows, _ = api.predict(run, [album / "disc1.jpg"])
    assert rows[0].label in typed
    report = (run / "report.html").read_text()
    assert "Classes that a person made, with their labels: disc" in report


def test_with_classes_the_page_opens_and_what_was_labelled_is_told(
    album: Path, begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Any] = []

    def page(run: Path, items: Items, **options: Any) -> None:
        opened.append((run, len(items), options))
        label(run, Decision("disc0.png", "relabel", "disc", new=True))

    monkeypatch.setattr(suggest, "serve_page", page)
    words = command(album, begun)
    assert cli.main([*words, "--classes", "disc,other things", "--no-browser"]) == 0
    assert opened == [(begun, 12, {"port": 0, "browser": False})]
    assert open_suggested(begun).classes == ("disc", "other things")
    told = capsys.readouterr().err
    assert "1 of 12 labelled: disc 1" in told
    assert "training needs labels of at least 2 classes" in told
    assert cli.main([*words, "--classes", "square"]) == 0
    assert open_suggested(begun).classes == ("disc", "other things", "square")


def test_labels_of_the_page_count_and_the_open_page_is_named(
    album: Path, begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suggest, "serve_page", None)  # no second one is opened
    words = command(album, begun)
    for more in ([], ["--classes", "disc,square"]):
        with Decisions(begun / FILE) as decisions:
            decisions.decide(Decision("disc0.png", "relabel", "disc", new=True))
            decisions.note_page("http://127.0.0.1:7/?token=t")
            assert cli.main([*words, *more]) == 0
        told = capsys.readouterr().err
        assert "1 labelled (1 on the page), 23 unlabelled, 0 val" in told
        assert " images that came without a label, 12 to label first:\n" in told
        assert "the page is open already: http://127.0.0.1:7/?token=t (" in told
        assert "label them: http://127.0.0.1:7/?token=t\n" in told
    assert cli.main(words) == 0
    assert "open already" not in capsys.readouterr().err


def test_without_classes_the_next_commands_are_said(
    album: Path, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(album, begun)
    assert cli.main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    chosen = names(json.loads(captured.out))
    assert len(chosen) == 12
    shown = captured.err.partition("to label first:\n")[2].splitlines()
    assert [line.partition(":")[0] for line in shown[:6]] == [
        *(f"  {rank}. {name}" for rank, name in enumerate(chosen[:5], start=1)),
        "  and 7 more in the list",
    ]
    assert f"label them: tutelage review {begun}" in captured.err
    assert f"then train: tutelage run {album} --decisions {begun}" in captured.err


# --- continuing


def test_the_same_command_redraws_nothing(
    album: Path, begun: Path, chosen: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggest, "first_to_label", None)  # it is not asked
    label(begun, Decision("disc0.png", "relabel", "disc", new=True))
    before = (begun / FILE).read_bytes()
    again = api.suggest(album, begun, budget=12, quiet=True, **LOOK)
    assert again["suggested"] == chosen[1]["suggested"]
    fewer = api.suggest(album, begun, budget=3, quiet=True, **LOOK)
    assert fewer["suggested"] == chosen[1]["suggested"], "nothing that was chosen is lost"
    assert (begun / FILE).read_bytes() == before


def test_a_larger_budget_adds_beside_what_was_chosen_and_labelled(
    album: Path, begun: Path, chosen: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def first(features: Any, count: int, *, labeled: Any, seed: int) -> Any:
        asked.update(features=features, count=count, labeled=labeled, seed=seed)
        return np.arange(count)[::-1], [f"new {i}" for i in range(count)]

    monkeypatch.setattr(suggest, "first_to_label", first)
    first_ones = chosen[1]["suggested"]
    useless = first_ones[0]["image"]
    label(begun, Decision(useless, "reject", None))
    more = api.suggest(album, begun, budget=15, quiet=True, **LOOK)
    assert more["suggested"][:12] == first_ones
    assert [row["rank"] for row in more["suggested"]] == list(range(1, 16))
    assert [row["why"] for row in more["suggested"][12:]] == ["new 0", "new 1", "new 2"]
    assert len(set(names(more))) == 15
    assert (asked["count"], len(asked["features"]), asked["seed"]) == (3, 12, 0)
    assert len(asked["labeled"]) == 11, "the chosen ones count as labelled, but for the useless one"


def test_existing_labels_are_covered_and_never_suggested(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = suggest.first_to_label

    def first(features: Any, count: int, *, labeled: Any, seed: int) -> Any:
        asked.append(len(labeled))
        return original(features, count, labeled=labeled, seed=seed)

    monkeypatch.setattr(suggest, "first_to_label", first)
    content = api.suggest(photos, tmp_path / "s", budget=4, quiet=True, **LOOK)
    assert asked == [24]
    assert all(name.startswith("unlabeled/") for name in names(content))
    assert (content["labelled"], content["unlabelled"]) == (24, 18)
    assert content["classes"] == list(CLASSES)
    items = open_suggested(tmp_path / "s")
    with Decisions(tmp_path / "s" / FILE) as decisions:
        page = opened(items, decisions)
        assert decide(page, action="relabel", ids=[0], label="disc").status_code == 200
        assert not decisions.standing[items.name(0)].new, "the data has that class"


def test_a_pool_that_no_disk_holds_is_chosen_from_alike(
    album: Path, chosen: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    content = api.suggest(album, tmp_path / "s", budget=12, quiet=True, store_gb=0.0, **LOOK)
    assert content["suggested"] == chosen[1]["suggested"]


def test_images_in_memory_are_labelled_from_python(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted((photos / "unlabeled").iterdir())
    table = hf.table([path.read_bytes() for path in paths], [0] * len(paths), names=CLASSES)
    data = {"unlabeled": hf.dataset(table)}
    out = tmp_path / "s"
    content = tutelage.suggest(data, out, budget=3, **LOOK)
    assert content["command"].startswith(f"tutelage.suggest(DATA, {str(out)!r}, budget=3")
    assert f"label them: tutelage.api.review({str(out)!r}, data=DATA)" in capsys.readouterr().err
    items = open_suggested(out, *open_data(data))
    assert [items.name(i) for i in range(len(items))] == names(content)
    with pytest.raises(TutelageError, match="cannot be opened from here; give the same data"):
        open_suggested(out)


# --- refusals


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("album", {"budget": 0}, "--budget is 0, expected at least 1 image to label"),
        ("album", {"labels_per_class": 3}, "'suggest' has no setting 'labels_per_class'"),
        ("album", {"classes": ["ant", "Ant"]}, "--classes: the classes 'Ant' and 'ant'"),
        ("album", {"classes": ["ant", ""]}, "--classes: a class name has 1 to 100"),
        ("photos", {"classes": ["Disc"]}, "--classes: the classes 'Disc' and 'disc'"),
        ("photos", {"decisions": "chosn"}, "no decisions in chosn"),
        ("photos/train", {}, "every training image of .*train has a label already; its classes are "
         "disc, square, triangle.* a folder called unlabeled"),
    ],
)  # fmt: skip
def test_what_cannot_be_suggested_is_refused_before_anything_heavy(
    data: str,
    options: dict[str, Any],
    said: str,
    album: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "need_training", lambda: pytest.fail("torch would be imported"))
    place = album if data == "album" else photos.parent / data.replace("photos", photos.name)
    with pytest.raises(TutelageError, match=said):
        api.suggest(place, tmp_path / "s", quiet=True, **{"budget": 4, **LOOK, **options})
    assert not (tmp_path / "s").exists()


def test_a_pool_of_copies_alone_is_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "train", tmp_path / "trips")
    pool = tmp_path / "trips" / "unlabeled"
    pool.mkdir()
    shutil.copy(photos / "train" / "disc" / "disc0.png", pool / "copy.png")
    with pytest.raises(
        TutelageError, match=r"no unlabelled image .*, 1 left out as copies of others"
    ):
        api.suggest(tmp_path / "trips", tmp_path / "s", budget=4, quiet=True, **LOOK)
    assert not (tmp_path / "s").exists()


def test_folders_of_others_and_of_another_request_stay(
    album: Path, begun: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for out, seed, said in (
        (tmp_path / "mine", 0, "is not empty and holds no tutelage run"),
        (begun, 1, "it was made with --seed 0, this command has"),
    ):
        before = contents(out)
        with pytest.raises(TutelageError, match=said):
            api.suggest(album, out, budget=12, quiet=True, seed=seed, **LOOK)
        assert contents(out) == before


def test_a_damaged_choice_is_not_drawn_anew(album: Path, begun: Path) -> None:
    (begun / "suggest.json").write_text('{"suggested": 3}')
    with pytest.raises(TutelageError, match=r"suggest\.json is damaged; restore it"):
        api.suggest(album, begun, budget=12, quiet=True, **LOOK)
    assert (begun / "suggest.json").read_text() == '{"suggested": 3}'
