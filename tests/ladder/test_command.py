"""``tutelage ladder``: its draws, its folder and its page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny
from drawn import SEEDS
from locked import is_locked

from tutelage import api
from tutelage.chain import pipeline, trained, types
from tutelage.config import RunConfig, make_config
from tutelage.data.open import read_catalog
from tutelage.data.split import load_split
from tutelage.ladder import command, draws
from tutelage.ladder.draws import Ladder
from tutelage.ladder.figures import HELPS, HURTS, UNCLEAR
from tutelage.ladder.request import ARMS
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.progress import Progress
from tutelage.training.loader import Canvases

pytestmark = pytest.mark.usefixtures("quick")

# Two arms are whole chains; test_arms.py has these.
CLIMBED = [arm for arm in ARMS if arm not in ("no-augmentation", "no-transfer")]


Climbed = tuple[Path, dict[str, Any]]


def climb(data: Path, out: Path, **changed: Any) -> dict[str, Any]:
    asked = {"seeds": 2, "arms": CLIMBED, "curve": [2], **checks.LADDER, **changed}
    return api.ladder(data, out, quiet=True, **asked)


@pytest.fixture(scope="module")
def climbed(data: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Climbed:
    """An undisturbed ladder over two draws; tests only read it."""
    out = tmp_path_factory.mktemp("climbed") / "ladder"
    with checks.quick():
        return out, climb(data, out)


@pytest.fixture
def copied(climbed: Climbed, tmp_path: Path) -> Climbed:
    """The same in a folder that a test may change."""
    out, content = climbed
    return shutil.copytree(out, tmp_path / "ladder"), content


def figures(content: dict[str, Any]) -> dict[str, Any]:
    """What two equal ladders share: all but the clock's figures and the command."""
    arms = [
        {k: v for k, v in arm.items() if k not in ("seconds", "total_seconds", "latency_ms")}
        for arm in content["arms"]
    ]
    return {"arms": arms} | {k: content[k] for k in ("seeds", "n_test", "differences", "verdict")}


# --- the draws


def test_arms_share_their_seeds_split_and_seeds_differ(climbed: Climbed, data: Path) -> None:
    out, content = climbed
    assert content["seeds"] == [0, 1]
    catalog = read_catalog(data)
    roles = []
    for seed in content["seeds"]:
        folder = out / f"seed-{seed}"
        split = load_split(folder / "split.parquet", catalog, np.ones(len(catalog), bool))
        assert len(split.indices("labeled")) == 8
        roles.append(split.roles)
        stored = {path.name for path in (folder / "stages").iterdir()}
        assert stored == {"scratch", "augment", "probe", "transfer", "self-train-1", "fine-tune",
                          "student-alone", "student"} | without_rounds(folder)  # fmt: skip
        config = json.loads((folder / "config.json").read_text())
        assert config["request"]["settings"]["data"]["seed"] == seed
    test = roles[0] == "test"
    assert test.sum() == content["n_test"] == 12
    assert np.array_equal(test, roles[1] == "test")
    assert not np.array_equal(roles[0] == "labeled", roles[1] == "labeled")
    plans = [json.loads((out / f"seed-{s}" / "config.json").read_text())["plan"] for s in (0, 1)]
    assert plans[0] == plans[1]


def without_rounds(folder: Path) -> set[str]:
    """The stage of the student before the rounds, which only differs where one was kept."""
    stage = json.loads((folder / "stages" / "self-train-1" / "stage.json").read_text())
    return {"no-self-train"} if stage["accepted"] else set()


# --- the folder


