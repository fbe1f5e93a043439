"""Chains, and heads on a frozen trunk, on two coloured classes."""

import copy
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

from pathlib import Path

import silent_checks as checks
import timm
import tiny
import torch
from torch import Tensor

from tutelage.augment import Center
from tutelage.chain import answers, frozen, pipeline, pool, types
from tutelage.chain.answers import evaluation_look
from tutelage.heads.bank import Bank, look
from tutelage.heads.probe import fit_head, plain_metric
from tutelage.models.classifier import Columns, members_of
from tutelage.models.folder import load_model, save_model
from tutelage.models.zoo import create, cut, join, with_levels
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import nll

# --- chains


@pytest.mark.parametrize("counts", [(4, 4), (10, 3, 2), (1, 5), (50, 2, 2), (2, 2)])
def test_folds_judge_every_label_once_on_models_that_have_not_seen_it(
    counts: tuple[int, ...],
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    first, *others = types.make_folds(labels, 0, 4, seed=0)
    assert first.keep.all()
    assert len(first.judges) == 0
    judged = np.concatenate([fold.judges for fold in others])
    expected = np.flatnonzero(np.bincount(labels)[labels] >= 2)
    assert sorted(judged.tolist()) == expected.tolist()
    for fold in others:
        assert len(fold.judges)
        np.testing.assert_array_equal(np.flatnonzero(~fold.keep), np.sort(fold.judges))
        for k, count in enumerate(counts):  # what is alone stays where it can be learned
            assert count > 1 or fold.keep[labels == k].all()
    assert len(others) <= 4
    draws = [[c.judges.tolist() for c in types.make_folds(labels, 0, 4, s)] for s in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[1] != draws[2] or len(judged) < 10  # they are drawn from the seed


@pytest.mark.parametrize(("labels", "n_val"), [([0, 1, 2], 0), ([0, 0, 1, 1], 7)])
def test_single_labels_are_not_judged_and_a_val_split_judges_one_chain_of_all(
    labels: list[int], n_val: int
) -> None:
    (fold,) = types.make_folds(np.array(labels), n_val, 4, seed=0)
    assert fold.keep.all()
    assert fold.judges.tolist() == list(range(n_val))


# --- heads on a frozen trunk


def test_probe_and_transfer_judge_every_label_and_leave_the_trunk_alone(
    run: types.Run, chain: pipeline.Pipeline
) -> None:
    before = copy.deepcopy(run.base.state_dict())
    probe = frozen.probe(run, chain.features)
    transfer = frozen.transfer(run, chain.features)
    for outcome in (probe, transfer):
        assert outcome.frozen
        assert outcome.pseudo_labels is None
        assert outcome.beliefs.known.all()
        assert [p.shape for p in outcome.beliefs.pool if p is not None] == [(28, 2)] * 5
        for name, value in outcome.model.state_dict().items():
            assert torch.equal(value, before[name]) != name.startswith("head."), name
        temperature = outcome.model.spec.temperature
        assert temperature == answers.temperature_of(run.task, outcome.beliefs)
        labels = run.task.judged_labels
        fitted = nll(softmax(outcome.beliefs.judged, temperature), labels)
        assert fitted <= nll(softmax(outcome.beliefs.judged, 1.0), labels) + 1e-6
        assert (outcome.beliefs.judged.argmax(axis=1) == labels).mean() >= 0.75
    for name, value in run.base.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_trunk_without_middle_stages_or_old_head_has_its_plain_metric_in_their_place() -> None:
    options = {"canvas": 32, "input_size": 32, "weights": "none"}
    whole, other = (create(n, ["a"], **options) for n in ("test_efficientnet", "test_resnet"))
    whole.pretrained_head = torch.randn(7, whole.num_features)
    joint = join([with_levels(whole), cut(other, 1)])
    center = torch.randn(9, joint.num_features)
    metrics = frozen.trunk_metrics(center, joint)
    assert list(metrics) == ["plain", "pretrained", "levels"]
    own, levels = whole.num_features, joint.num_features - joint.own_features
    for name, columns in (("plain", slice(own)), ("levels", slice(-levels, None))):
        torch.testing.assert_close(
            metrics[name][0](center), plain_metric(center[:, columns])(center[:, columns])
        )
    for name in metrics:  # the second has one metric only
        second = plain_metric(center, slice(own, joint.own_features))
        torch.testing.assert_close(metrics[name][1](center), second(center))
    features = frozen.Features(*[Bank((center, center))] * 3, metrics)
    mapped = features.mapped("levels", center)
    assert torch.equal(mapped, torch.cat([m(center) for m in metrics["levels"]], dim=1))


def test_one_trunk_is_trained_as_it_is(run: types.Run, chain: pipeline.Pipeline) -> None:
    alone, features = chain.trainee
    assert alone is run
    assert features is chain.features


def test_transfer_takes_the_choice_with_the_best_held_out_likelihood(
    run: types.Run, chain: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = chain.features.metrics
    assert list(metrics) == ["plain", "levels"]  # random weights have no fc layer to trust
    scores = {}
    for name, strength in itertools.product(metrics, frozen.STRENGTHS):
        only = dataclasses.replace(chain.features, metrics={name: metrics[name]})
        with monkeypatch.context() as patch:
            patch.setattr(frozen, "STRENGTHS", (strength,))
            patch.setattr(frozen, "PROBE_STRENGTH", strength)
            patch.setattr(frozen, "_with_probe", lambda _run, _features, chosen: (chosen, 1.0))
            outcome = frozen.transfer(run, only)
        assert outcome.choice["metric"] == name
        scores[name, strength] = outcome.choice["held_out_nll"]
        by_hand = softmax(outcome.beliefs.judged, outcome.model.spec.temperature)
        assert scores[name, strength] == pytest.approx(nll(by_hand, run.task.judged_labels))
    assert len(set(scores.values())) == len(scores)
    usual = frozen.PROBE_STRENGTH
    for guard, candidates in ((0.0, list(scores)), (1e6, [("plain", usual)])):
        monkeypatch.setattr(frozen, "GUARD", guard)
        best = frozen.transfer(run, chain.features).choice
        least = min(scores[candidate] for candidate in candidates)
        assert best["held_out_nll"] == pytest.approx(least, rel=1e-3)  # warm-started
        assert scores[best["metric"], best["strength"]] == pytest.approx(least, rel=1e-3)
    # Two metrics of the last features need no bar between them, only strengths do.
    for one, other in (("plain", "levels"), ("levels", "plain")):
        both = {"plain": metrics[one], "pretrained": metrics[other]}
        either = dataclasses.replace(chain.features, metrics=both)
        best = frozen.transfer(run, either).choice
        assert best["strength"] == usual
        found = one if best["metric"] == "plain" else other
        assert scores[found, usual] == min(scores["plain", usual], scores["levels", usual])


def test_transfer_delivers_the_mean_of_probe_and_chosen_head(
    run: types.Run, chain: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = frozen.probe(run, chain.features)
    found = {}
    for weight in (0.0, 0.25, 1.0):
        with monkeypatch.context() as patch:
            patch.setattr(frozen, "stacking_weight", lambda _before, _after, w=weight: w)
            found[weight] = frozen.transfer(run, chain.features)
    assert found[0.25].choice["weight"] == 0.25
    # The calibrated answers of both count, so that the surer one does not outweigh the other.
    calibrated = probe.beliefs.judged / probe.model.spec.temperature
    alone, quarter, chosen = (found[w].beliefs.judged for w in (0.0, 0.25, 1.0))
    np.testing.assert_allclose(alone, calibrated, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(quarter, 0.75 * alone + 0.25 * chosen, rtol=1e-3, atol=1e-3)
    assert not np.allclose(alone, chosen, rtol=1e-2)


def test_a_trained_trunk_starts_from_middle_stages_only_where_they_are_far_better(
    run: types.Run, chain: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert frozen.guard(0) == frozen.guard(40) == frozen.GUARD
    assert frozen.guard(160) == pytest.approx(frozen.GUARD / 2)
    judge, looks_at_levels = frozen._judged, []

    def judged(task: Any, heads: Any, features: Any) -> Any:
        looks_at_levels.append(bool(heads[0].weight[:, run.base.own_features :].any()))
        return judge(task, heads, features)

    def better(task: Any, _judged: Any) -> Any:
        gain = np.where(np.arange(len(task.labels)) % 2, 0.2, 0.0)  # 2.6 standard errors
        return 1.0 - gain * looks_at_levels[-1]

    monkeypatch.setattr(frozen, "_judged", judged)
    monkeypatch.setattr(frozen, "held_out_nll", better)
    for guard, alone, trained in ((2.0, "levels", "levels"), (3.0, "levels", "plain")):
        monkeypatch.setattr(frozen, "GUARD", guard)
        monkeypatch.setattr(frozen, "GUARD_LABELS", 4)
        choice = frozen.transfer(run, chain.features).choice
        assert (choice["metric"], choice["trained"]["metric"]) == (alone, trained), guard


@pytest.mark.parametrize(("asked", "metric"), [("last", "plain"), ("levels", "levels")])
def test_transfer_looks_at_the_features_that_were_asked_for(
    run: types.Run, chain: pipeline.Pipeline, asked: str, metric: str
) -> None:
    run = run.changed("transfer", features=asked)
    outcome = frozen.transfer(run, chain.features)
    assert outcome.choice["metric"] == metric
    assert ("weight" in outcome.choice) == (asked == "last")  # else the probe has no share
    own, model = run.base.own_features, outcome.model
    assert run.base.spec.levels
    assert model.spec.levels == (() if asked == "last" else run.base.spec.levels)
    weights = model.head.weight
    assert bool(weights[:, :own].any()) == (asked != "levels")
    assert bool(weights[:, own:].any()) == (asked != "last")
    # What the model sees is what its head was fitted on.
    logits = answers.evaluation_look(run.task.canvases, run.task.pool, model, run.device).numpy()
    features = chain.features.pool.views[0][:, : model.num_features]
    np.testing.assert_allclose(logits, model.head(features).detach().numpy(), atol=1e-3)


def test_a_head_of_a_fold_does_not_depend_on_the_labels_it_is_judged_on(
    run: types.Run, chain: pipeline.Pipeline
) -> None:
    features = chain.features
    fold = run.task.folds[1]
    turned = run.task.labels.copy()
    turned[fold.judges] = 1 - turned[fold.judges]
    choice = {"metric": "plain", "strength": 3.0}
    heads = [
        frozen._fold_head(one, features, choice, fold, None) for one in (run, run.on(labels=turned))
    ]
    assert torch.equal(heads[0].weight, heads[1].weight)
    whole = run.task.folds[0]
    heads = [
        frozen._fold_head(one, features, choice, whole, None)
        for one in (run, run.on(labels=turned))
    ]
    assert not torch.equal(heads[0].weight, heads[1].weight)


def test_a_round_learns_from_what_its_chain_believes(
    run: types.Run, chain: pipeline.Pipeline
) -> None:
    teacher = frozen.transfer(run, chain.features)
    temperature = teacher.model.spec.temperature
    believed = pool.label_pool(run, teacher.beliefs, temperature, chain.detections)
    outcome = frozen.self_train(run, chain.features, teacher.choice, believed)
    labels = outcome.pseudo_labels
    assert labels.accepted.all()
    assert outcome.choice == teacher.choice
    assert outcome.beliefs.known.all()
    assert not torch.equal(outcome.model.head.weight, teacher.model.head.weight)
    # Another teacher gives other labels: they are the teacher's beliefs, not the student's own.
    opposite = types.Beliefs(
        [None if pool is None else -9 * pool for pool in teacher.beliefs.pool],
        teacher.beliefs.judged,
    )
    turned = checks.label_pool(run, chain, opposite)[0]
    assert (turned.labels != labels.labels).mean() > 0.5


# --- known silent bugs


def test_a_joint_teacher_is_the_mean_of_its_trunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("test_efficientnet", "test_resnet")  # of unlike normalisations
    run = checks.prepared(tmp_path, monkeypatch, teacher=",".join(names))
    save_model(frozen.probe(run, frozen.make_features(run)).model, tmp_path / "teacher")
    task, view = run.task, tiny.batches(1)[0].images
    expected = []
    for name, member in zip(names, members_of(run.base), strict=True):
        config = timm.get_pretrained_cfg(name)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))

        @torch.no_grad()
        def features(images: Tensor, member: Any = member, norm: Any = (mean, std)) -> Tensor:
            return member.trunk((images - norm[0]) / norm[1])

        center, size = Center(run.base.spec.crop_pct), run.base.spec.input_size
        labeled, unlabeled = (
            look(task.canvases, rows, center, features, size) for rows in (task.labeled, task.pool)
        )
        targets = types.one_hot(task.labels, task.n_classes)
        metric = plain_metric(torch.cat([labeled, unlabeled]))
        strength = frozen.PROBE_STRENGTH
        head = fit_head(labeled, targets, torch.ones(len(targets)), metric, strength=strength)
        expected.append(head(features(view)))
    with torch.no_grad():
        found = load_model(tmp_path / "teacher")(view)
    torch.testing.assert_close(found, (expected[0] + expected[1]) / 2, atol=0.02, rtol=0.02)


def test_a_training_goes_on_from_the_first_trunks_own_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch, teacher="test_efficientnet,test_resnet")
    chain = pipeline.Pipeline(run)
    alone, features = chain.trainee
    assert alone.base.spec.architecture == "test_efficientnet"
    for name in features.metrics:
        none = [None] * len(run.task.folds)
        head = frozen.fit_fold_heads(alone, features, {**frozen.PLAIN, "metric": name}, none)[0]
        start = frozen.with_head(alone.base, head)
        found = evaluation_look(run.task.canvases, run.task.pool, start, run.device)
        torch.testing.assert_close(found, head(features.pool.views[0]), atol=0.02, rtol=0.02)


def test_the_head_with_the_likelier_labels_has_the_larger_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transfer chooses between a space that tells the classes and the probe's, which does not."""
    run = checks.prepared(tmp_path, monkeypatch)
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    telling = checks.made_up(truth, task.labels)
    silent = checks.made_up(np.zeros_like(truth), np.zeros_like(task.labels))
    views = [
        frozen.Bank(tuple(torch.cat(pair, dim=1) for pair in zip(a.views, b.views, strict=True)))
        for a, b in ((silent.labeled, telling.labeled), (silent.pool, telling.pool))
    ]
    center = torch.cat([views[0].views[0], views[1].views[0]])
    columns = Columns(slice(center.shape[1] // 2), slice(center.shape[1] // 2, None))
    found = frozen.feature_metrics(center, columns, None)
    metrics = {name: (metric,) for name, metric in found.items()}
    features = frozen.Features(views[0], views[1], views[0], metrics)
    monkeypatch.setattr(frozen, "_outcome", lambda _run, _features, heads, **kept: (heads, kept))
    heads, kept = frozen.transfer(run, features)
    assert kept["choice"]["metric"] == "levels"
    assert kept["choice"]["weight"] > 0.9
    said = frozen._judged(task, heads, features).argmax(axis=1)
    assert np.array_equal(said, task.judged_labels)
