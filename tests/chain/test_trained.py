"""Rounds that train the trunk, on two coloured classes."""

import copy
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

from pathlib import Path

import silent_checks as checks
import torch

from tutelage.augment import Center, RandAugment, Strong, TrivialAugment, Weak
from tutelage.chain import answers, frozen, pipeline, recipe, trained, types
from tutelage.chain.evidence import pseudo_rows
from tutelage.chain.plan import Work
from tutelage.chain.stages import transfer
from tutelage.config import TransferConfig
from tutelage.stats.calibrate import softmax
from tutelage.stats.pseudo_labels import select
from tutelage.stats.unknown import energy


def as_pretrained(run: types.Run) -> types.Run:
    """The tests' random weights, taken for ones that are worth keeping."""
    return run.changed("data", weights=None)


def half_of(labels: list[Any]) -> list[Any]:
    """Pseudo-labels of which half the images are accepted."""
    return [one.some(one.accepted.sum() // 2, 0) for one in labels]


def test_a_trained_stage_judges_the_planned_folds_and_keeps_the_base(
    run: types.Run, chain: pipeline.Pipeline
) -> None:
    teacher = frozen.transfer(run, chain.features)
    labels = half_of(checks.label_pool(run, chain, teacher.beliefs))
    heads = frozen.fit_fold_heads(run, chain.features, teacher.choice, labels)
    before = copy.deepcopy(run.base.state_dict())
    work = Work("trained", steps=3, batch_size=8, size=32)
    first, again = (
        trained.train_trunk(run, heads, labels, work, "round", judged_folds=2) for _ in range(2)
    )
    held_out = np.concatenate([c.judges for c in run.task.folds[1:3]])
    assert np.flatnonzero(first.beliefs.known).tolist() == sorted(held_out.tolist())
    assert first.beliefs.pool == [None] * 5  # none comes after it that would ask
    assert not first.frozen
    assert first.pseudo_labels.accepted.sum() == min(labels[0].accepted.sum(), 3 * 7)
    assert not (first.pseudo_labels.accepted & ~labels[0].accepted).any()
    for name, value in run.base.state_dict().items():
        assert torch.equal(value, before[name]), name
    moved = [n for n, v in first.model.state_dict().items() if not torch.equal(v, before[n])]
    assert any(name.startswith("trunk.") for name in moved)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name]), name
    np.testing.assert_array_equal(again.beliefs.judged, first.beliefs.judged)


