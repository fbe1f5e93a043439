"""What a round of self-training learns from, on two coloured classes and on made-up features."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import dataclasses
from pathlib import Path

import silent_checks as checks
import torch

from tutelage.chain import answers, pool, types
from tutelage.heads.bank import Bank
from tutelage.stats.unknown import Detection

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
        assert np.array_equal(logits.argmax(axis=1), truth)
    assert np.array_equal(found.beliefs.judged.argmax(axis=1), task.judged_labels)
    assert found.agreement == pytest.approx(0)
    assert found.likelier
    right = checks.teacher_of(task, truth, task.judged_labels)
    assert checks.ask_clusters(run, features, right).agreement == 1
    right.pool[-1] = -right.pool[0]  # the last of five heads has everything the wrong way
    assert checks.ask_clusters(run, features, right).heads == pytest.approx((6 - 4) / 10)


def test_clusters_that_are_not_the_classes_are_found_out(run: types.Run) -> None:
    task = run.task
    truth, clusters = np.arange(len(task.pool)) % 2, np.arange(len(task.pool)) // 2 % 2
    features = checks.made_up(clusters, np.arange(len(task.labels)) // 2 % 2)
    found = checks.ask_clusters(run, features, checks.teacher_of(task, truth, task.judged_labels))
    assert abs(found.agreement) < 0.2
    assert found.doubt == (
        "agreement between the clusters and the teacher: 0.00, between teachers fitted to parts of "
        "the labels: 1.00 (Cohen's kappa; 1 is full agreement, 0 is chance)"
    )
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
        assert np.isfinite(one).all()
        assert np.array_equal(one.argmax(axis=1), truth)
    labelled = pool.label_pool(run, found.beliefs, 1.0, [None] * len(task.folds))
    assert all(one is not None and set(one.labels) == {0, 2} for one in labelled)


# --- known silent bugs; of what the folds have, the first's all labels, the second's some of them


def alike(before: Any, after: Any) -> list[bool]:
    """Whether the first two folds have the same."""
    return [np.array_equal(one, two) for one, two in zip(before[:2], after[:2], strict=True)]


def test_images_out_of_class_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    run = run.on(folds=run.task.folds[:1])
    task = run.task
    features, known = checks.half_foreign(task, monkeypatch), np.eye(2)[task.judged_labels]
    logits = checks.some_beliefs(task)
    odd = np.arange(len(logits)) % 2 == 1
    found = []
    for foreign in (-9.0, 9.0):
        logits[odd] = [0.0, foreign]
        beliefs = types.Beliefs([logits], known)
        found += pool.label_pool(run, beliefs, 1.0, pool.detect_unknown(run, features))
    one, other = found
    for labels in found:
        assert np.array_equal(labels.outside, odd)
        assert not labels.accepted[odd].any()
        assert labels.accepted.any()
        reasons = np.array(labels.reasons())
        assert all(reason.startswith("out of class: distance ") for reason in reasons[odd])
        assert not any(reason.startswith("out of class") for reason in reasons[~odd])
    np.testing.assert_array_equal(one.probs[~odd], other.probs[~odd])
    np.testing.assert_array_equal(one.accepted, other.accepted)


def test_judged_images_are_no_part_of_their_folds_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    features = checks.half_foreign(run.task, monkeypatch)
    views = tuple(view.clone() for view in features.labeled.views)
    for view in views:
        view[torch.from_numpy(run.task.folds[1].judges)] += 5.0
    moved = dataclasses.replace(features, labeled=Bank(views))
    before, after = (pool.detect_unknown(run, f) for f in (features, moved))
    assert alike(*([one.distances for one in found] for found in (before, after))) == [False, True]
    assert before[1].limit == after[1].limit


def test_held_out_labels_start_no_cluster_of_their_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    features = checks.made_up(truth, task.labels)
    teacher = checks.teacher_of(task, truth, task.judged_labels)
    held_out, turned = task.folds[1].judges, task.labels.copy()
    turned[held_out] = 1 - turned[held_out]
    other = run.on(labels=turned, judged_labels=turned)
    before, after = (checks.ask_clusters(r, features, teacher).beliefs for r in (run, other))
    assert alike(before.pool, after.pool) == [False, True]
    assert np.array_equal(before.judged[held_out], after.judged[held_out])


def test_clusters_that_are_too_sure_do_not_outvote_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They label the pool of the first round together; each is first as sure as it may be."""
    task = checks.prepared(tmp_path, monkeypatch).task
    right = np.eye(2)[task.judged_labels]
    half = np.where(np.arange(len(right))[:, None] % 2, right, right[:, ::-1])
    says = np.eye(2)[np.arange(len(task.pool)) % 2]
    head = types.Beliefs([4 * says for _ in task.folds], 4 * right)
    clusters = types.Beliefs([18 * says[:, ::-1] for _ in task.folds], 18 * half)
    for logits in answers.mean_beliefs(task, head, clusters).pool:
        assert np.array_equal(logits.argmax(axis=1), says.argmax(axis=1))


def test_images_out_of_class_move_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    odd = np.arange(len(truth)) % 3 == 0
    detections = [Detection(odd.astype(float), 0.5) for _ in task.folds]
    metrics = checks.made_up(truth, task.labels).metrics  # no part of what is compared
    teacher = checks.teacher_of(task, truth, task.judged_labels)
    found = []
    for place in (2, 3):
        features = checks.made_up(np.where(odd, place, truth), task.labels)
        features = dataclasses.replace(features, metrics=metrics)
        found.append(checks.ask_clusters(run, features, teacher, detections).beliefs.pool[0])
    one, other = found
    assert np.array_equal(one[~odd], other[~odd])
    assert not np.array_equal(one[odd], other[odd])


def test_held_out_labels_are_no_part_of_their_chains_pseudo_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    task = run.task
    logits = [checks.some_beliefs(task, seed) for seed in range(len(task.folds))]
    known = np.eye(2)[task.judged_labels] + 0.1
    turned, held_out = known.copy(), task.folds[1].judges
    turned[held_out] = known[held_out][:, ::-1]
    found = []
    for judged in (known, turned):
        labels = pool.label_pool(run, types.Beliefs(logits, judged), 1.0, [None] * len(task.folds))
        found.append([one.probs for one in labels])
    assert alike(*found) == [False, True]
