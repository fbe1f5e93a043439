"""What a run leaves for a person to look at."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("timm")

import torch

from tutelage.chain import pipeline, types, worklist
from tutelage.chain.run import teach
from tutelage.chain.worklist import held_out_beliefs
from tutelage.stats.calibrate import softmax

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def taught(chain: pipeline.Pipeline) -> pipeline.Pipeline:
    teach(chain, self_training=False)
    return chain


def test_every_training_image_is_listed_once(taught: pipeline.Pipeline) -> None:
    worklist.write_worklist(taught)
    run = taught.run
    rows = parquet.read_table(run.folder.path / "review.parquet").to_pylist()
    names, task = run.catalog.names, run.task
    assert [row["image"] for row in rows] == [names[i] for i in (*task.labeled, *task.pool)]
    n = len(task.labeled)
    assert [row["given"] for row in rows[:n]] == [run.catalog.classes[k] for k in task.labels]
    assert {row["given"] for row in rows[n:]} == {None}
    assert all(np.isnan(row["suspicion"]) for row in rows[n:])
    assert all(0 <= row["suspicion"] <= 1 for row in rows[:n])
    ranks = [row["next"] for row in rows if row["next"] is not None]
    assert sorted(ranks) == list(range(len(ranks)))
    assert len(ranks) > 0
    assert all(row["label"] != row["other"] for row in rows)
    # The pool's labels are those of the teacher.
    pool = taught.teacher.outcome.beliefs.pool[0]
    assert [row["label"] for row in rows[n:]] == [run.catalog.classes[k] for k in pool.argmax(1)]
    facts = json.loads((run.folder.path / "review.json").read_text())
    assert facts["classes"] == list(run.catalog.classes)
    assert facts["label_errors"]["judged"] == n


@pytest.mark.parametrize(
    ("suspected", "expected", "words"),
    [(0, 0, "None of your 16 labels looks wrong."),
     (0, 1, "None of your 16 labels looks wrong. In all, about 1 may be."),
     (1, 1, "1 of your 16 labels looks wrong: start with “Your labels”, the most doubtful come "
      "first."),
     (3, 5, "3 of your 16 labels look wrong: start with “Your labels”, the most doubtful come "
      "first. In all, about 5 may be.")],
)  # fmt: skip
def test_doubtful_labels_are_counted_in_labels(suspected: int, expected: int, words: str) -> None:
    assert worklist._doubt(16, suspected, expected) == words


def test_a_teacher_that_labelled_the_pool_as_it_learned_is_asked_about_it(
    taught: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = taught.teacher.outcome
    known = outcome.beliefs.pool[0]
    asked = []
    look = pipeline.clean_logits

    def noted(*arguments: object) -> object:
        asked.append(arguments[1])
        return look(*arguments)

    monkeypatch.setattr(pipeline, "clean_logits", noted)
    outcome.beliefs.pool[0] = None
    worklist.write_worklist(taught)
    np.testing.assert_allclose(taught.pool_logits, known, atol=1e-4)
    assert asked == [outcome.model]  # once


def test_a_label_is_judged_by_models_that_did_not_see_it(taught: pipeline.Pipeline) -> None:
    before = held_out_beliefs(taught, taught.finished)
    assert np.isfinite(before).all()
    # A stage that was judged on one image only has the say about that one alone.
    last = taught.finished[-1]
    judged = np.full_like(last.outcome.beliefs.judged, np.nan)
    judged[0] = [5.0, -5.0]
    beliefs = types.Beliefs(last.outcome.beliefs.pool, judged)
    outcome = dataclasses.replace(last.outcome, beliefs=beliefs)
    later = [*taught.finished, dataclasses.replace(last, outcome=outcome)]
    after = held_out_beliefs(taught, later)
    assert after[0, 0] > 0.9
    np.testing.assert_array_equal(after[1:], before[1:])


def test_with_a_val_split_folds_of_the_labels_judge_them(taught: pipeline.Pipeline) -> None:
    run = taught.run
    task = run.task
    run.task = dataclasses.replace(
        task,
        judged=task.pool[:3],
        judged_labels=np.zeros(3, dtype=np.int64),
        folds=(types.Fold(np.ones(len(task.labels), bool), np.arange(3)),),
    )
    probs = held_out_beliefs(taught, taught.finished)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0)
    seen = taught.finished[-1].outcome.model.head
    with torch.no_grad():
        own = seen(taught.features.labeled.views[0][:, : seen.in_features]).numpy()
    assert np.abs(softmax(own) - probs).max() > 1e-3, "not the model that saw them"
