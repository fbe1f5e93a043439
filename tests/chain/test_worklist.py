"""What a run leaves for a person to look at."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("timm")

import torch

from tutelage.chain import pipeline, types, worklist
from tutelage.chain.run import teach
from tutelage.chain.worklist import Curve, held_out_beliefs, learning_curve
from tutelage.stats.calibrate import softmax
from tutelage.stats.label_errors import LabelErrors

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
    assert pool is not None
    assert [row["label"] for row in rows[n:]] == [run.catalog.classes[k] for k in pool.argmax(1)]
    facts = json.loads((run.folder.path / "review.json").read_text())
    assert facts["classes"] == list(run.catalog.classes)
    assert facts["label_errors"]["judged"] == n
    assert len(task.labels) < worklist.LEAST_LABELS
    assert facts["sentences"][1:] == [
        "What 50 more labels would bring is estimated from 40 labels on."
    ]
    assert facts["gain_of_50_labels"] is None


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
        return look(*arguments)  # type: ignore[arg-type]

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


@pytest.mark.parametrize("share", [0.75, 1.0])  # of the labels: without a val split, and with one
def test_the_gain_is_that_of_the_power_law_from_all_labels_on(share: float) -> None:
    learned = 40 * share * np.array([0.25, 0.5, 1.0])
    curve = Curve(learned, learned**-0.5)
    assert curve.gain(40, 50) == pytest.approx(40**-0.5 - 90**-0.5)  # 5.27 points
    assert curve.gain(40, 0) == 0.0


def test_the_gain_is_never_a_loss_nor_more_than_the_error() -> None:
    labels = np.array([25.0, 50.0, 100.0])
    assert Curve(labels, np.array([0.2, 0.25, 0.3])).gain(100, 50) == 0.0
    assert Curve(labels, np.array([0.2, 0.1, 0.0])).gain(100, 50) == 0.0
    for errors in ([0.9, 0.5, 0.1], [0.5, 0.01, 0.01]):
        assert 0 < Curve(labels, np.array(errors)).gain(100, 10**9) <= errors[-1]


def test_the_gain_is_told_from_the_number_of_labels_that_there_are(
    taught: pipeline.Pipeline,
) -> None:
    n = len(taught.run.task.labels)
    learned = np.array([n / 4, n / 2, 3 * n / 4])
    none_judged = LabelErrors(np.zeros(0), 0.0)
    told = worklist.facts(taught, none_judged, Curve(learned, learned**-0.5))
    assert told["gain_of_50_labels"] == pytest.approx(n**-0.5 - (n + 50) ** -0.5)


def test_the_curve_is_of_held_out_labels(taught: pipeline.Pipeline) -> None:
    curve = learning_curve(taught)
    kept = np.mean([fold.keep.sum() for fold in taught.run.task.folds[1:]])
    assert curve.labels[-1] == kept
    assert (np.diff(curve.labels) > 0).all()
    assert ((curve.errors >= 0) & (curve.errors <= 1)).all()


def test_a_run_leaves_both_files(finished: Path) -> None:
    assert (finished / "review.parquet").stat().st_size > 0
    assert "sentences" in json.loads((finished / "review.json").read_text())