def test_the_pool_is_labelled_anew_between_the_legs(
    run: types.Run, chain: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = frozen.transfer(run, chain.features)
    labels = checks.label_pool(run, chain, teacher.beliefs)[:1]
    run = run.on(folds=run.task.folds[:1])
    heads = frozen.fit_fold_heads(run, chain.features, teacher.choice, labels)
    fits = []
    fit = trained.fit

    def noted(run: Any, model: Any, step: Any, loader: Any, settings: Any, *rest: Any) -> Any:
        before = copy.deepcopy(model.state_dict())
        after = fit(run, model, step, loader, settings, *rest)
        fits.append((before, after.state_dict(), loader, settings))
        return after

    monkeypatch.setattr(trained, "fit", noted)
    work = Work("trained", steps=7, batch_size=8, size=32, revisions=2)
    outcome = trained.train_trunk(run, heads, labels, work, "round", judged_folds=0)
    assert [settings.steps for *_, settings in fits] == [2, 2, 2]
    assert [loader.first for _, _, loader, _ in fits] == [0, 2, 4]  # no batch comes twice
    assert [settings.schedule_first for *_, settings in fits] == [0, 2, 4]
    assert [settings.schedule_steps for *_, settings in fits] == [6, 6, 6]
    alone = dataclasses.replace(work, restarts=True)
    trained.train_trunk(run, heads, labels, alone, "round", judged_folds=0)
    assert [settings.schedule_first for *_, settings in fits[3:]] == [0, 0, 0]
    assert [settings.schedule_steps for *_, settings in fits[3:]] == [0, 0, 0]
    del fits[3:]
    for (_, after, *_), (before, *_) in itertools.pairwise(fits):  # each goes on from the last
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    first, second, third = (loader.streams[1][0].targets.numpy() for _, _, loader, _ in fits)
    assert np.abs(first - second).max() > 1e-4
    assert np.abs(second - third).max() > 1e-4
    taken = outcome.pseudo_labels.accepted
    assert 0 < taken.sum() <= 2 * 7  # what a leg has the time for
    for _, _, loader, _ in fits:
        assert np.array_equal(loader.streams[1][0].rows, run.task.pool[taken])
    np.testing.assert_allclose(first, labels[0].targets("sharpened")[taken], atol=1e-6)
    last = outcome.pseudo_labels.targets("sharpened")[taken]
    np.testing.assert_allclose(third, last, atol=1e-6)


def test_without_held_out_labels_the_model_is_as_sure_as_its_pseudo_labels(
    run: types.Run, chain: pipeline.Pipeline
) -> None:
    teacher = frozen.transfer(run, chain.features)
    run = run.on(folds=run.task.folds[:1])
    heads = frozen.fit_fold_heads(run, chain.features, teacher.choice, [None])
    work = Work("trained", steps=1, batch_size=8, size=32)
    sure, unsure = (
        select(softmax(teacher.beliefs.pool[0], temperature)) for temperature in (0.5, 4.0)
    )
    temperatures = [
        trained.train_trunk(run, heads, [labels], work, "x", judged_folds=0).model.spec.temperature
        for labels in (sure, unsure)
    ]
    assert temperatures[0] < temperatures[1]


def test_a_model_that_is_its_teacher_inherits_its_threshold_as_it_is(
    run: types.Run, chain: pipeline.Pipeline
) -> None:
    teacher = frozen.transfer(run, chain.features)
    model = copy.deepcopy(teacher.model)
    logits = answers.clean_logits(run, model, run.task.pool, views=1)
    middle = float(np.sort(energy(logits))[len(logits) // 2])  # where many energies lie
    answers.set_calibration(teacher.model, 1.0, middle)
    answers.inherit_threshold(run, model, teacher.model)
    found = model.spec.unknown_threshold
    assert ((energy(logits) > found) == (energy(logits) > middle)).all()


def test_a_fold_takes_half_the_steps(
    run: types.Run, chain: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as much time; transfer is judged on all folds that there are, and plans no more."""
    fits, planned, shares = checks.captured_fits(monkeypatch), [], trained.shares

    def noted(work: Work, steps: list[int], later: float) -> Any:
        planned.append(steps)
        return shares(work, steps, later)

    monkeypatch.setattr(trained, "shares", noted)
    work = Work("trained", steps=10, batch_size=8, size=32)
    run.plan = dataclasses.replace(run.plan, transfer=work)
    transfer(chain)
    assert planned == [[10, 5, 5, 5, 5]]
    assert [fit.settings.steps for fit in fits] == [10, 5, 5, 5, 5]


@pytest.mark.parametrize("kind", ["trained", "online", "labels alone"])
def test_only_online_rounds_learn_the_statistics_of_norms(
    kind: Any, run: types.Run, chain: pipeline.Pipeline
) -> None:
    none = [None] * len(run.task.folds)
    teacher = frozen.transfer(run, chain.features)
    labels = checks.label_pool(run, chain, teacher.beliefs) if kind != "labels alone" else none
    heads = frozen.fit_fold_heads(run, chain.features, teacher.choice, none)
    alone = as_pretrained(run).on(folds=run.task.folds[:1])
    work = Work("online" if kind == "online" else "trained", steps=2, batch_size=8, size=32)
    outcome = trained.train_trunk(alone, heads, labels, work, "x", judged_folds=0)
    before = run.base.state_dict()
    running = [name for name in before if "running_mean" in name]
    assert running
    moved = [not torch.equal(outcome.model.state_dict()[name], before[name]) for name in running]
    assert any(moved) == (kind == "online")


def test_first_stages_stay_where_the_work_says_so_but_random_ones_learn(
    run: types.Run, chain: pipeline.Pipeline
) -> None:
    none = [None] * len(run.task.folds)
    choice = {"metric": "plain", "strength": 3.0}
    heads = frozen.fit_fold_heads(run, chain.features, choice, none)
    run = run.on(folds=run.task.folds[:1])
    moved = {}
    for name, where, stages in (
        ("free", as_pretrained(run), 0),
        ("frozen", as_pretrained(run), 2),
        ("random", run, 2),
    ):
        work = Work("trained", steps=2, batch_size=8, size=32, frozen_stages=stages)
        outcome = trained.train_trunk(where, heads, none, work, "x", judged_folds=0)
        before = run.base.state_dict()
        moved[name] = {
            key
            for key, value in outcome.model.state_dict().items()
            if not torch.equal(value, before[key])
        }
    assert "trunk.conv_stem.weight" in moved["free"] - moved["frozen"]
    assert any(key.startswith("trunk.") for key in moved["frozen"])
    assert {"trunk.conv_stem.weight", "trunk.bn1.running_mean"} <= moved["random"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"augment": "none", "crop_scale": 0.8}, Weak(scale=(0.8, 1.0))),
        ({"augment": "center"}, Center(0.9)),
        ({"augment": "trivialaugment"}, Strong(TrivialAugment(view=Weak(scale=(0.35, 1.0))))),
        ({"num_ops": 3, "magnitude": 11},
         Strong(RandAugment(3, 11.0, view=Weak(scale=(0.35, 1.0))))),
    ],
)  # fmt: skip
def test_the_students_view_is_the_one_that_was_asked_for(
    settings: dict[str, Any], expected: Any
) -> None:
    assert recipe.strong_policy(TransferConfig(**settings), 0.9) == expected


# --- known silent bugs


def test_round_trains_on_what_the_report_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    fit, labels = checks.trunk_fit(run, monkeypatch, "trained")
    assert 0 < labels.accepted.sum() < len(labels.accepted)
    (labeled, _count), (learned, _rest) = fit.loader.streams
    assert learned.rows.tolist() == run.task.pool[labels.accepted].tolist()
    assert labeled.rows.tolist() == run.task.labeled.tolist()
    assert learned.targets.argmax(dim=1).tolist() == labels.labels[labels.accepted].tolist()
    outcome = types.Outcome(run.base, types.Beliefs([None], np.zeros((0, 2))), False, labels)
    done = types.Finished("self-train-1", True, "", 0.0, None, outcome)
    assert sum(row["selected"] for row in pseudo_rows(run, [done])) == len(learned)


def test_online_round_leaves_out_of_class_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    fit, labels = checks.trunk_fit(run, monkeypatch, "online")
    (_labeled, _count), (learned, _rest) = fit.loader.streams
    assert 0 < labels.outside.sum() < len(labels.outside)
    assert learned.rows.tolist() == run.task.pool[~labels.outside].tolist()
    prior = torch.from_numpy(labels.probs[~labels.outside].mean(axis=0)).float()
    torch.testing.assert_close(fit.step.prior, prior)


def test_every_leg_trains_head_and_trunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    fit = trained.fit

    def noted(run: Any, model: Any, *rest: Any) -> Any:
        after = fit(run, model, *rest)
        was, now = model.state_dict(), after.state_dict()
        names = ("head.weight", "trunk.conv_head.weight")
        moved.append([not torch.equal(was[name], now[name]) for name in names])
        return after

    run = checks.prepared(tmp_path, monkeypatch)
    monkeypatch.setattr(trained, "fit", noted)
    run = run.on(folds=run.task.folds[:1])
    labels = [select(softmax(checks.some_beliefs(run.task), 1.0))]
    head = frozen.Head(torch.zeros_like(run.base.head.weight), torch.zeros(run.task.n_classes))
    work = Work("trained", steps=6, batch_size=8, size=32, revisions=2)
    trained.train_trunk(run, [head], labels, work, "round", judged_folds=0)
    assert moved == [[True, True]] * 3


def test_held_out_labels_are_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    fits = checks.captured_fits(monkeypatch)
    task = run.task
    heads = [
        frozen.Head(torch.zeros_like(run.base.head.weight), torch.zeros(2)) for _ in task.folds
    ]
    work = Work("trained", steps=2, batch_size=8, size=32)
    none = [None] * len(heads)
    trained.train_trunk(run, heads, none, work, "transfer", judged_folds=1)
    assert len(fits) == 2
    held_out = set(task.judged[task.folds[1].judges].tolist())
    used = {int(row) for examples, _ in fits[1].loader.streams for row in examples.rows}
    assert held_out
    assert not held_out & used
