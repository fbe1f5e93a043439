"""What a round of self-training learns from, on two coloured classes and on made-up features."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks

from tutelage.chain import pool, types

# --- pseudo-labels


def test_without_a_pool_nothing_is_believed(run: types.Run) -> None:
    run = run.on(pool=np.arange(0))
    task = run.task
    judged = np.eye(2)[task.judged_labels]
    pools: list[Any] = [None, *[np.zeros((0, 2))] * (len(task.folds) - 1)]
    beliefs = types.Beliefs(pools, judged)
    labels = pool.label_pool(run, beliefs, 1.0, [None] * len(task.folds))
    assert labels == [None] * len(task.folds)


# --- clusters


def test_clusters_name_the_pool_and_the_held_out_labels(run: types.Run) -> None:
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    features = checks.made_up(truth, task.labels)
    half_right = np.where(np.arange(len(truth)) % 4 < 2, truth, 1 - truth)
    wrong = checks.teacher_of(task, half_right, 1 - task.judged_labels)
    found = checks.ask_clusters(run, features, wrong)
    for logits in found.beliefs.pool:
        assert logits is not None
        assert np.array_equal(logits.argmax(axis=1), truth)
    assert np.array_equal(found.beliefs.judged.argmax(axis=1), task.judged_labels)
    assert found.agreement == pytest.approx(0)
    assert found.likelier
    right = checks.ask_clusters(run, features, checks.teacher_of(task, truth, task.judged_labels))
    assert right.agreement == 1


def test_clusters_that_are_not_the_classes_are_found_out(run: types.Run) -> None:
    task = run.task
    truth, clusters = np.arange(len(task.pool)) % 2, np.arange(len(task.pool)) // 2 % 2
    features = checks.made_up(clusters, np.arange(len(task.labels)) // 2 % 2)
    found = checks.ask_clusters(run, features, checks.teacher_of(task, truth, task.judged_labels))
    assert abs(found.agreement) < 0.2
    assert found.heads == 1
    told = (
        "agreement between the clusters and the teacher: 0.00, between teachers fitted to parts of "
        "the labels: 1.00 (Cohen's kappa; 1 is full agreement, 0 is chance)"
    )
    assert found.doubt == told
    assert not found.likelier


@pytest.mark.parametrize(
    ("agreement", "likelier", "heads", "doubted"),
    [
        (0.50, True, 0.60, False),  # clusters agree with a head nearly as well as other heads do
        (0.45, True, 0.60, True),
        (-0.2, True, 0.10, False),  # heads that guess cannot contradict clusters
        (0.70, False, 0.50, True),  # neither held-out labels nor settled heads speak for rounds
        (0.70, False, 0.70, False),
        (0.25, False, None, False),  # with a val split there is one head
        (0.15, True, None, True),
    ],
)
def test_rounds_are_doubted_where_labels_speak_against_the_clusters(
    agreement: float, likelier: bool, heads: float | None, doubted: bool
) -> None:
    beliefs = types.Beliefs([], np.zeros((0, 2)))
    found = pool.Clustered(beliefs, agreement, likelier, heads)
    assert bool(found.doubt) == doubted


def test_how_well_heads_agree_is_counted_over_all_pairs(run: types.Run) -> None:
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    beliefs = checks.teacher_of(task, truth, task.judged_labels)
    beliefs.pool[-1] = -beliefs.pool[0]  # the last of five heads has everything the wrong way
    found = checks.ask_clusters(run, checks.made_up(truth, task.labels), beliefs)
    assert found.heads == pytest.approx((6 - 4) / 10)


def test_without_held_out_labels_clusters_are_not_likelier(run: types.Run) -> None:
    run = run.on(folds=run.task.folds[:1])
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    features = checks.made_up(truth, task.labels)
    teacher = checks.teacher_of(task, truth, task.judged_labels)
    unjudged = types.Beliefs(teacher.pool, np.full_like(teacher.judged, np.nan))
    assert not checks.ask_clusters(run, features, unjudged).likelier


def test_a_class_without_training_labels_does_not_hide_that_clusters_agree(run: types.Run) -> None:
    labels, judged = 2 * run.task.labels, 2 * run.task.judged_labels  # class 1 is in test alone
    run = run.on(labels=labels, judged_labels=judged, n_classes=3)
    task = run.task
    truth = 2 * (np.arange(len(task.pool)) % 2)
    features = checks.made_up(truth, task.labels)
    logits = [4 * np.eye(3)[kinds] for kinds in (truth, task.judged_labels)]
    teacher = types.Beliefs([logits[0]] * len(task.folds), logits[1])
    found = checks.ask_clusters(run, features, teacher)
    assert found.agreement == 1
    for one in found.beliefs.pool:
        assert one is not None
        assert np.isfinite(one).all()
        assert np.array_equal(one.argmax(axis=1), truth)
    labelled = pool.label_pool(run, found.beliefs, 1.0, [None] * len(task.folds))
    assert all(one is not None and set(one.labels) == {0, 2} for one in labelled)
