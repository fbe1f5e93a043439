"""What a round of self-training learns from, on two coloured classes and on made-up features."""

import dataclasses
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks

from tutelage.chain import pipeline, runs, selftrain, stages

# --- pseudo-labels


def test_a_doubtful_teacher_passes_on_less_of_the_pool(
    run: runs.Run, chain: pipeline.Pipeline
) -> None:
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen).beliefs
    accepted = []
    for temperature in (0.01, 1e6):  # sure of everything, and of nothing: half are right by chance
        labels = checks.label_pool(run, chain, teacher, temperature, 0.5)[0]
        assert labels is not None
        accepted.append(labels.accepted.mean())
    assert accepted[0] == pytest.approx(0.5, abs=0.08)
    assert accepted[1] == pytest.approx(0.25, abs=0.08)


def test_without_a_pool_nothing_is_believed(run: runs.Run) -> None:
    task = dataclasses.replace(run.task, pool=np.arange(0))
    judged = np.eye(2)[task.judged_labels]
    pools: list[Any] = [None, *[np.zeros((0, 2))] * (len(task.folds) - 1)]
    beliefs = stages.Beliefs(pools, judged)
    labels = selftrain.label_pool(task, beliefs, 1.0, run.config, 0.5, [None] * len(task.folds))
    assert labels == [None] * len(task.folds)


# --- clusters


def test_clusters_name_the_pool_and_the_held_out_labels(run: runs.Run) -> None:
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    frozen = checks.made_up(truth, task.labels)
    half_right = np.where(np.arange(len(truth)) % 4 < 2, truth, 1 - truth)
    wrong = checks.teacher_of(task, half_right, 1 - task.judged_labels)
    found = checks.ask_clusters(task, frozen, wrong)
    for pool in found.beliefs.pool:
        assert pool is not None
        assert np.array_equal(pool.argmax(axis=1), truth)
    assert np.array_equal(found.beliefs.judged.argmax(axis=1), task.judged_labels)
    assert found.agreement == pytest.approx(0)
    assert found.likelier
    right = checks.ask_clusters(task, frozen, checks.teacher_of(task, truth, task.judged_labels))
    assert right.agreement == 1


def test_clusters_that_are_not_the_classes_are_found_out(run: runs.Run) -> None:
    task = run.task
    truth, clusters = np.arange(len(task.pool)) % 2, np.arange(len(task.pool)) // 2 % 2
    frozen = checks.made_up(clusters, np.arange(len(task.labels)) // 2 % 2)
    found = checks.ask_clusters(task, frozen, checks.teacher_of(task, truth, task.judged_labels))
    assert abs(found.agreement) < selftrain.LEAST_AGREEMENT
    assert not found.likelier


def test_without_held_out_labels_clusters_are_not_likelier(run: runs.Run) -> None:
    task = dataclasses.replace(run.task, folds=run.task.folds[:1])
    truth = np.arange(len(task.pool)) % 2
    frozen = checks.made_up(truth, task.labels)
    teacher = checks.teacher_of(task, truth, task.judged_labels)
    unjudged = stages.Beliefs(teacher.pool, np.full_like(teacher.judged, np.nan))
    assert not checks.ask_clusters(task, frozen, unjudged).likelier
