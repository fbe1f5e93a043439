"""What a finished run shows: tables by hand, sheets of the right images."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny
from shapes import contents, read_metrics

from tutelage.chain import evidence, pipeline, types
from tutelage.chain.run import teach
from tutelage.models.folder import load_model
from tutelage.stats.metrics import Comparison
from tutelage.stats.pseudo_labels import PseudoLabels, select
from tutelage.stats.unknown import Detection

parquet = pytest.importorskip("pyarrow.parquet")
PROBS = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.05, 0.95]])


def done(
    name: str,
    labels: PseudoLabels | None = None,
    *,
    accepted: bool = True,
    comparison: Comparison | None = None,
) -> types.Finished:
    nothing = types.Beliefs([None], np.zeros((0, 2)))
    outcome = types.Outcome(SimpleNamespace(), nothing, True, labels)  # type: ignore[arg-type]
    return types.Finished(name, accepted, "a reason", 1.0, comparison, outcome)


def small_run(truth: list[int]) -> Any:
    """Five pool images among seven; the pool is rows 1 to 5."""
    return SimpleNamespace(
        catalog=SimpleNamespace(names=tuple("abcdefg"), classes=("ant", "bee")),
        split=SimpleNamespace(truth=np.array([0, *truth, 1])),
        task=SimpleNamespace(pool=np.arange(1, 6)),
    )


def labels_of(accepted: list[bool]) -> PseudoLabels:
    return dataclasses.replace(select(PROBS), accepted=np.array(accepted))


def test_every_pool_image_is_in_the_table_of_every_round() -> None:
    taken = labels_of([True, False, True, True, True])
    finished = [done("probe"), done("self-train-1", taken), done("self-train-2", taken)]
    table = evidence.pseudo_label_table(small_run([0] * 5), finished)
    assert table["image"] == list("bcdef") * 2
    assert table["label"] == ["ant", "bee", "ant", "bee", "bee"] * 2
    assert table["confidence"] == pytest.approx([0.9, 0.8, 0.6, 0.7, 0.95] * 2)
    assert table["round"] == [1] * 5 + [2] * 5
    assert table["accepted"] == [True, False, True, True, True] * 2
    assert len(set(map(len, table.values()))) == 1


def test_precision_counts_accepted_images_of_known_truth_only() -> None:
    # taken: b ant (truth ant), d ant (unknown), e bee (truth ant), f bee (truth bee); c is not
    rows = evidence.pseudo_rows(
        small_run([0, 0, -1, 0, 1]),
        [done("self-train-1", labels_of([True, False, True, True, True]))],
    )
    ant, bee = rows
    assert (ant["class"], ant["round"], ant["selected"], ant["pool"]) == ("ant", 1, 2, 2)
    assert (ant["known"], ant["precision"]) == (1, 1.0)
    assert ant["mean_confidence"] == pytest.approx(0.75)
    assert (bee["selected"], bee["pool"], bee["known"], bee["precision"]) == (2, 3, 2, 0.5)


def test_without_truth_there_is_no_precision() -> None:
    labels = labels_of([True, False, True, False, False])
    rows = evidence.pseudo_rows(small_run([-1] * 5), [done("self-train-3", labels)])
    assert [row["precision"] for row in rows] == [None, None]
    assert [row["mean_confidence"] for row in rows] == [pytest.approx(0.75), None]
    assert [row["round"] for row in rows] == [3, 3]
    assert evidence.pseudo_rows(small_run([-1] * 5), [done("transfer")]) == []


def test_decisions_are_the_comparisons() -> None:
    comparison = Comparison(
        n=20, wins=1, losses=9, before=0.8, after=0.4, nll_before=0.5, nll_after=1.0
    )
    finished = [done("probe"), done("transfer", accepted=False, comparison=comparison)]
    assert evidence.decisions(finished) == [
        {
            "stage": "transfer", "accepted": False, "reason": "a reason", "before": 0.8,
            "after": 0.4, "n": 20, "wins": 1, "losses": 9,
        }
    ]  # fmt: skip


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    run = small_run([0] * 5)
    run.folder = SimpleNamespace(path=tmp_path)
    evidence.write_pseudo_labels(run, [done("probe")])
    table = parquet.read_table(tmp_path / "pseudo_labels.parquet")
    assert table.num_rows == 0
    assert [str(field.type) for field in table.schema] == [
        "string", "string", "double", "int32", "bool", "string",
    ]  # fmt: skip
    assert list(contents(tmp_path)) == ["pseudo_labels.parquet"]


def test_deployment_measures_what_is_delivered(finished: Path) -> None:
    models = {name: load_model(finished / name) for name in ("teacher", "student")}
    paths = {"teacher": finished / "teacher" / "model.onnx", "student": finished / "student.onnx"}
    named = []
    for name, model in models.items():
        stage = done(name)
        stage.outcome.model = model
        named.append((name, stage, paths[name]))
    rows = {row["name"]: row for row in evidence.deployment(named)}
    for name, key in (("teacher", "teacher"), ("student", "final")):
        assert rows[name]["parameters"] == read_metrics(finished)[key]["parameters"]
        assert rows[name]["bytes"] >= paths[name].stat().st_size
        assert 0 < rows[name]["latency_ms_p05"] <= rows[name]["latency_ms_p50"]
    assert rows["student"]["bytes"] < rows["teacher"]["bytes"]


def test_sheets_show_views_sure_and_unsure_labels_and_worst_mistakes(run: types.Run) -> None:
    probs = np.random.default_rng(0).dirichlet([1, 1], len(run.task.pool))
    labels = select(probs)
    finished = [done("probe"), done("self-train-1", labels)]
    test = run.split.indices("test")
    wrong = np.eye(2)[1 - run.split.truth[test]]
    wrong[0] = wrong[0, ::-1]  # the first one is right
    weak = 0.6 * wrong + 0.4 * (1 - wrong)
    weak[3] = wrong[3]  # and this one the surest mistake
    views, sure, unsure, worst = evidence.sheets(run, finished, {"self-train-1": weak})
    assert views.title == "The strong view"
    rows = np.concatenate([run.task.labeled, run.task.pool])[: evidence.SHOWN]
    assert [thumb.caption for thumb in views.thumbs] == [run.catalog.names[row] for row in rows]
    plain = evidence._thumbs(run, rows, [""] * len(rows))
    assert all(
        not np.array_equal(a.image, b.image) for a, b in zip(views.thumbs, plain, strict=True)
    )
    top, bottom = labels.confidence.argmax(), labels.confidence.argmin()
    for sheet, at in ((sure, top), (unsure, bottom)):
        name = run.catalog.classes[labels.labels[at]]
        assert sheet.thumbs[0].caption == f"{name} {labels.confidence[at]:.0%}"
        (expected,) = evidence._thumbs(run, run.task.pool[[at]], [""])
        np.testing.assert_array_equal(sheet.thumbs[0].image, expected.image)
    assert len(worst.thumbs) == len(test) - 1
    truth, other = (run.catalog.classes[k] for k in (run.split.truth[test[3]],
                                                     1 - run.split.truth[test[3]]))  # fmt: skip
    assert worst.thumbs[0].caption == f"{truth}, taken for {other} 100%"
    assert "self-train-1" in worst.note


def test_images_out_of_class_have_a_sheet_of_their_own(run: types.Run) -> None:
    n = len(run.task.pool)
    probs = np.random.default_rng(0).dirichlet([1, 1], n)
    detection = Detection(np.arange(n, dtype=float), limit=n - 4.0)
    done_round = done("self-train-1", select(probs, detection))
    run.split.roles[run.split.indices("test")] = "unused"
    sheets = {sheet.title: sheet for sheet in evidence.sheets(run, [done_round], {})}
    far = sheets["Out of class (round 1)"].thumbs
    for thumb, row in zip(far, run.task.pool[[n - 1, n - 2, n - 3]], strict=True):
        (expected,) = evidence._thumbs(run, np.array([row]), [""])
        np.testing.assert_array_equal(thumb.image, expected.image)
    others = sheets["Least confident pseudo-labels (round 1)"].thumbs
    assert not any(np.array_equal(a.image, b.image) for a in far for b in others)
    assert sum(row["pool"] for row in evidence.pseudo_rows(run, [done_round])) == n - 3


def test_without_test_images_and_rounds_there_are_only_views(run: types.Run) -> None:
    run.split.roles[run.split.indices("test")] = "unused"
    sheets = evidence.sheets(run, [done("probe")], {})
    assert [sheet.title for sheet in sheets] == ["The strong view"]


def test_the_cloud_holds_labelled_and_unlabelled_images_in_the_unit_square(
    chain: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(chain, self_training=False)
    monkeypatch.setattr(evidence, "CLOUD", (3, 5))
    points = evidence.cloud(chain)
    assert [point.labeled for point in points] == [True] * 3 + [False] * 5
    xy = np.array([[point.x, point.y] for point in points])
    np.testing.assert_allclose([xy.min(axis=0), xy.max(axis=0)], [[0, 0], [1, 1]])
    classes = chain.run.catalog.classes
    for point in points:
        word = "labelled" if point.labeled else "taken for"
        assert f": {word} {classes[point.group]}" in point.caption
        assert point.image.shape == (evidence.CLOUD_SIDE, evidence.CLOUD_SIDE, 3)
    names = {point.caption.rpartition(": ")[0] for point in points}
    assert len(names) == 8
    test = {chain.run.catalog.names[row] for row in chain.run.split.indices("test")}
    assert not names & test


def test_copies_are_shown_side_by_side_and_test_figures_told_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.write_data(tmp_path / "data")
    shutil.copy(data / "test" / "bee" / "bee3.png", data / "train" / "ant" / "same.png")
    shutil.copy(data / "train" / "ant" / "ant1.png", data / "unlabeled" / "again.png")
    run = checks.prepared(tmp_path, monkeypatch, trunk="frozen")
    test = run.split.indices("test")
    where = [run.catalog.names[row] for row in test].index("test/bee/bee3.png")
    right = np.eye(2)[run.split.truth[test]] * 0.8 + 0.1
    right[where] = right[where][::-1]  # the only mistake
    found = evidence.leakage(run, {"probe": right})
    assert {name: found[name] for name in ("test", "val", "two_labels", "left_out", "pairs")} == {
        "test": 1, "val": 0, "two_labels": 1, "left_out": 2, "pairs": 2
    }  # fmt: skip
    assert found["without"]["probe"]["n"] == len(test) - 1
    assert found["without"]["probe"]["accuracy"] == 1.0
    sheet = evidence._copies_sheet(run)
    assert [thumb.caption for thumb in sheet.thumbs] == [
        "exact: train/ant/same.png (train, ant) of test/bee/bee3.png (test, bee)",
        "exact: unlabeled/again.png (train, unlabelled) of train/ant/ant1.png (train, ant)",
    ]
    for thumb in sheet.thumbs:
        left, right_half = np.split(thumb.image, 2, axis=1)
        np.testing.assert_array_equal(left, right_half)
    assert "Copies" in [sheet.title for sheet in evidence.sheets(run, [], {})]


def test_without_copies_nothing_is_told(run: types.Run) -> None:
    found = evidence.leakage(run, {"probe": np.full((12, 2), 0.5)})
    assert found == {
        "test": 0, "val": 0, "two_labels": 0, "left_out": 0, "pairs": 0, "without": {}
    }  # fmt: skip
    assert not any("copies" in note for note in run.notes)
