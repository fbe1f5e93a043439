"""What a round of self-training learns from, on two coloured classes and on made-up features."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import torch

from tutelage import pipeline, selftrain, stages
from tutelage.bank import Bank
from tutelage.calibrate import softmax
from tutelage.config import make_config
from tutelage.outofclass import Detection


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pipeline.Run:
    return checks.prepared(tmp_path, monkeypatch, trunk="frozen")


@pytest.fixture
def chain(run: pipeline.Run) -> pipeline.Chain:
    return pipeline.Chain(run)


# --- pseudo-labels


def test_a_doubtful_teacher_passes_on_less_of_the_pool(
    run: pipeline.Run, chain: pipeline.Chain
) -> None:
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen).beliefs
    accepted = []
    for temperature in (0.01, 1e6):  # sure of everything, and of nothing: half are right by chance
        labels = checks.label_pool(run, chain, teacher, temperature, 0.5)[0]
        assert labels is not None
        accepted.append(labels.accepted.mean())
    assert accepted[0] == pytest.approx(0.5, abs=0.08)
    assert accepted[1] == pytest.approx(0.25, abs=0.08)


def test_without_a_pool_nothing_is_believed(run: pipeline.Run) -> None:
    task = dataclasses.replace(run.task, pool=np.arange(0))
    judged = np.eye(2)[task.judged_labels]
    pools: list[Any] = [None, *[np.zeros((0, 2))] * (len(task.chains) - 1)]
    beliefs = stages.Beliefs(pools, judged)
    labels = selftrain.label_pool(task, beliefs, 1.0, run.config, 0.5, [None] * len(task.chains))
    assert labels == [None] * len(task.chains)


def test_an_ensemble_of_folds_labels_the_pool_for_the_model_on_all_labels_only(
    run: pipeline.Run,
) -> None:
    task = run.task
    pool = [checks.some_beliefs(task, seed) for seed in range(len(task.chains))]
    beliefs = stages.Beliefs(list(pool), np.eye(2)[task.judged_labels] + 0.1)

    def labels(ensemble: str) -> list[Any]:
        config = make_config("run", {"ensemble": ensemble, "alignment": 0.0})
        return selftrain.label_pool(task, beliefs, 2.0, config, None, [None] * len(task.chains))

    alone, together = labels("none"), labels("folds")
    np.testing.assert_allclose(alone[0].probs, softmax(pool[0], 2.0))
    np.testing.assert_allclose(together[0].probs, np.mean([softmax(p, 2.0) for p in pool], axis=0))
    for fold, same in zip(alone[1:], together[1:], strict=True):
        np.testing.assert_array_equal(fold.probs, same.probs)


# --- clusters


def two_clusters(task: stages.Task, pool: np.ndarray, labels: np.ndarray) -> stages.Frozen:
    """Made-up features in which an image's cluster is the number given for it."""
    rng = np.random.default_rng(0)

    def bank(kinds: np.ndarray) -> Bank:
        views = np.eye(4)[kinds] + 0.1 * rng.normal(size=(2, len(kinds), 4))
        return Bank(tuple(torch.from_numpy(views).float()))

    labeled = bank(labels)
    return stages.make_frozen(labeled, bank(pool), labeled, 4, None)


def ask(
    task: stages.Task,
    frozen: stages.Frozen,
    teacher: stages.Beliefs,
    detections: list[Detection | None] | None = None,
) -> selftrain.Clustered:
    detections = detections or [None] * len(task.chains)
    return selftrain.ask_clusters(task, frozen, "plain", teacher, 1.0, detections)


def teacher_of(task: stages.Task, pool: np.ndarray, judged: np.ndarray) -> stages.Beliefs:
    """One that takes the pool and the judged images for these classes, in every chain."""
    return stages.Beliefs([4 * np.eye(2)[pool] for _ in task.chains], 4 * np.eye(2)[judged])


def test_clusters_name_the_pool_and_the_held_out_labels(run: pipeline.Run) -> None:
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    frozen = two_clusters(task, truth, task.labels)
    half_right = np.where(np.arange(len(truth)) % 4 < 2, truth, 1 - truth)
    wrong = teacher_of(task, half_right, 1 - task.judged_labels)
    found = ask(task, frozen, wrong)
    for pool in found.beliefs.pool:
        assert pool is not None
        assert np.array_equal(pool.argmax(axis=1), truth)
    assert np.array_equal(found.beliefs.judged.argmax(axis=1), task.judged_labels)
    assert found.agreement == pytest.approx(0)
    assert found.likelier
    right = ask(task, frozen, teacher_of(task, truth, task.judged_labels))
    assert right.agreement == 1


def test_clusters_that_are_not_the_classes_are_found_out(run: pipeline.Run) -> None:
    task = run.task
    truth, clusters = np.arange(len(task.pool)) % 2, np.arange(len(task.pool)) // 2 % 2
    frozen = two_clusters(task, clusters, np.arange(len(task.labels)) // 2 % 2)
    found = ask(task, frozen, teacher_of(task, truth, task.judged_labels))
    assert abs(found.agreement) < selftrain.LEAST_AGREEMENT
    assert not found.likelier


def test_clusters_of_a_fold_do_not_know_the_labels_it_is_judged_on(run: pipeline.Run) -> None:
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    frozen = two_clusters(task, truth, task.labels)
    teacher = teacher_of(task, truth, task.judged_labels)
    fold = task.chains[1]
    turned = task.labels.copy()
    turned[fold.judges] = 1 - turned[fold.judges]
    other = dataclasses.replace(task, labels=turned, judged_labels=turned)
    one, two = ask(task, frozen, teacher).beliefs, ask(other, frozen, teacher).beliefs
    np.testing.assert_array_equal(one.pool[1], two.pool[1])
    np.testing.assert_array_equal(one.judged[fold.judges], two.judged[fold.judges])
    assert not np.array_equal(one.pool[0], two.pool[0])


def test_images_out_of_class_move_no_cluster(run: pipeline.Run) -> None:
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    odd = np.arange(len(truth)) % 3 == 0
    detections: list[Detection | None] = [Detection(odd.astype(float), 0.5) for _ in task.chains]
    found = []
    for place in (2, 3):
        frozen = two_clusters(task, np.where(odd, place, truth), task.labels)
        teacher = teacher_of(task, truth, task.judged_labels)
        metrics = two_clusters(task, truth, task.labels).metrics  # no part of what is compared
        frozen = dataclasses.replace(frozen, metrics=metrics)
        found.append(ask(task, frozen, teacher, detections).beliefs.pool[0])
    np.testing.assert_array_equal(found[0][~odd], found[1][~odd])
    assert not np.array_equal(found[0][odd], found[1][odd])


def test_without_held_out_labels_clusters_are_not_likelier(run: pipeline.Run) -> None:
    task = dataclasses.replace(run.task, chains=run.task.chains[:1])
    truth = np.arange(len(task.pool)) % 2
    frozen = two_clusters(task, truth, task.labels)
    teacher = teacher_of(task, truth, task.judged_labels)
    unjudged = stages.Beliefs(teacher.pool, np.full_like(teacher.judged, np.nan))
    assert not ask(task, frozen, unjudged).likelier
