"""The pictures of a report: the right images, with the right words."""

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

from tutelage.chain import sheets, types
from tutelage.report.model import StageTest
from tutelage.stats.pseudo_labels import PseudoLabels, select
from tutelage.stats.unknown import Detection


def done(name: str, labels: PseudoLabels | None = None, *, accepted: bool = True) -> types.Finished:
    nothing = types.Beliefs([None], np.zeros((0, 2)))
    outcome = types.Outcome(SimpleNamespace(), nothing, True, labels)
    return types.Finished(name, accepted, "a reason", 1.0, None, outcome)


def labelled(run: types.Run) -> PseudoLabels:
    return select(np.random.default_rng(0).dirichlet([1, 1], len(run.task.pool)))


def by_title(run: types.Run, finished: list[types.Finished], tested: Any, k: int) -> dict[str, Any]:
    found = sheets.class_sheets(run, finished, run.split.indices("test"), tested)[k]
    assert found.name == run.catalog.classes[k]
    return {sheet.title: sheet for sheet in found.sheets}


def test_a_class_shows_its_surest_mistakes_with_names(run: types.Run) -> None:
    test = run.split.indices("test")
    truth = run.split.truth[test]
    wrong = np.eye(2)[1 - truth]
    weak = 0.6 * wrong + 0.4 * (1 - wrong)
    first = int(np.flatnonzero(truth == 0)[0])
    weak[first] = weak[first, ::-1]  # the first one is right
    last = int(np.flatnonzero(truth == 0)[-1])
    weak[last] = wrong[last]  # and this one the surest mistake
    tested = {"probe": StageTest(weak, truth)}
    found = by_title(run, [done("probe"), done("transfer", accepted=False)], tested, 0)
    mistakes, right = found["Wrong answers on test images"], found["Right answers on test images"]
    name, other = run.catalog.classes
    ants, _ = sheets.class_sheets(run, [done("probe")], test, tested)
    assert ants.note == f"{(truth == 0).sum() - 1} of {(truth == 0).sum()} test images wrong"
    assert len(mistakes.thumbs) == (truth == 0).sum() - 1
    assert mistakes.thumbs[0].caption == f"taken for {other} by probe, 100%"
    assert mistakes.thumbs[0].name == run.catalog.names[test[last]]
    assert mistakes.thumbs[1].caption == f"taken for {other} by probe, 60%"
    assert [thumb.caption for thumb in right.thumbs] == [f"called {name} by probe, 60%"]
    (expected,) = sheets.thumbs(run, test[[last]], [""])
    np.testing.assert_array_equal(mistakes.thumbs[0].image, expected.image)


def test_a_class_shows_sure_and_unsure_labels_of_the_last_kept_round(
    run: types.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "SURE", 1)
    monkeypatch.setattr(sheets, "UNSURE", 2)
    labels = labelled(run)
    later = dataclasses.replace(labels, confidence=np.zeros(len(labels.labels)))
    finished = [done("self-train-1", labels), done("self-train-2", later, accepted=False)]
    own = np.flatnonzero(labels.labels == 1)
    sheet = by_title(run, finished, {}, 1)["Pseudo-labels of self-train-1"]
    order = own[np.argsort(-labels.confidence[own], kind="stable")]
    names = [run.catalog.names[row] for row in run.task.pool[order]]
    assert [thumb.name for thumb in sheet.thumbs] == [names[0], *names[-2:]]
    label, percentage = run.catalog.classes[1], f"{labels.confidence[order[0]]:.0%}"
    sure = f"pseudo-label {label} in self-train-1, {percentage}"
    assert sheet.thumbs[0].caption == sure
    assert {thumb.mark for thumb in sheet.thumbs} == {""}
    assert sheet.note == f"{len(own)} unlabelled images; the 1 surest, then the 2 least sure."
    monkeypatch.setattr(sheets, "SURE", len(own))
    sheet = by_title(run, finished, {}, 1)["Pseudo-labels of self-train-1"]
    assert sheet.note == f"{len(own)} unlabelled images, the surest first."


def test_what_a_rejected_round_labelled_is_marked(run: types.Run) -> None:
    finished = [done("probe"), done("self-train-1", labelled(run), accepted=False)]
    sheet = by_title(run, finished, {}, 0)["Pseudo-labels of self-train-1"]
    assert "The round was rejected" in sheet.note
    assert {thumb.mark for thumb in sheet.thumbs} == {"rejected round"}


