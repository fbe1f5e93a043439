"""Rounds that train the trunk, on two coloured classes."""

import copy
import dataclasses
import itertools
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny
import torch

from tutelage.augment import Center, RandAugment, TrivialAugment, Weak
from tutelage.chain import pipeline, runs, stages, trunk
from tutelage.chain.plan import Work
from tutelage.config import SelfTrainConfig, TrainConfig, TransferConfig, make_config
from tutelage.stats.calibrate import softmax
from tutelage.stats.pseudo_labels import select
from tutelage.steps.online import FixMatch
from tutelage.training.loader import Loader, Views
from tutelage.training.loop import train


def shop(run: runs.Run) -> trunk.Workshop:
    return trunk.Workshop(run.config, run.device, 0, lambda *_: nullcontext(lambda *_: None))


def as_pretrained(run: runs.Run) -> trunk.Workshop:
    """The tests' random weights, taken for ones that are worth keeping."""
    data = dataclasses.replace(run.config.data, weights=None)
    return dataclasses.replace(shop(run), config=dataclasses.replace(run.config, data=data))


def test_a_trained_stage_judges_the_planned_folds_and_keeps_the_base(
    run: runs.Run, chain: pipeline.Pipeline
) -> None:
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    labels = checks.label_pool(run, chain, teacher.beliefs, 1.0, 0.5)
    heads = stages.fit_chain_heads(run.task, chain.frozen, teacher.choice, run.config, labels)
    before = copy.deepcopy(run.base.state_dict())
    work = Work("trained", steps=3, batch_size=8, size=32)
    first, again = (
        trunk.train_trunk(shop(run), run.task, run.base, heads, labels, work, 2, "round")
        for _ in range(2)
    )
    held_out = np.concatenate([c.judges for c in run.task.folds[1:3]])
    assert np.flatnonzero(first.beliefs.known).tolist() == sorted(held_out.tolist())
    assert first.beliefs.pool == [None] * 5  # none comes after it that would ask
    assert not first.frozen
    assert labels[0] is not None
    assert first.pseudo_labels is not None
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
    run: runs.Run, chain: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dataclasses.replace(run.task, folds=run.task.folds[:1])
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    labels = checks.label_pool(run, chain, teacher.beliefs, 1.0, 1.0)[:1]
    heads = stages.fit_chain_heads(task, chain.frozen, teacher.choice, run.config, labels)
    fits = []
    fit = trunk.fit

    def noted(shop: Any, model: Any, step: Any, loader: Any, settings: Any, label: str) -> Any:
        before = copy.deepcopy(model.state_dict())
        after = fit(shop, model, step, loader, settings, label)
        fits.append((before, after.state_dict(), loader, settings))
        for name in ("head.weight", "trunk.conv_head.weight"):
            assert not torch.equal(before[name], after.state_dict()[name]), name
        return after

    monkeypatch.setattr(trunk, "fit", noted)
    work = Work("trained", steps=7, batch_size=8, size=32, revisions=2)
    outcome = trunk.train_trunk(shop(run), task, run.base, heads, labels, work, 0, "round")
    assert [settings.steps for *_, settings in fits] == [2, 2, 2]
    assert [loader.first for _, _, loader, _ in fits] == [0, 2, 4]  # no batch comes twice
    assert [settings.schedule_first for *_, settings in fits] == [0, 2, 4]
    assert [settings.schedule_steps for *_, settings in fits] == [6, 6, 6]
    alone = dataclasses.replace(work, restarts=True)
    trunk.train_trunk(shop(run), task, run.base, heads, labels, alone, 0, "round")
    assert [settings.schedule_first for *_, settings in fits[3:]] == [0, 0, 0]
    assert [settings.schedule_steps for *_, settings in fits[3:]] == [0, 0, 0]
    del fits[3:]
    for (_, after, *_), (before, *_) in itertools.pairwise(fits):  # each goes on from the last
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    first, second, third = (loader.streams[1][0].targets.numpy() for _, _, loader, _ in fits)
    assert np.abs(first - second).max() > 1e-4
    assert np.abs(second - third).max() > 1e-4
    assert labels[0] is not None
    assert outcome.pseudo_labels is not None
    taken = outcome.pseudo_labels.accepted
    assert 0 < taken.sum() <= 2 * 7  # what a leg has the time for
    for _, _, loader, _ in fits:
        assert np.array_equal(loader.streams[1][0].rows, task.pool[taken])
    np.testing.assert_allclose(first, labels[0].targets("sharpened")[taken], atol=1e-6)
    last = outcome.pseudo_labels.targets("sharpened")[taken]
    np.testing.assert_allclose(third, last, atol=1e-6)


