"""Several students: kept as stages, judged on what none learned from, and told with their cost."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny
from costs import Fake

from tutelage import api
from tutelage.chain import pipeline, runs, student, students
from tutelage.chain.candidates import Candidate
from tutelage.chain.plan import Work
from tutelage.chain.stages import Beliefs, Fold, Outcome

SETTINGS = {
    **checks.SETTINGS,
    "minutes": 0.7,
    "trunk": "frozen",
    "student": "cut",
    "candidates": 2,
}
ARMS = ["student-1", "student-2"]


@pytest.fixture(autouse=True)
def _quick(own_cache: Path) -> Iterator[None]:
    with quick():
        yield


@contextmanager
def quick() -> Iterator[None]:
    """``checks.quick``, and made-up costs."""
    with checks.quick() as patch:
        patch.setattr(runs, "Untrained", lambda *_: Fake())
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("students") / "data", pool=20)


@pytest.fixture(scope="module")
def several(data: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with three students; tests only read it."""
    out = tmp_path_factory.mktemp("several") / "run"
    with quick():
        api.run(data, out, quiet=True, **SETTINGS)
    return out


def test_metrics_json_lists_the_students_and_keeps_its_contract(several: Path) -> None:
    metrics = json.loads((several / "metrics.json").read_text())
    assert metrics["stages"][-1] == metrics["final"]
    assert metrics["final"]["name"] == "student"
    assert not {entry["name"] for entry in metrics["stages"]} & set(ARMS)
    rows = metrics["students"]
    assert [row["name"] for row in rows] == ARMS
    assert set(rows[0]) == {
        "name", "student", "cut", "size", "parameters", "latency_ms", "megabytes", "seconds",
        "held_out", "chosen", "test",
    }  # fmt: skip
    assert [row["latency_ms"] for row in rows] == sorted(row["latency_ms"] for row in rows)
    (best,) = (row for row in rows if row["chosen"])
    assert best["test"] == metrics["final"]["test"]
    assert best["held_out"]["score"] == max(row["held_out"]["score"] for row in rows)
    assert best["held_out"]["n"] == 13  # a quarter of the pool, 40 + 12
    assert "agreement with the teacher" in best["held_out"]["by"]


def test_the_students_are_stages_on_disk(several: Path) -> None:
    assert {path.name for path in (several / "stages").iterdir()} >= {*ARMS, "student"}
    record = json.loads((several / "stages" / "student" / "stage.json").read_text())
    assert record["reason"].startswith("chosen of 2 students: agreement with the teacher")


def test_a_run_cut_off_among_its_students_goes_on(
    several: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = json.loads((several / "metrics.json").read_text())
    out = tmp_path / "run"
    shutil.copytree(several, out)
    for name in ("student-2", "student"):
        shutil.rmtree(out / "stages" / name)
    config = json.loads((out / "config.json").read_text())
    del config["student_choice"]
    (out / "config.json").write_text(json.dumps(config))
    distilled: list[int] = []
    distill = student.distill

    def counted(*arguments: Any) -> Outcome:
        distilled.append(1)
        return distill(*arguments)

    monkeypatch.setattr(student, "distill", counted)
    again = api.run(data, out, quiet=True, **SETTINGS)
    assert len(distilled) == 1
    for old, new in zip(whole["students"], again["students"], strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}


# --- the choice


def test_what_students_are_judged_on_none_of_them_learns_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_data(tmp_path / "data", pool=20)
    run = checks.prepared(tmp_path, monkeypatch, trunk="frozen", student="cut", candidates=2)
    held_out = students.held_out_pool(run)
    assert len(held_out) == len(run.task.pool) // 4
    assert set(held_out) < set(run.task.pool)
    assert np.array_equal(held_out, students.held_out_pool(run))
    seen: list[Any] = []

    def noted(shop: Any, task: Any, *rest: Any) -> Outcome:
        seen.append((shop.config.distill.student, set(task.pool)))
        return Outcome(run.base, Beliefs([None], np.full((len(task.judged), 2), np.nan)), False)

    monkeypatch.setattr(student, "distill", noted)
    students.student_stage(pipeline.Pipeline(run), run.base)
    assert [name for name, _ in seen] == [candidate.student for candidate, _ in run.students]
    assert all(pool == set(run.task.pool) - set(held_out) for _, pool in seen)


def beliefs(run: runs.Run, right: int) -> Beliefs:
    """Answers to a ``val`` split, the first of them right."""
    truth = run.task.judged_labels
    answers = np.where(np.arange(len(truth)) < right, truth, 1 - truth)
    return Beliefs([None], 4.0 * np.eye(2)[answers])


@pytest.mark.parametrize(("right", "best"), [([3, 6, 5], 1), ([4, 4, 2], 0)])
def test_a_val_split_chooses_and_of_equals_the_cheapest_is_taken(
    run: runs.Run, right: list[int], best: int
) -> None:
    everything = Fold(run.task.folds[0].keep, np.arange(len(run.task.judged)))
    run.task = dataclasses.replace(run.task, folds=(everything,))
    assert len(students.held_out_pool(run)) == 0
    arms = [Outcome(run.base, beliefs(run, n), frozen=False) for n in right]
    verdict = students._choose(run, arms, [run.base], run.task.pool[:0])
    assert verdict["chosen"] == best
    assert verdict["scores"] == [n / len(run.task.judged) for n in right]
    assert verdict["by"] == "accuracy on held-out labels"


def test_the_pool_chooses_by_agreement_with_the_teacher(
    run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = Beliefs([None], np.full((len(run.task.judged), 2), np.nan))
    arms = [Outcome(run.base, nobody, frozen=False)] * 3
    answers = iter([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])  # the teacher's last
    monkeypatch.setattr(students, "_look", lambda *_: np.eye(2)[next(answers)])
    verdict = students._choose(run, arms, [run.base], run.task.pool[:4])
    assert verdict["scores"] == [0.75, 1.0, 0.75]
    assert verdict["chosen"] == 1


def test_without_held_out_images_the_costliest_is_taken_and_that_is_told(run: runs.Run) -> None:
    nobody = Beliefs([None], np.full((len(run.task.judged), 2), np.nan))
    arms = [Outcome(run.base, nobody, frozen=False)] * 2
    verdict = students._choose(run, arms, [run.base], run.task.pool[:0])
    assert verdict["chosen"] == 1
    assert "no held-out image could judge them" in verdict["reason"]


def test_a_single_student_has_no_list(run: runs.Run) -> None:
    assert students.measure(run) == {}
    run.students = ((Candidate("cut", 32, 1, 1.0, 1.0), Work("trained")),)
    assert students.measure(run) == {}
