"""Whole runs: their folder, that they repeat, that a kill costs nothing, and odd data sets."""

import csv
import dataclasses
import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import torch
from commands import Commands
from locked import is_locked
from processes import on_ranks
from shapes import (
    CLASSES,
    FINISHED,
    SETTINGS,
    as_options,
    contents,
    read_metrics,
    read_stage,
    short_student,
    write_shapes,
)
from tarred import tar_tree, write_tar

from tutelage import api, cli
from tutelage.chain import (
    answers,
    evidence,
    frozen,
    keep,
    pipeline,
    plan,
    pool,
    types,
)
from tutelage.chain.plan import RunPlan, Work
from tutelage.chain.prepare import cut_by_budget, prepare
from tutelage.chain.run import teach
from tutelage.chain.sheets import class_sheets
from tutelage.config import make_config
from tutelage.data import store
from tutelage.data.open import read_catalog
from tutelage.data.stream import StreamedImages
from tutelage.models.classifier import members_of
from tutelage.models.folder import load_model
from tutelage.stats.metrics import Comparison
from tutelage.system.errors import TutelageError

parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("own_cache")

TRANSFER = {name: value for name, value in SETTINGS.items() if name not in ("student", "rounds")}
STAGES = ["probe", "transfer", "self-train-1", "self-train-2", "student"]
FIGURES = {
    *("n", "accuracy", "accuracy_ci95", "majority", "balanced_accuracy"),
    *("macro_f1", "ece", "nll"),
}


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Students of few steps, as that of the run that tests share."""
    with short_student():
        yield


@pytest.fixture
def quick() -> Iterator[None]:
    """A known machine and trainings of four steps, where what is learned does not matter."""
    with checks.quick():
        yield


def prepared(data: Path, out: Path, **settings: Any) -> types.Run:
    config = make_config("run", {**SETTINGS, **settings})
    return prepare("run", read_catalog(data), str(data), out, config, quiet=True)


def taught(run: types.Run) -> pipeline.Pipeline:
    """Its chain after the last round."""
    chain = pipeline.Pipeline(run)
    teach(chain, self_training=True)
    return chain


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


# --- the folder


def test_a_run_folder_is_complete(finished: Path) -> None:
    found = {path.name for path in finished.iterdir()}
    assert found == {
        "config.json", "split.parquet", "metrics.json", "events.jsonl", "teacher", "student",
        "student.onnx", "student.onnx.json", "pseudo_labels.parquet", "skipped.csv", "report.html",
        "stages", "review.parquet", "review.json", "MODEL_CARD.md", "duplicates.csv",
    }  # fmt: skip
    for model in ("teacher", "student"):
        assert {"model.safetensors", "model.json"} <= set(contents(finished / model))
    assert (finished / "teacher" / "model.onnx.json").is_file()
    assert sorted(p.name for p in (finished / "stages").iterdir()) == sorted(STAGES)


def test_metrics_json_is_as_documented(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics) == {"stages", "final", "teacher", "leakage"}
    assert metrics["leakage"]["pairs"] == 0
    assert [entry["name"] for entry in metrics["stages"]] == STAGES
    for entry in metrics["stages"]:
        name = entry["name"]
        assert set(entry) == {"name", "accepted", "seconds", "parameters", "val", "test"}, name
        kinds = {"name": str, "accepted": bool, "seconds": float, "parameters": int}
        assert {key: type(entry[key]) for key in kinds} == kinds, name
        assert set(entry["test"]) == FIGURES, name
        assert entry["test"]["n"] == 18, name
        low, high = entry["test"]["accuracy_ci95"]
        assert 0 <= low < entry["test"]["accuracy"] <= high + 1e-12 <= 1 + 1e-12, name
        if name == "student":  # judged by test alone: it chose nothing
            assert entry["val"] is None
        else:
            assert set(entry["val"]) == FIGURES, name
            assert entry["val"]["n"] == 12, name
    accepted = [e for e in metrics["stages"] if e["accepted"] and e["name"] != "student"]
    assert metrics["teacher"] == accepted[-1]
    assert metrics["final"] == metrics["stages"][-1]
    assert metrics["final"]["parameters"] < metrics["teacher"]["parameters"]
    assert min(metrics[name]["test"]["accuracy"] for name in ("teacher", "final")) > 0.6


def test_events_are_objects_in_order(finished: Path) -> None:
    rows = events(finished)
    assert all({"time", "event"} <= set(row) for row in rows)
    times = [row["time"] for row in rows]
    assert times == sorted(times)
    assert [row["name"] for row in rows if row["event"] == "stage"] == STAGES
    started = [row["label"] for row in rows if row["event"] == "start"]
    assert started == [row["label"] for row in rows if row["event"] == "end"]
    assert {"decoding", "features", "student", "test, student"} <= set(started)
    assert any(
        "student.onnx gives the same class as PyTorch" in row.get("text", "") for row in rows
    )


def test_config_json_holds_every_setting_and_what_was_resolved(
    finished: Path, photos: Path
) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert set(config) == {
        "request", "place", "plan", "machine", "versions", "notes", "clusters", "streamed",
        "decoded_seconds", "prepared_seconds", "images", "finished",
    }  # fmt: skip
    assert config["place"] == str(photos.resolve())
    assert config["streamed"] is False
    assert config["request"]["command"] == "run"
    assert config["request"]["data"] == str(photos)
    settings = {k: v for g in config["request"]["settings"].values() for k, v in g.items()}
    assert settings.keys() == set(checks.settings())
    assert settings.items() >= FINISHED.items()
    assert config["plan"]["size"] == 32
    assert len(config["plan"]["rounds"]) == 2
    assert {"tutelage", "torch", "timm"} <= set(config["versions"])


def test_split_parquet_says_which_image_had_which_role(finished: Path, photos: Path) -> None:
    rows = parquet.read_table(finished / "split.parquet").to_pylist()
    files = {str(p.relative_to(photos)) for p in photos.rglob("*") if p.is_file()}
    assert {row["image"] for row in rows} == files
    roles = [row["role"] for row in rows]
    assert {role: roles.count(role) for role in set(roles)} == {
        "labeled": 12, "unlabeled": 30, "test": 18,
    }  # fmt: skip
    for row in rows:
        split, name = row["image"].split("/")[:2]
        assert row["role"] == "test" or split in ("train", "unlabeled")
        assert row["label"] == (name if row["role"] == "labeled" else None)
        assert row["truth"] == (None if split == "unlabeled" else name)


def test_pseudo_labels_parquet_tells_every_round(finished: Path) -> None:
    table = parquet.read_table(finished / "pseudo_labels.parquet")
    assert table.column_names == ["image", "label", "confidence", "round", "accepted", "reason"]
    rows = table.to_pylist()
    split = parquet.read_table(finished / "split.parquet").to_pylist()
    pool = sorted(row["image"] for row in split if row["role"] == "unlabeled")
    for number in (1, 2):
        of_round = [row for row in rows if row["round"] == number]
        assert sorted(row["image"] for row in of_round) == pool
        assert {row["label"] for row in of_round} <= set(CLASSES)
        assert all(1 / 3 <= row["confidence"] <= 1 for row in of_round)
        for row in of_round:
            assert row["accepted"] == (row["reason"] == "accepted")
            assert row["accepted"] or row["reason"].startswith("out of class: distance ")
    assert len(rows) == 60


def test_the_report_is_of_this_run(finished: Path, photos: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    for text in (*STAGES, *CLASSES, f"tutelage run {photos}", "--labels-per-class 4"):
        assert text in page
    assert "could not be read and took no part" not in page
    assert (finished / "skipped.csv").read_text() == "image,reason\n"


# --- repeating


def test_a_finished_run_is_not_changed_by_its_command(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    ours = contents(run)
    words = ["run", str(photos), "--out", str(run), *as_options(FINISHED)]
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert cli.main(words) == 0
    assert capsys.readouterr().err == f"already finished: report {run}/report.html\n"
    assert contents(run) == ours
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == times

    # Where its report is gone, it decides nothing again and changes no figure.
    (run / "report.html").unlink()
    assert cli.main([*words, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    again = contents(run)
    assert again.keys() == ours.keys()
    anew = ("events.jsonl", "report.html", "MODEL_CARD.md")  # they tell the time, or the folder
    for name in again:
        if name not in anew and not name.endswith(".onnx"):
            assert again[name] == ours[name], name


def checkpointed(run: Path) -> int:
    """The student's newest step that was saved."""
    saved = (run / "stages" / ".student.trainings").glob("*/0*.safetensors")
    return max((int(path.name.partition("-")[0]) for path in saved), default=0)