def test_without_held_out_labels_the_model_is_as_sure_as_its_pseudo_labels(
    run: runs.Run, chain: pipeline.Pipeline
) -> None:
    task = dataclasses.replace(run.task, folds=run.task.folds[:1])
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    heads = stages.fit_chain_heads(task, chain.frozen, teacher.choice, run.config, [None])
    work = Work("trained", steps=1, batch_size=8, size=32)
    assert teacher.beliefs.pool[0] is not None
    sure, unsure = (
        select(softmax(teacher.beliefs.pool[0], temperature), fraction=1.0)
        for temperature in (0.5, 4.0)
    )
    temperatures = [
        trunk.train_trunk(
            shop(run), task, run.base, heads, [labels], work, 0, "x"
        ).model.spec.temperature
        for labels in (sure, unsure)
    ]
    assert temperatures[0] < temperatures[1]


def test_a_fold_takes_half_the_steps(
    run: runs.Run, chain: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = checks.captured_fits(monkeypatch)
    none: list[Any] = [None] * len(run.task.folds)
    choice = {"metric": "plain", "strength": 3.0}
    heads = stages.fit_chain_heads(run.task, chain.frozen, choice, run.config, none)
    work = Work("trained", steps=6, batch_size=8, size=32)
    trunk.train_trunk(shop(run), run.task, run.base, heads, none, work, 2, "x")
    assert [fit.settings.steps for fit in fits] == [6, 3, 3]


@pytest.mark.parametrize("kind", ["trained", "online", "labels alone"])
def test_only_online_rounds_learn_the_statistics_of_norms(
    kind: Any, run: runs.Run, chain: pipeline.Pipeline
) -> None:
    none: list[Any] = [None] * len(run.task.folds)
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    labels = (
        checks.label_pool(run, chain, teacher.beliefs, 1.0, 0.5) if kind != "labels alone" else none
    )
    heads = stages.fit_chain_heads(run.task, chain.frozen, teacher.choice, run.config, none)
    task = dataclasses.replace(run.task, folds=run.task.folds[:1])
    work = Work("online" if kind == "online" else "trained", steps=2, batch_size=8, size=32)
    outcome = trunk.train_trunk(as_pretrained(run), task, run.base, heads, labels, work, 0, "x")
    before = run.base.state_dict()
    running = [name for name in before if "running_mean" in name]
    assert running
    moved = [not torch.equal(outcome.model.state_dict()[name], before[name]) for name in running]
    assert any(moved) == (kind == "online")


def test_first_stages_stay_where_the_work_says_so_but_random_ones_learn(
    run: runs.Run, chain: pipeline.Pipeline
) -> None:
    none: list[Any] = [None] * len(run.task.folds)
    choice = {"metric": "plain", "strength": 3.0}
    heads = stages.fit_chain_heads(run.task, chain.frozen, choice, run.config, none)
    task = dataclasses.replace(run.task, folds=run.task.folds[:1])
    moved = {}
    for name, where, frozen in (
        ("free", as_pretrained(run), 0),
        ("frozen", as_pretrained(run), 2),
        ("random", shop(run), 2),
    ):
        work = Work("trained", steps=2, batch_size=8, size=32, frozen_stages=frozen)
        outcome = trunk.train_trunk(where, task, run.base, heads, none, work, 0, "x")
        before = run.base.state_dict()
        moved[name] = {
            key
            for key, value in outcome.model.state_dict().items()
            if not torch.equal(value, before[key])
        }
    assert "trunk.conv_stem.weight" in moved["free"] - moved["frozen"]
    assert any(key.startswith("trunk.") for key in moved["frozen"])
    assert {"trunk.conv_stem.weight", "trunk.bn1.running_mean"} <= moved["random"]


def test_the_students_view_is_the_one_that_was_asked_for() -> None:
    found = {
        name: trunk.strong_policy(TransferConfig(augment=name, num_ops=3, magnitude=11))
        for name in ("none", "randaugment", "trivialaugment")
    }
    assert isinstance(found["none"], Weak)
    assert isinstance(found["randaugment"].augment, RandAugment)  # type: ignore[union-attr]
    assert found["randaugment"].augment.num_ops == 3  # type: ignore[union-attr]
    assert found["randaugment"].augment.magnitude == 11.0  # type: ignore[union-attr]
    assert isinstance(found["trivialaugment"].augment, TrivialAugment)  # type: ignore[union-attr]
    assert found["none"].scale == (0.35, 1.0)  # type: ignore[union-attr]
    narrow = trunk.strong_policy(TransferConfig(augment="none", crop_scale=0.8))
    assert narrow == Weak(scale=(0.8, 1.0))
    assert trunk.strong_policy(TransferConfig(augment="center"), 0.9) == Center(0.9)
    with pytest.raises(ValueError, match="'auto' was not resolved"):
        trunk.strong_policy(TransferConfig(augment="auto"))


def test_the_loop_gets_the_users_rates_and_the_plans_steps() -> None:
    config = make_config("run", {"lr_head": 0.5, "weight_decay": 0.25})
    settings = trunk.train_config(config, Work("trained", steps=7), lr_trunk=0.125)
    assert (settings.steps, settings.lr_head, settings.lr_trunk) == (7, 0.5, 0.125)
    assert settings.weight_decay == 0.25


# --- online rounds

ONLINE = {item.name: item for item in dataclasses.fields(SelfTrainConfig)}["online"]


def online_step(method: str, **changes: Any) -> Any:
    options = {"n_pool": 8, "steps": 30, "threshold": 0.7, "hard": False, **changes}
    return trunk.make_online_step(method, torch.tensor([0.25, 0.75]), **options)


@pytest.mark.parametrize("method", ONLINE.metadata["choices"])
def test_every_online_method_trains_on_a_loaders_batches(method: str) -> None:
    images, labels = tiny.two_classes(12)
    labeled = tiny.examples(np.arange(4), labels[:4])
    pool = tiny.examples(np.arange(4, 12), np.full(8, -1))
    views = Views(Weak(), 32, weak=Weak())
    loader = Loader(
        tiny.canvases(images), labeled, pool, views, batch_size=8, labeled_per_batch=2, seed=0
    )
    config = TrainConfig(4, lr_head=1e-2, lr_trunk=1e-2, log_every=1)
    model = tiny.classifier()
    before = copy.deepcopy(model.state_dict())
    result = train(model, loader, online_step(method), config, device=tiny.CPU)
    assert result.steps == 4
    changed = [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])]
    assert len(changed) == len(before)


def test_online_methods_get_their_settings() -> None:
    fix = online_step("fixmatch")
    assert fix.method == FixMatch(0.7)
    assert not fix.hard
    assert fix.prior.tolist() == [0.25, 0.75]
    flex = online_step("flexmatch", hard=True)
    assert (flex.method.threshold, len(flex.method.marks) - 1) == (0.7, 8)
    assert flex.hard
    free = online_step("freematch")
    assert free.penalty == free.method.fairness
    assert free.prior.tolist() == [0.25, 0.75]
    soft = online_step("softmatch")
    assert soft.prior.tolist() == [0.5, 0.5]  # uniform alignment
    assert {step.momentum for step in (fix, free, free.method, soft, soft.method)} == {0.99}
    assert online_step("mean-teacher").ramp_steps == 8
    with pytest.raises(ValueError, match="'pi-model' is no online method"):
        online_step("pi-model")
