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

from tutelage.chain import evidence, types
from tutelage.models.folder import load_model
from tutelage.stats.metrics import Comparison
from tutelage.stats.pseudo_labels import PseudoLabels, select

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
    outcome = types.Outcome(SimpleNamespace(), nothing, True, labels)
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


def test_every_pool_image_is_in_the_table_of_every_round(tmp_path: Path) -> None:
    run, taken = small_run([0] * 5), labels_of([True, False, True, True, True])
    run.folder = SimpleNamespace(path=tmp_path)
    finished = [done("probe"), done("self-train-1", taken), done("self-train-2", taken)]
    for stages, twice in ((finished, 2), (finished[:1], 0)):  # it keeps its columns, too
        evidence.write_pseudo_labels(run, stages)
        table = parquet.read_table(tmp_path / "pseudo_labels.parquet")
        assert [(field.name, str(field.type)) for field in table.schema] == [
            ("image", "string"), ("label", "string"), ("confidence", "double"), ("round", "int32"),
            ("accepted", "bool"), ("reason", "string"),
        ]  # fmt: skip
        found = table.to_pydict()
        assert found["image"] == list("bcdef") * twice
        assert found["label"] == ["ant", "bee", "ant", "bee", "bee"] * twice
        assert found["confidence"] == pytest.approx([0.9, 0.8, 0.6, 0.7, 0.95] * twice)
        assert found["round"] == ([1] * 5 + [2] * 5)[: 5 * twice]
        assert found["accepted"] == [True, False, True, True, True] * twice
    assert list(contents(tmp_path)) == ["pseudo_labels.parquet"]


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


def test_held_out_answers_are_the_models_own_or_its_teachers() -> None:
    logits = np.array([[2.0, 0.0], [np.nan, np.nan], [0.0, 1.0]])
    labels = np.array([0, 1, 1])

    def stage(name: str, judged: np.ndarray, *, accepted: bool = True) -> types.Finished:
        model = SimpleNamespace(spec=SimpleNamespace(temperature=2.0))
        outcome = types.Outcome(model, types.Beliefs([None], judged), True)
        return types.Finished(name, accepted, "", 1.0, None, outcome)

    nothing = np.full((3, 2), np.nan)
    probe, student = stage("probe", logits), stage("student", nothing)
    rejected = stage("transfer", -logits, accepted=False)
    found = evidence.held_out([probe, rejected, student], labels)
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.probs[:, 0], 1 / (1 + np.exp([-1.0, 0.5])))
    assert evidence.held_out([probe], labels) is not None
    # A teacher that was not judged has no held-out answers, whatever came before it.
    assert evidence.held_out([probe, stage("self-train-1", nothing), student], labels) is None
    assert evidence.held_out([probe, stage("self-train-1", nothing)], labels) is None


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


def test_test_figures_are_told_without_copies(
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
    found = evidence.leakage(run, evidence.Tested(test, run.split.truth[test], {"probe": right}))
    assert {name: found[name] for name in ("test", "val", "two_labels", "left_out", "pairs")} == {
        "test": 1, "val": 0, "two_labels": 1, "left_out": 2, "pairs": 2
    }  # fmt: skip
    assert found["without"]["probe"]["n"] == len(test) - 1
    assert found["without"]["probe"]["accuracy"] == 1.0


def test_without_copies_nothing_is_told(run: types.Run) -> None:
    test = run.split.indices("test")
    even = {"probe": np.full((12, 2), 0.5)}
    found = evidence.leakage(run, evidence.Tested(test, run.split.truth[test], even))
    assert found == {
        "test": 0, "val": 0, "two_labels": 0, "left_out": 0, "pairs": 0, "without": {}
    }  # fmt: skip
    assert not any("copies" in note for note in run.notes)