def test_a_second_call_trains_nothing_and_finds_the_same(
    copied: Climbed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, content = copied
    monkeypatch.setattr(draws, "prepare", never)
    again = climb(data, copy)
    assert again | {"created": ""} == content | {"created": "", "command": again["command"]}


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("this was finished")


def test_a_ladder_that_was_cut_off_goes_on(
    copied: Climbed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, content = copied
    # As a kill in the second draw's student leaves it.
    for name in ("ladder.json", "ladder.html", "seed-1/metrics.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "seed-1" / "stages" / "student")
    before = (copy / "seed-1" / "stages" / "fine-tune" / "stage.json").read_bytes()
    labels = counted(monkeypatch)
    again = climb(data, copy)
    assert set(labels) == {"student"}
    assert figures(again) == figures(content)
    assert (copy / "seed-1" / "stages" / "fine-tune" / "stage.json").read_bytes() == before
    for now, was in zip(again["arms"], content["arms"], strict=True):
        # Without an accepted round the student before the rounds is the student.
        assert now["seconds"] == was["seconds"] or now["name"] in ("student", "no-self-train")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trainings from now on."""
    labels: list[str] = []
    fit: Callable[..., Any] = trained.fit

    def noted(
        run: Any, model: Any, step: Any, loader: Any, settings: Any, label: str, *rest: Any
    ) -> Any:
        labels.append(label)
        return fit(run, model, step, loader, settings, label, *rest)

    monkeypatch.setattr(trained, "fit", noted)
    return labels


def test_other_arms_are_another_ladder_and_more_seeds_are_the_same(
    copied: Climbed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, content = copied
    with pytest.raises(TutelageError, match="holds another run: it was made with --arms"):
        climb(data, copy, arms=["probe"], curve=None)
    shutil.copytree(copy / "seed-1", copy / "seed-2")  # as if it had been run
    third = copy / "seed-2" / "metrics.json"
    known = json.loads((copy / "seed-1" / "metrics.json").read_text())
    third.write_text(json.dumps(known | {"seed": 2}))
    monkeypatch.setattr(draws, "prepare", never)
    more = climb(data, copy, seeds=3)
    assert more["seeds"] == [0, 1, 2]
    for arm, before in zip(more["arms"], content["arms"], strict=True):
        assert arm["each"] == [*before["each"], before["each"][1]]


@pytest.mark.parametrize(
    ("where", "changed", "words"),
    [("one class", {}, "labelled training images of at least 2 classes are needed; found: ant"),
     ("no test", {}, "needs labelled test images .* the splits are: train. Put some into test/"),
     ("", {"engine": "slurm"}, "no engine called 'slurm'; --engine takes local or ray"),
     ("", {"address": "here:1"}, "--address is that of a Ray cluster; add --engine ray"),
     ("", {"seeds": 1}, "--seeds is 1, expected 2 or more"),
     ("", {"arms": ["probe", "prob"]}, "no arm called 'prob'; --arms takes some of scratch,"),
     ("", {"arms": []}, "no arms given"),
     ("", {"alhpa": 1}, "'ladder' has no setting 'alhpa'; did you mean 'alpha'"),
     ("", {"weights": "nowhere"}, "nowhere")],
)  # fmt: skip
def test_what_cannot_be_climbed_is_refused_before_anything_is_written(
    where: str, changed: dict[str, Any], words: str, data: Path, tmp_path: Path
) -> None:
    if where == "one class":
        data = shutil.copytree(data, tmp_path / "d", ignore=shutil.ignore_patterns("bee"))
    if where == "no test":
        data = shutil.copytree(data / "train", tmp_path / "d")
    with pytest.raises(TutelageError, match=words):
        climb(data, tmp_path / "out", **{"curve": None, **changed})
    assert not (tmp_path / "out").exists()


def test_the_page_grows_with_every_draw_from_the_second_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = iter(SEEDS)
    monkeypatch.setattr(draws, "run_seed", lambda *_, **__: dict(next(made_up)))
    out = tmp_path / "ladder"
    seen = []
    figures = command.ladder_figures

    def noted(draws: Any, *rest: Any, **options: Any) -> Any:
        seen.append((len(draws), (out / "ladder.html").exists()))
        return figures(draws, *rest, **options)

    monkeypatch.setattr(command, "ladder_figures", noted)
    wanted = ["probe", "fine-tune", "transfer", "student"]
    content = climb(data, out, seeds=3, arms=wanted, curve=None)
    assert seen == [(2, False), (3, True)]
    assert content["seeds"] == [0, 1, 2]
    assert content["arms"][0]["total_seconds"] == 11.0
    assert content["curve"] == []
    assert "tutelage ladder: ant, bee" in (out / "ladder.html").read_text()


def test_the_page_and_the_file_say_the_same(climbed: Climbed) -> None:
    out, content = climbed
    assert json.loads((out / "ladder.json").read_text()) == content
    text = (out / "ladder.html").read_text()
    assert content["verdict"].replace("'", "&#39;") in text
    for change in content["differences"]:
        assert change["verdict"] in (HELPS, HURTS, UNCLEAR)
        assert change["mean"] == pytest.approx(np.mean(change["each"]))
    assert content["command"].endswith(f"--seeds 2 --arms {','.join(CLIMBED)} --curve 2")
    assert content["summary"].startswith(content["verdict"])
    rest = content["summary"].removeprefix(content["verdict"]).strip()
    assert rest.replace("'", "&#39;") in text
    fewer, own = content["curve"]
    assert (fewer["labels"], fewer["own"], own["labels"], own["own"]) == (4, False, 8, True)
    by_name = {arm["name"]: arm for arm in content["arms"]}
    assert own["each_without_pool"] == by_name["transfer"]["each"]
    assert own["each_with_pool"] == by_name["self-train"]["each"]
    assert content["worth"]["labels"] == 8
    assert not content["worth"]["more"]
    assert content["arms"][-1]["latency_ms"] > 0
    assert content["settings"]["data"]["labels_per_class"] == 4


def asked(data: Path, out: Path, seeds: int, **settings: Any) -> Ladder:
    """A ladder of one arm."""
    config = make_config("ladder", {**checks.LADDER, **settings})
    return Ladder(read_catalog(data), str(data), out, config, ["probe"], [], seeds)


def test_all_draws_share_the_choice_of_a_student(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[Path] = []

    def noted(*_: Any, **options: Any) -> None:
        shared.append(options["shared"].path)
        raise TutelageError("enough")

    monkeypatch.setattr(draws, "prepare", noted)
    ladder = asked(data, tmp_path / "all", 2)
    for work in (draws.choose_student, draws.train_draw):
        for draw in ladder.draws:
            with pytest.raises(TutelageError, match="enough"):
                work(ladder, draw, Console(quiet=True))
    assert shared == [tmp_path / "all"] * 4


def test_the_bar_tells_the_draw_and_later_how_long_the_others_take(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, now = [], [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def run_seed(*arguments: Any, **_: Any) -> dict[str, Any]:
        progress = arguments[-1].progress
        with progress.part("probe"):
            shown.append(progress.text())
        now[0] += 90.0
        return {}

    monkeypatch.setattr(draws, "run_seed", run_seed)
    console = Console(progress=Progress(clock=lambda: now[0]))
    list(command.train_draws(asked(data, tmp_path / "out", 3), None, console))
    assert shown == [
        "[1/3] draw 1: probe",
        "[2/3] draw 2: probe, 3:00 left",
        "[3/3] draw 3: probe, 1:30 left",
    ]
    assert "2 more will take about 3 minutes" in capsys.readouterr().err


def test_test_images_are_looked_at_after_the_last_stage_and_once_by_each(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    take, save = Canvases.take, pipeline.save_stage

    def watched(self: Canvases, rows: Any) -> Any:
        log.append([int(row) for row in rows])
        return take(self, rows)

    def noted(folder: Path, done: types.Finished) -> None:
        log.append(done.name)
        save(folder, done)

    monkeypatch.setattr(Canvases, "take", watched)
    monkeypatch.setattr(pipeline, "save_stage", noted)
    ladder = asked(data, tmp_path, 2)
    catalog, out = ladder.catalog, tmp_path / "run"
    draws.run_seed(ladder, out, ladder.config, checks.CHAIN, Console(quiet=True))
    test = set(np.flatnonzero(catalog.splits == "test").tolist())
    last = max(place for place, entry in enumerate(log) if isinstance(entry, str))
    assert log[last] == "student"
    assert not any(test & set(entry) for entry in log[:last] if not isinstance(entry, str))
    looks = [entry for entry in log[last + 1 :] if test & set(entry)]
    # One for all heads on the untouched trunk, one each for fine-tune and the two students.
    assert len(looks) == 4
    assert all(set(look) == test for look in looks)


def test_a_draw_without_readable_test_images_lets_other_processes_in(
    data: Path, tmp_path: Path
) -> None:
    copy, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, copy)
    for path in (copy / "test").glob("*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(TutelageError, match="labelled test images that can be read"):
        api.ladder(copy, out, quiet=True, **checks.LADDER)
    assert not is_locked(out)
    assert not is_locked(out / "seed-0")


# --- known silent bugs


def test_ladder_draws_are_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[int, str]] = []

    def noted(_: Any, out: Path, config: RunConfig, *__: Any, **___: Any) -> Any:
        seeds.append((config.data.seed, out.name))
        return {}

    monkeypatch.setattr(draws, "run_seed", noted)
    ladder = asked(tiny.write_data(tmp_path / "d"), tmp_path / "out", 3, seed=5)
    for draw in ladder.draws:
        draws.train_draw(ladder, draw, Console(quiet=True))
    assert seeds == [(5, "seed-5"), (6, "seed-6"), (7, "seed-7")]