def test_of_many_classes_those_with_the_most_mistakes_are_shown(
    run: types.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "CLASSES", 1)
    test = run.split.indices("test")
    truth = run.split.truth[test]
    for worst in (0, 1):
        always_the_other = np.tile(np.eye(2)[1 - worst], (len(truth), 1))
        found = sheets.class_sheets(
            run, [done("probe")], test, {"probe": StageTest(always_the_other, truth)}
        )
        assert [one.name for one in found] == [run.catalog.classes[worst]]


def test_the_strong_view_is_shown_beside_no_class(run: types.Run) -> None:
    (views,) = sheets.sheets(run, [done("probe")])
    rows = np.concatenate([run.task.labeled, run.task.pool])[: sheets.SHOWN]
    assert [thumb.name for thumb in views.thumbs] == [run.catalog.names[row] for row in rows]
    plain = sheets.thumbs(run, rows, [""] * len(rows))
    assert all(
        not np.array_equal(a.image, b.image) for a, b in zip(views.thumbs, plain, strict=True)
    )


def test_images_out_of_class_have_a_sheet_of_their_own(run: types.Run) -> None:
    n = len(run.task.pool)
    probs = np.random.default_rng(0).dirichlet([1, 1], n)
    detection = Detection(np.arange(n, dtype=float), limit=n - 4.0)
    finished = [done("self-train-1", select(probs, detection))]
    _, far = sheets.sheets(run, finished)
    names = [run.catalog.names[row] for row in run.task.pool[[n - 1, n - 2, n - 3]]]
    assert [thumb.name for thumb in far.thumbs] == names
    shown = [
        thumb.name
        for one in sheets.class_sheets(run, finished, run.split.indices("test"), {})
        for sheet in one.sheets
        for thumb in sheet.thumbs
    ]
    assert shown
    assert not set(names) & set(shown)


def test_copies_are_shown_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.write_data(tmp_path / "data")
    shutil.copy(data / "test" / "bee" / "bee3.png", data / "train" / "ant" / "same.png")
    shutil.copy(data / "train" / "ant" / "ant1.png", data / "unlabeled" / "again.png")
    run = checks.prepared(tmp_path, monkeypatch, trunk="frozen")
    _, copies = sheets.sheets(run, [])
    assert [thumb.caption for thumb in copies.thumbs] == [
        "exact: train/ant/same.png (train, ant) of test/bee/bee3.png (test, bee)",
        "exact: unlabeled/again.png (train, unlabelled) of train/ant/ant1.png (train, ant)",
    ]
    for thumb in copies.thumbs:
        left, right = np.split(thumb.image, 2, axis=1)
        np.testing.assert_array_equal(left, right)


def test_wrong_labels_come_first_then_images_to_label_then_doubtful_labels(
    run: types.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "TO_REVIEW", 5)
    n_labels, n = len(run.task.labeled), len(run.task.labeled) + len(run.task.pool)
    worklist: dict[str, list[Any]] = {
        "given": ["ant"] * n_labels + [None] * (n - n_labels),
        "label": ["bee"] * n,
        "confidence": [0.9] * n,
        "other": ["ant"] * n,
        "suspicion": [0.1, 0.7, 0.2, *[0.0] * (n_labels - 3), *[np.nan] * (n - n_labels)],
        "next": [None] * n_labels + [1, 0] + [None] * (n - n_labels - 2),
    }
    found = sheets.to_review(run, worklist)
    rows = [*run.task.labeled[[1]], *run.task.pool[[1, 0]], *run.task.labeled[[2, 0]]]
    assert [thumb.name for thumb in found] == [run.catalog.names[row] for row in rows]
    assert [thumb.caption for thumb in found[:2]] == [
        "labelled ant, probably bee: 70% likely to be wrong",
        "bee or ant? No label yet; number 1 to label next",
    ]
    assert found[3].caption == "labelled ant: 20% likely to be wrong, and then bee"
    worklist["label"][2], worklist["other"][2] = "ant", "bee"
    assert sheets.to_review(run, worklist)[3].caption == found[3].caption