def test_ranks_do_what_one_process_does(finished: Path, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = on_ranks(2, lambda: api.run(photos, run, quiet=True, **FINISHED))
    assert told[0] == json.loads((run / "metrics.json").read_text())
    assert told[1] == {}
    assert contents(run).keys() == contents(finished).keys()
    assert [e["name"] for e in events(run) if e["event"] == "stage"] == STAGES
    ours, theirs = read_metrics(run), read_metrics(finished)
    for entry, expected in zip(ours["stages"], theirs["stages"], strict=True):
        assert entry["accepted"] == expected["accepted"]
        assert entry["test"]["n"] == 18  # each once, though the ranks shared them
        for split in ("val", "test"):
            if expected[split] is not None:
                figures = {n: v for n, v in entry[split].items() if n != "accuracy_ci95"}
                assert figures == pytest.approx(
                    {name: expected[split][name] for name in figures}, rel=1e-3
                ), entry["name"]
    pools = [
        np.load(folder / "stages" / "probe" / "beliefs.npz")["pool0"] for folder in (run, finished)
    ]
    np.testing.assert_allclose(*pools, rtol=1e-6)


def test_a_stage_that_the_disk_damaged_is_named_and_done_anew(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    weights = run / "stages" / "student" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (run / "metrics.json").unlink()  # as if it was cut off after its last stage
    assert cli.main(["run", str(photos), "--out", str(run), *as_options(FINISHED)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    said = captured.err
    assert "12 labelled, 30 unlabelled, 0 val, 18 test images of 3 classes" in said
    assert "labels of each class: disc (4), square (4), triangle (4)\n" in said
    assert "student: done" in said
    assert f"report: {run / 'report.html'}" in said
    assert "stage student is damaged (the bytes of model.safetensors are not those" in said
    assert weights.read_bytes() == whole
    assert read_metrics(run) == read_metrics(finished)
    assert (run / "stages" / ".student.damaged" / "model.safetensors").exists()


def unmeasured(plan: dict[str, Any]) -> dict[str, Any]:
    """What a plan decides, without the seconds that are measured on the machine."""
    works = [plan["transfer"], *plan["rounds"], plan["student"]]
    decided = [{**work, "seconds": None} for work in works]
    seconds = ("estimated", "after", "frozen", "lesson")
    measured = dict.fromkeys(("transfer", "student", *(f"{name}_seconds" for name in seconds)))
    return {**plan, **measured, "rounds": decided}


def test_kills_in_every_stage_change_nothing(finished: Path, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {**FINISHED, "checkpoint_seconds": 0.05}
    words = ["run", str(photos), "--out", str(run), *as_options(settings)]

    def began(label: str) -> Callable[[], bool]:
        text = f'"event": "start", "label": "{label}"'
        return lambda: (
            (run / "events.jsonl").exists() and text in (run / "events.jsonl").read_text()
        )

    commands = Commands(tmp_path / "stderr")
    assert commands.run(words, sent=signal.SIGINT, when=began("features")) == 130
    said = commands.log.read_text()
    assert "stopped; run the same command again to continue" in said
    assert "Traceback" not in said
    for number, stage in enumerate(STAGES):
        if stage == "student":
            saved = partial(checkpointed, run)
            assert commands.run(words, sent=signal.SIGTERM, when=saved) == 143
            assert "ended by SIGTERM; run the same command again" in commands.log.read_text()
            further = partial(lambda at: checkpointed(run) > at, checkpointed(run))
            assert commands.run(words, sent=signal.SIGKILL, when=further) == -signal.SIGKILL
            assert not (run / "stages" / "student").exists()
        folder = run / "stages" / stage
        assert commands.run(words, sent=signal.SIGKILL, when=folder.exists) == -signal.SIGKILL
        assert not (run / "metrics.json").exists()
        assert all((run / "stages" / s / "stage.json").exists() for s in STAGES[: number + 1])
    assert commands.run(words) == 0, commands.log.read_text()
    assert f"continuing the run in {run}" in commands.log.read_text()
    assert read_metrics(run) == read_metrics(finished)
    for stage in STAGES:
        assert read_stage(run, stage) == read_stage(finished, stage)
    ours, theirs = contents(run), contents(finished)
    assert ours.keys() == theirs.keys()
    same = [name for name in ours if name.endswith(("safetensors", "parquet", "model.json"))]
    assert len(same) == 2 * (len(STAGES) + 2) + 3
    for name in same:
        assert ours[name] == theirs[name], name
    began_stages = [row["name"] for row in events(run) if row["event"] == "stage"]
    assert began_stages[-1] == "student"  # and nothing that was finished began once more:
    assert sorted(set(began_stages), key=began_stages.index) == STAGES
    config = json.loads((run / "config.json").read_text())
    expected = json.loads((finished / "config.json").read_text())
    assert unmeasured(config["plan"]) == unmeasured(expected["plan"])
    assert config["notes"] == expected["notes"]


# --- folders


def test_a_foreign_folder_is_refused_and_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(TutelageError, match="holds no tutelage run; choose another --out"):
        api.run(photos, tmp_path, quiet=True, **SETTINGS)
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


def test_another_runs_folder_is_refused_by_what_differs(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    before = contents(finished)
    copied = shutil.copytree(photos, tmp_path / "data")
    for data, changed, difference in (
        (photos, {"seed": 0}, "it was made with --seed 3, this command has --seed 0"),
        (photos, {"student": "cut:3"}, "it was made with --student cut:2, this"),
        (copied, {}, f"its data is '{photos}'"),
    ):
        with pytest.raises(TutelageError, match=re.escape(difference)):
            api.run(data, finished, quiet=True, **{**FINISHED, **changed})
    with pytest.raises(TutelageError, match="its command is 'run', this command's is 'transfer'"):
        api.transfer(photos, finished, quiet=True)
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"student": "cut:99"}, "99"),
        ({"student": "cut:two"}, "expected cut, cut:N or a timm architecture"),
        ({"student": "test_efficientne"}, "test_efficientnet"),
        ({"student_weights": "x.safetensors"}, "not for one that is cut"),
        ({"teacher": "tset_resnet"}, "test_resnet"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"labels_per_class": 0}, "--labels-per-class is 0, expected 1 or more"),
    ],
)
def test_a_refused_command_gives_a_new_folder_back(
    settings: dict[str, Any], reason: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(TutelageError, match=reason):
        api.run(photos, tmp_path / "run", quiet=True, **{**SETTINGS, **settings})
    assert not (tmp_path / "run").exists()


def test_a_refused_command_keeps_the_run_that_it_would_have_continued(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = shutil.copytree(photos, tmp_path / "data")
    config = checks.make_config("run", FINISHED)
    catalog = checks.read_catalog(data)
    prepare("run", catalog, str(data), tmp_path / "run", config, quiet=True).close()
    before = contents(tmp_path / "run")
    (data / "train" / "disc" / "disc0.png").unlink()
    with pytest.raises(TutelageError, match=r"the images changed since .* 0 new, 1 gone"):
        api.run(data, tmp_path / "run", quiet=True, **FINISHED)
    after = contents(tmp_path / "run")
    assert {n: c for n, c in after.items() if n != "events.jsonl"} == {
        n: c for n, c in before.items() if n != "events.jsonl"
    }
    assert not is_locked(tmp_path / "run")
    types.RunFolder(tmp_path / "run").pin("finished", ["metrics.json"])
    judged = shlex.join(["tutelage", "evaluate", str(tmp_path / "run"), str(data)])
    with pytest.raises(TutelageError, match=f"the run is finished: {re.escape(judged)} judges it"):
        api.run(data, tmp_path / "run", **FINISHED)
    assert "continuing" not in capsys.readouterr().err


# --- choices


def test_permuted_test_labels_change_test_figures_only(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "test").rename(data / "was")
    for k, name in enumerate(CLASSES):
        shutil.copytree(data / "was" / name, data / "test" / CLASSES[(k + 1) % 3])
    shutil.rmtree(data / "was")
    run = tmp_path / "run"
    ours = api.run(data, run, quiet=True, **FINISHED)
    for stage in STAGES:
        assert read_stage(run, stage) == read_stage(finished, stage)
        for name in ("model.safetensors", "model.json", "beliefs.npz"):
            same = (run / "stages" / stage / name, finished / "stages" / stage / name)
            assert same[0].read_bytes() == same[1].read_bytes(), (stage, name)
    changed, known = contents(run / "student"), contents(finished / "student")
    for files in (changed, known):
        files.pop("reference.npz")  # for `tutelage watch`: its labels are those of the test images
    assert changed == known
    name = "pseudo_labels.parquet"
    assert (run / name).read_bytes() == (finished / name).read_bytes()
    theirs = read_metrics(finished)
    assert [e["val"] for e in ours["stages"]] == [e["val"] for e in theirs["stages"]]
    assert ours["final"]["test"]["accuracy"] < 0.5 < theirs["final"]["test"]["accuracy"]


@pytest.mark.usefixtures("quick")
def test_val_is_what_choices_are_made_on_and_the_student_answers_it_too(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", train=4, pool=6, val=5, test=2)
    run = tmp_path / "run"
    metrics = api.run(data, run, quiet=True, **{**FINISHED, "rounds": 0})
    assert [entry["name"] for entry in metrics["stages"]] == ["probe", "transfer", "student"]
    truth = np.repeat([0, 1, 2], 5)
    right = []
    for entry in metrics["stages"][:2]:
        folder = run / "stages" / entry["name"]
        with np.load(folder / "beliefs.npz") as beliefs:
            assert set(beliefs) == {"judged", "pool0"}  # one chain: no label is held out
            right.append(beliefs["judged"].argmax(axis=1) == truth)
        assert entry["val"]["n"] == 15
        assert entry["val"]["accuracy"] == pytest.approx(right[-1].mean())
    comparison = read_stage(run, "transfer")["comparison"]
    assert comparison["n"] == 15
    assert comparison["before"] == pytest.approx(right[0].mean())
    assert comparison["after"] == pytest.approx(right[1].mean())
    assert comparison["wins"] == int((right[1] & ~right[0]).sum())
    val = metrics["final"]["val"]
    again = api.evaluate(run / "student", data, split="val")
    assert val["n"] == again["n"] == 15
    assert val["accuracy"] == again["accuracy"]
    assert val["nll"] == pytest.approx(again["nll"], abs=1e-2)


def test_a_round_that_loses_is_rejected_and_ends_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch, trunk="frozen", rounds=3)
    real = frozen.self_train
    rounds = []

    def worse(run: types.Run, *rest: Any) -> types.Outcome:
        rounds.append(len(rest))
        outcome = real(run, *rest)
        outcome.beliefs.judged = -100 * np.eye(run.task.n_classes)[run.task.judged_labels]
        return outcome

    monkeypatch.setattr(frozen, "self_train", worse)
    chain = taught(run)
    assert [done.name for done in chain.finished] == ["probe", "transfer", "self-train-1"]
    lost = chain.finished[-1]
    assert not lost.accepted
    assert lost.reason.startswith("it gets 8 fewer of 8 held-out images right than the step before")
    assert chain.teacher.name == "transfer"
    assert len(rounds) == 1
    said = run.folder.events.read_text()
    assert "the 2 rounds after self-train-1 are left out: a round learns from the one" in said
    loaded = keep.load_stage(run.folder.stages / "self-train-1", "self-train-1")
    assert not loaded.accepted
    assert loaded.comparison == lost.comparison
    metrics, tested = evidence.measure(run, chain.finished)
    assert metrics["teacher"]["name"] == metrics["final"]["name"] == "transfer"
    assert set(tested.probs) == {"probe", "transfer", "self-train-1"}


def clusters_say(
    monkeypatch: pytest.MonkeyPatch, *, agreement: float, likelier: bool, heads: float = 0.65
) -> list[types.Beliefs]:
    """Let made-up beliefs be what the pool's clusters say; returns them as they are asked for."""
    asked = []

    def ask(run: types.Run, *_: Any) -> pool.Clustered:
        task = run.task
        logits: list[Any] = [checks.some_beliefs(task, 1) for _ in task.folds]
        beliefs = types.Beliefs(logits, 3 * np.eye(task.n_classes)[task.judged_labels])
        asked.append(beliefs)
        return pool.Clustered(beliefs, agreement, likelier, heads)

    monkeypatch.setattr(pool, "ask_clusters", ask)
    return asked


@pytest.mark.parametrize(
    ("rounds", "said", "trained"),
    [
        (None, {"agreement": 0.1, "likelier": False}, 0),
        (None, {"agreement": 0.1, "likelier": True}, 0),
        (None, {"agreement": 0.6, "likelier": False}, 1),
        (1, {"agreement": 0.1, "likelier": False}, 1),
    ],
)
def test_planned_rounds_end_before_they_begin_where_clusters_are_not_the_classes(
    rounds: int | None, said: Any, trained: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters_say(monkeypatch, **said)
    run = checks.prepared(tmp_path, monkeypatch, trunk="frozen", rounds=rounds)
    run.plan = dataclasses.replace(run.plan, rounds=run.plan.rounds[:1])
    names = ["probe", "transfer", "self-train-1"][: 2 + trained]
    assert [done.name for done in taught(run).finished] == names
    left_out = (
        "there is no round of self-training, because the unlabelled images do not seem to group by "
        f"class, as far as {len(run.task.labeled)} labels can tell"
    )
    assert any(fact.startswith(left_out) for fact in run.facts) == (trained == 0)


@pytest.mark.parametrize("likelier", [True, False])
def test_clusters_label_the_pool_with_the_head_for_the_first_round_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, likelier: bool
) -> None:
    asked = clusters_say(monkeypatch, agreement=0.7, likelier=likelier)
    teachers = []
    real = pool.label_pool

    def note(run: types.Run, teacher: types.Beliefs, *rest: Any) -> Any:
        teachers.append((teacher, rest[0]))
        return real(run, teacher, *rest)

    monkeypatch.setattr(pool, "label_pool", note)
    monkeypatch.setattr(pipeline, "judge", lambda *_: Comparison(8, 3, 0, 0.5, 0.9, 0.7, 0.4))
    run = checks.prepared(tmp_path, monkeypatch, trunk="frozen", rounds=2)
    chain = taught(run)
    (clusters,) = asked
    transfer, first = (done.outcome for done in chain.finished[1:3])
    expected = transfer.beliefs
    if likelier:
        expected = answers.mean_beliefs(run.task, expected, clusters)
    (given, temperature), (then, after) = teachers
    np.testing.assert_array_equal(given.judged, expected.judged)
    for ours, theirs in zip(given.pool, expected.pool, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert temperature == answers.temperature_of(run.task, expected)
    assert then is first.beliefs
    assert after == first.model.spec.temperature
    said = any("clusters of the unlabelled images" in fact for fact in run.facts)
    assert said == likelier
    # The run that goes on asks no clusters again: what they were worth is in its folder.
    again = checks.prepared(tmp_path, monkeypatch, trunk="frozen", rounds=2)
    taught(again)
    assert len(asked) == 1
    assert again.facts == run.facts


def test_a_spent_budget_leaves_rounds_out_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minutes in (0.0, 60.0):  # the second is the same run, continued
        run = checks.prepared(tmp_path, monkeypatch, trunk="frozen", rounds=2)
        run.clock.budget = 60 * minutes
        chain = taught(run)
        assert [done.name for done in chain.finished] == ["probe", "transfer"]
        note = "self-train-1 was left out, because no time was left for it (--minutes)"
        assert run.notes.count(note) == 1


def test_a_run_says_what_augmented_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["by the kernels"], ["plain torch augments"]
    monkeypatch.setattr("tutelage.chain.prepare.augmented_by", lambda device: said)
    run = checks.prepared(tmp_path, monkeypatch, trunk="frozen")
    assert "by the kernels" in run.facts
    assert "plain torch augments" in run.notes


# --- odd data sets


ODD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no unlabelled images, trained trunk": ({"pool": 0, "train": 4}, {"trunk": "trained"}),
    "a trained round": ({}, {"labels_per_class": 4, "trunk": "trained"}),
    "an online round": ({}, {"labels_per_class": 4, "trunk": "online"}),
    "1 label per class, no test split": ({"test": 0}, {"labels_per_class": 1}),
    "40:2:2": ({"train": (40, 2, 2), "pool": 0, "test": 3, "side": 8}, {}),
    "12 images": ({"train": 4, "pool": 0, "test": 0}, {}),
    "greyscale, middle stages": ({"mode": "L"}, {"labels_per_class": 4, "features": "levels"}),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ODD)
def test_odd_data_sets_give_a_complete_run(name: str, tmp_path: Path) -> None:
    images, settings = ODD[name]
    data = write_shapes(tmp_path / "data", **images)
    run = tmp_path / "run"
    metrics = api.run(data, run, quiet=True, **{**SETTINGS, **settings})
    names = [entry["name"] for entry in metrics["stages"]]
    pool = images.get("pool", 18) > 0 or "labels_per_class" in settings
    assert names == ["probe", "transfer", *(["self-train-1"] if pool else []), "student"]
    assert json.loads((run / "metrics.json").read_text()) == metrics
    if images.get("test") == 0:
        assert all(entry["test"] is None for entry in metrics["stages"])
    else:
        assert metrics["final"]["test"]["n"] == 3 * images.get("test", 6)
    if settings.get("labels_per_class") == 1:  # no label can be held out
        assert all(entry["val"] is None for entry in metrics["stages"])
        unjudged = "it was not judged, because there are no held-out labels to compare on"
        assert read_stage(run, "transfer")["reason"] == unjudged
    table = parquet.read_table(run / "pseudo_labels.parquet")
    assert len(table) == (0 if not pool else len(read_pool(run)))
    for path in (run / "report.html", run / "teacher" / "model.onnx"):
        assert path.stat().st_size > 10_000
    (row, *_), skipped = api.predict(run, [data / "train" / "disc"])
    assert not skipped
    assert set(row.probabilities) == set(CLASSES)
    assert sum(row.probabilities.values()) == pytest.approx(1, abs=1e-4)


def test_a_class_with_one_label_is_not_counted_as_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Any] = []

    def noted(config: Any, amounts: Any, *rest: Any, **options: Any) -> Any:
        counted.append(amounts)
        return plan.make_plan(config, amounts, *rest, **options)

    monkeypatch.setattr("tutelage.chain.prepare.make_plan", noted)
    data = write_shapes(tmp_path / "data", train=(6, 1, 1), pool=2, test=0)
    run = prepared(data, tmp_path / "run", labels_per_class=None)
    (amounts,) = counted
    assert (amounts.labeled, amounts.judged) == (8, 6)
    judged = [number for fold in run.task.folds[1:] for number in fold.judges]
    assert len(set(judged)) == amounts.judged


def read_pool(run: Path) -> list[str]:
    rows = parquet.read_table(run / "split.parquet").to_pylist()
    return [row["image"] for row in rows if row["role"] == "unlabeled"]


@pytest.mark.usefixtures("quick")
def test_a_class_missing_from_test_and_an_empty_class_folder_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_shapes(tmp_path / "data", train=4, pool=0)
    shutil.rmtree(data / "test" / "square")
    (data / "train" / "wasp").mkdir()
    run = tmp_path / "run"
    metrics = api.run(data, run, **SETTINGS)
    test = metrics["final"]["test"]
    assert test["n"] == 12
    assert 0 <= test["macro_f1"] <= 1
    note = "class folder train/wasp holds no images: left out"
    assert note in capsys.readouterr().err
    assert any(note in text for text in json.loads((run / "config.json").read_text())["notes"])
    assert note.capitalize() in (run / "report.html").read_text()
    assert api.evaluate(run, data)["n"] == 12


@pytest.mark.usefixtures("quick")
def test_an_unreadable_image_is_skipped_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_shapes(tmp_path / "data", train=4, pool=4, test=2)
    whole = (data / "train" / "disc" / "disc0.png").read_bytes()
    (data / "unlabeled" / "torn.png").write_bytes(whole[: len(whole) // 2])
    (data / "test" / "disc" / "text.jpg").write_text("no image")
    run = tmp_path / "run"
    assert api.transfer(data, run, **TRANSFER)["final"]["test"]["n"] == 6
    said = capsys.readouterr().err
    assert f"2 images could not be read: see {run / 'skipped.csv'}" in said
    assert "2 unreadable images were skipped (skipped.csv)" in said
    with (run / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["test/disc/text.jpg", "unlabeled/torn.png"]
    assert all(row["reason"] for row in rows)
    page = (run / "report.html").read_text()
    assert "unlabeled/torn.png" in page
    split = {r["image"]: r["role"] for r in parquet.read_table(run / "split.parquet").to_pylist()}
    assert split["unlabeled/torn.png"] == split["test/disc/text.jpg"] == "unused"
    figures = api.evaluate(run, data)
    assert (figures["n"], figures["skipped"]) == (6, 1)


def test_settings_that_this_plan_cannot_use_are_said(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", train=3, pool=0, test=0)
    run = prepared(data, tmp_path / "run", lr_trunk=0.01, threshold=0.5)
    notes = [note for note in run.notes if "no effect" in note]
    assert notes[0] == "no effect: --threshold; no round of self-training is planned"
    assert notes[1].startswith("no effect in this plan: --lr-trunk; --trunk trained")


@pytest.mark.parametrize("features", ["last", "levels"])
def test_a_head_on_the_middle_stages_is_said(tmp_path: Path, features: str) -> None:
    data = write_shapes(tmp_path / "data", train=3, pool=0, test=0)
    run = prepared(data, tmp_path / "run", features=features)
    teach(pipeline.Pipeline(run), self_training=False)
    said = [fact for fact in run.facts if "middle stages" in fact]
    begins = "the classifier also looks at the middle stages of the pretrained network"
    assert said == ([f"{begins}, as --features levels asks"] if features == "levels" else [])


@pytest.mark.usefixtures("quick")
def test_a_trained_round_starts_from_a_choice_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_shapes(tmp_path / "data", train=3, test=0)
    run = prepared(data, tmp_path / "run", trunk="trained", rounds=2)
    assert [work.trunk for work in run.plan.rounds] == ["frozen", "trained"]
    monkeypatch.setattr(pipeline.Pipeline, "start", {"metric": "plain", "strength": 77.0})
    fit, used = frozen.fit_fold_heads, []

    def noted(run: Any, features: Any, choice: Any, *rest: Any) -> Any:
        used.append(choice["strength"])
        return fit(run, features, choice, *rest)

    monkeypatch.setattr(frozen, "fit_fold_heads", noted)
    chain = taught(run)
    assert used[-2:] == [chain.choice["strength"], 77.0]


@pytest.mark.usefixtures("quick")
def test_several_trunks_are_one_teacher_from_the_probe_to_the_student(
    photos: Path, tmp_path: Path
) -> None:
    run, pair = tmp_path / "run", "test_efficientnet,test_resnet"
    settings = {**FINISHED, "teacher": pair, "rounds": 1}
    api.run(photos, run, quiet=True, **settings)
    names = [load_model(run / "stages" / stage).spec.architecture for stage in ("probe", "student")]
    assert names == [pair.replace(",", "+"), "test_efficientnet"]
    images = [photos / "test"]
    exported, _ = api.predict(run / "teacher" / "model.onnx", images)
    exported_too = shutil.ignore_patterns("*.onnx")  # else its exported file would answer
    alone = shutil.copytree(run / "teacher", tmp_path / "alone", ignore=exported_too)
    folder, _ = api.predict(alone, images)
    for one, other in zip(exported, folder, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-3)
    metrics, student = read_metrics(run), contents(run / "student")
    for stage in ("self-train-1", "student"):  # as a kill within the first round leaves the folder
        shutil.rmtree(run / "stages" / stage)
    (run / "metrics.json").unlink()
    api.run(photos, run, quiet=True, **settings)
    assert read_metrics(run) == metrics
    assert contents(run / "student") == student


@pytest.mark.usefixtures("quick")
def test_a_trained_round_of_several_trunks_trains_the_first(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", train=3, test=0)
    pair = "test_efficientnet,test_resnet"
    run = prepared(data, tmp_path / "run", teacher=pair, trunk="trained", rounds=2)
    chain = taught(run)
    models = [done.outcome.model for done in chain.finished]
    assert [len(model.spec.members) for model in models[-2:]] == [2, 0]
    assert models[-1].spec.architecture == "test_efficientnet"
    before, after = members_of(run.base)[0].trunk.state_dict(), models[-1].trunk.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_a_budget_that_is_too_short_is_said(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", train=3, pool=0, test=0)
    run = prepared(data, tmp_path / "run", minutes=0.1)
    (note,) = [note for note in run.notes if "even the shortest plan" in note]
    assert note.endswith(
        "longer than the 0.1 minutes that the run may take (--minutes): its trainings are "
        "shortened, which costs accuracy; give --minutes 1"
    )


def planned_for(minutes: float, size: int = 96, steps: int = 40, seconds: float = 90) -> RunPlan:
    head, student = Work("frozen", size=size), Work("trained", steps, size=size)
    return RunPlan(minutes, size, 2, 4, 0, head, (), student, seconds)


def longer(minutes: float) -> RunPlan:
    """At four minutes there is time for everything."""
    return planned_for(minutes, 224 if minutes >= 4 else 128, int(200 * minutes))


@pytest.mark.parametrize(
    ("plan", "command", "note"),
    [
        (
            planned_for(2, seconds=247),
            "run",
            "even the shortest plan takes about 4.1 minutes on this machine, longer than the 2 "
            "minutes that the run may take (--minutes): it looks at images at 96 px instead of "
            "224 px, it trains the student for 40 steps instead of 800 and its trainings are "
            "shortened, which costs accuracy; give --minutes 4",
        ),
        (
            planned_for(2),
            "self-train",
            "2 minutes (--minutes) are short for this run: it looks at images at 96 px instead of "
            "224 px, which costs accuracy; give --minutes 4",
        ),
        (planned_for(3, 160), "run", None),
        (planned_for(2), "distill", None),
        (planned_for(4, 224, 800), "run", None),
    ],
)
def test_what_a_short_budget_cuts_is_said(plan: RunPlan, command: str, note: str | None) -> None:
    assert cut_by_budget(command, plan, 260, longer) == ([note] if note else [])


# --- images that no disk holds


def test_a_streamed_run_is_the_one_with_a_store(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    api.run(photos, tmp_path / "run", quiet=True, store_gb=0.0, **FINISHED)
    assert read_metrics(tmp_path / "run") == read_metrics(finished)
    for name in ("student/model.safetensors", "stages/transfer/beliefs.npz"):
        assert contents(tmp_path / "run")[name] == contents(finished)[name], name
    assert "--store-gb" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_goes_on_with_streaming_when_there_is_room_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    room = store._room
    monkeypatch.setattr(store, "_room", lambda *_: False)
    first = prepared(photos, tmp_path / "streamed")
    assert isinstance(first.store.images, StreamedImages)
    (note,) = [note for note in first.notes if "--store-gb" in note]
    monkeypatch.setattr(store, "_room", room)
    again = prepared(photos, tmp_path / "streamed")
    assert isinstance(again.store.images, StreamedImages)
    assert note in again.notes
    other = prepared(photos, tmp_path / "stored")
    assert isinstance(other.store.images, np.memmap)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: (0, 0, 0))
    assert isinstance(prepared(photos, tmp_path / "stored").store.images, np.memmap)


def test_a_broken_image_of_a_tar_is_skipped(photos: Path, tmp_path: Path) -> None:
    tars = tar_tree(photos, tmp_path / "tars")
    write_tar(tars / "train-9999.tar", [("x.png", b"no image"), ("x.cls", b"disc")])
    prepared(tars, tmp_path / "run", store_gb=0.0)
    (row,) = csv.DictReader((tmp_path / "run" / "skipped.csv").read_text().splitlines())
    assert row["image"] == "train-9999.tar/x.png"
    assert "not a JPEG" in row["reason"]


def losing(monkeypatch: pytest.MonkeyPatch, place: str, image: Path) -> None:
    """Let an image be gone when the function at this place begins."""
    work = resolve_name(place.rpartition(".")[0] + ":" + place.rpartition(".")[2])

    def without(*given: Any, **options: Any) -> Any:
        image.unlink()
        return work(*given, **options)

    monkeypatch.setattr(place, without)


def streamed_transfer(data: Path, out: Path) -> dict[str, Any]:
    return api.transfer(data, out, quiet=True, store_gb=0.0, **TRANSFER)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("image", "judged"), [("unlabeled/03.jpg", 18), ("test/disc/disc3.jpg", 17)]
)
def test_a_streamed_image_that_is_lost_on_the_way_is_listed_and_not_judged(
    image: str, judged: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_shapes(tmp_path / "data")
    losing(monkeypatch, "tutelage.chain.run.teach", data / image)
    assert streamed_transfer(data, tmp_path / "run")["final"]["test"]["n"] == judged
    (row,) = csv.DictReader((tmp_path / "run" / "skipped.csv").read_text().splitlines())
    assert row["image"] == image
    assert "readable before" in row["reason"]
    assert image in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("quick")
def test_a_streamed_test_image_that_is_lost_once_it_is_judged_stays_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_shapes(tmp_path / "data")
    place = "tutelage.chain.finish.write_reference"  # before the report's pictures are drawn
    losing(monkeypatch, place, data / "test" / "disc" / "disc3.jpg")
    shown: list[Any] = []
    monkeypatch.setattr(
        evidence, "class_sheets", lambda *given: shown.extend(class_sheets(*given)) or shown
    )
    metrics = streamed_transfer(data, tmp_path / "run")
    assert metrics["final"]["test"]["n"] == 18
    assert [one.name for one in shown] == list(CLASSES)
    for one in shown:  # and each of the others keeps its own pictures
        names = [thumb.name for sheet in one.sheets for thumb in sheet.thumbs]
        assert names
        assert all(name.startswith(f"test/{one.name}/") for name in names)
    assert "test/disc/disc3.jpg" in [t.name for sheet in shown[0].sheets for t in sheet.thumbs]


@pytest.mark.parametrize(
    "record", ["[", "[]", '{"files": []}', '{"files": {"model.json": 5}}', None]
)
def test_a_stage_whose_record_is_damaged_or_lost_is_moved_aside(
    record: str | None, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished / "stages" / "probe", tmp_path / "probe")
    (folder / "stage.json").unlink()
    if record is not None:
        (folder / "stage.json").write_text(record)
    said: list[str] = []
    assert not keep.is_whole(folder, said.append)
    assert not folder.exists()
    assert "stage probe is damaged" in said[0]
    aside = tmp_path / ".probe.damaged"
    assert (aside / "model.json").exists()
    assert record is None or (aside / "stage.json").read_text() == record


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stage.json", b"["),
        ("stage.json", b"[]"),
        ("stage.json", b'{"folds": "x"}'),
        ("beliefs.npz", b""),
        ("beliefs.npz", b"\x80\x04N."),  # a pickle
        ("model.json", b"{}"),
        ("model.safetensors", b""),
    ],
)
def test_a_damaged_stage_is_named_with_the_mend(
    name: str, content: bytes, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "probe"
    shutil.copytree(finished / "stages" / "probe", folder)
    keep.load_stage(folder, "probe")
    (folder / name).write_bytes(content)
    with pytest.raises(TutelageError, match=r"the stage in .*probe cannot be read.*delete that"):
        keep.load_stage(folder, "probe")
