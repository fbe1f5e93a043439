"""Chains, heads and trained rounds, on two coloured classes."""

import copy
import dataclasses
import itertools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny
import torch

from tutelage import pipeline, stages
from tutelage.augment import RandAugment, TrivialAugment, Weak
from tutelage.calibrate import softmax
from tutelage.config import SelfTrainConfig, TrainConfig, TransferConfig, make_config
from tutelage.label import select
from tutelage.loader import Loader, Views
from tutelage.metrics import nll
from tutelage.plan import Work
from tutelage.steps.online import FixMatch
from tutelage.train import train

# --- chains


@pytest.mark.parametrize("counts", [(4, 4), (10, 3, 2), (1, 5), (50, 2, 2), (2, 2)])
def test_folds_judge_every_label_once_on_models_that_have_not_seen_it(
    counts: tuple[int, ...],
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    first, *others = stages.make_chains(labels, 0, 4, seed=0)
    assert first.keep.all()
    assert len(first.judges) == 0
    judged = np.concatenate([chain.judges for chain in others])
    expected = np.flatnonzero(np.bincount(labels)[labels] >= 2)
    assert sorted(judged.tolist()) == expected.tolist()
    for chain in others:
        assert len(chain.judges)
        np.testing.assert_array_equal(np.flatnonzero(~chain.keep), np.sort(chain.judges))
        for k, count in enumerate(counts):  # what is alone stays where it can be learned
            assert count > 1 or chain.keep[labels == k].all()
    assert len(others) <= 4


def test_single_labels_cannot_be_judged() -> None:
    (chain,) = stages.make_chains(np.array([0, 1, 2]), 0, 4, seed=0)
    assert chain.keep.all()
    assert len(chain.judges) == 0


def test_val_judges_one_chain_that_keeps_every_label() -> None:
    (chain,) = stages.make_chains(np.array([0, 0, 1, 1]), 7, 4, seed=0)
    assert chain.keep.tolist() == [True] * 4
    assert chain.judges.tolist() == list(range(7))


def test_folds_are_drawn_from_the_seed() -> None:
    labels = np.repeat([0, 1], 12)
    draws = [[c.judges.tolist() for c in stages.make_chains(labels, 0, 4, s)] for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


# --- heads on a frozen trunk


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pipeline.Run:
    return checks.prepared(tmp_path, monkeypatch, trunk="frozen")


@pytest.fixture
def chain(run: pipeline.Run) -> pipeline.Chain:
    return pipeline.Chain(run)


def test_probe_and_transfer_judge_every_label_and_leave_the_trunk_alone(
    run: pipeline.Run, chain: pipeline.Chain
) -> None:
    before = copy.deepcopy(run.base.state_dict())
    probe = stages.probe(run.task, run.base, chain.frozen)
    transfer = stages.transfer_frozen(run.task, run.base, chain.frozen)
    for outcome in (probe, transfer):
        assert outcome.frozen
        assert outcome.pseudo_labels is None
        assert outcome.beliefs.known.all()
        assert [p.shape for p in outcome.beliefs.pool if p is not None] == [(28, 2)] * 5
        for name, value in outcome.model.state_dict().items():
            assert torch.equal(value, before[name]) != name.startswith("head."), name
        temperature = outcome.model.spec.temperature
        assert temperature == stages.temperature_of(run.task, outcome.beliefs)
        labels = run.task.judged_labels
        fitted = nll(softmax(outcome.beliefs.judged, temperature), labels)
        assert fitted <= nll(softmax(outcome.beliefs.judged, 1.0), labels) + 1e-6
        assert (outcome.beliefs.judged.argmax(axis=1) == labels).mean() >= 0.75
    for name, value in run.base.state_dict().items():
        assert torch.equal(value, before[name])


def test_transfer_takes_the_choice_with_the_best_held_out_likelihood(
    run: pipeline.Run, chain: pipeline.Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {}
    for strength in stages.STRENGTHS:
        with monkeypatch.context() as patch:
            patch.setattr(stages, "STRENGTHS", (strength,))
            outcome = stages.transfer_frozen(run.task, run.base, chain.frozen)
        assert set(chain.frozen.metrics) == {"plain"}  # random weights have no fc layer to trust
        assert outcome.choice["metric"] == "plain"
        scores[strength] = outcome.choice["held_out_nll"]
        by_hand = softmax(outcome.beliefs.judged, outcome.model.spec.temperature)
        assert scores[strength] == pytest.approx(nll(by_hand, run.task.judged_labels))
    assert len(set(scores.values())) == len(stages.STRENGTHS)
    best = stages.transfer_frozen(run.task, run.base, chain.frozen).choice
    assert best["held_out_nll"] == pytest.approx(min(scores.values()), rel=1e-3)  # warm-started
    assert scores[best["strength"]] == min(scores.values())


def test_a_head_of_a_fold_does_not_depend_on_the_labels_it_is_judged_on(
    run: pipeline.Run, chain: pipeline.Chain
) -> None:
    frozen = chain.frozen
    fold = run.task.chains[1]
    turned = run.task.labels.copy()
    turned[fold.judges] = 1 - turned[fold.judges]
    other = dataclasses.replace(run.task, labels=turned)
    heads = [
        stages._head(task, fold, frozen, frozen.metrics["plain"], 3.0) for task in (run.task, other)
    ]
    assert torch.equal(heads[0].weight, heads[1].weight)
    whole = run.task.chains[0]
    heads = [
        stages._head(task, whole, frozen, frozen.metrics["plain"], 3.0)
        for task in (run.task, other)
    ]
    assert not torch.equal(heads[0].weight, heads[1].weight)


def test_a_round_learns_from_what_its_chain_believes(
    run: pipeline.Run, chain: pipeline.Chain
) -> None:
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    temperature = teacher.model.spec.temperature
    believed = stages.label_pool(
        run.task, teacher.beliefs, temperature, run.config, 0.5, chain.detections
    )
    outcome = stages.self_train_frozen(
        run.task, run.base, chain.frozen, believed, teacher.choice, run.config
    )
    labels = outcome.pseudo_labels
    assert labels is not None
    assert labels.accepted.sum() == pytest.approx(14, abs=2)
    assert outcome.choice == teacher.choice
    assert outcome.beliefs.known.all()
    assert not torch.equal(outcome.model.head.weight, teacher.model.head.weight)
    # Another teacher gives other labels: they are the teacher's beliefs, not the student's own.
    opposite = stages.Beliefs(
        [None if pool is None else -9 * pool for pool in teacher.beliefs.pool],
        teacher.beliefs.judged,
    )
    turned = label_pool(run, chain, opposite, 1.0, 0.5)[0]
    assert turned is not None
    assert (turned.labels != labels.labels).mean() > 0.5


def label_pool(
    run: pipeline.Run,
    chain: pipeline.Chain,
    teacher: stages.Beliefs,
    temperature: float,
    fraction: float,
) -> list[Any]:
    detections = chain.detections
    return stages.label_pool(run.task, teacher, temperature, run.config, fraction, detections)


def test_a_doubtful_teacher_passes_on_less_of_the_pool(
    run: pipeline.Run, chain: pipeline.Chain
) -> None:
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen).beliefs
    accepted = []
    for temperature in (0.01, 1e6):  # sure of everything, and of nothing: half are right by chance
        labels = label_pool(run, chain, teacher, temperature, 0.5)[0]
        assert labels is not None
        accepted.append(labels.accepted.mean())
    assert accepted[0] == pytest.approx(0.5, abs=0.08)
    assert accepted[1] == pytest.approx(0.25, abs=0.08)


def test_without_a_pool_nothing_is_believed(run: pipeline.Run) -> None:
    task = dataclasses.replace(run.task, pool=np.arange(0))
    judged = np.eye(2)[task.judged_labels]
    pools: list[Any] = [None, *[np.zeros((0, 2))] * (len(task.chains) - 1)]
    beliefs = stages.Beliefs(pools, judged)
    labels = stages.label_pool(task, beliefs, 1.0, run.config, 0.5, [None] * len(task.chains))
    assert labels == [None] * len(task.chains)


def test_an_ensemble_of_folds_labels_the_pool_for_the_model_on_all_labels_only(
    run: pipeline.Run,
) -> None:
    task = run.task
    pool = [checks.some_beliefs(task, seed) for seed in range(len(task.chains))]
    beliefs = stages.Beliefs(list(pool), np.eye(2)[task.judged_labels] + 0.1)

    def labels(ensemble: str) -> list[Any]:
        config = make_config("run", {"ensemble": ensemble, "alignment": 0.0})
        return stages.label_pool(task, beliefs, 2.0, config, None, [None] * len(task.chains))

    alone, together = labels("none"), labels("folds")
    np.testing.assert_allclose(alone[0].probs, softmax(pool[0], 2.0))
    np.testing.assert_allclose(together[0].probs, np.mean([softmax(p, 2.0) for p in pool], axis=0))
    for fold, same in zip(alone[1:], together[1:], strict=True):
        np.testing.assert_array_equal(fold.probs, same.probs)


# --- trained trunks


def shop(run: pipeline.Run) -> stages.Workshop:
    return stages.Workshop(run.config, run.device, 0, lambda *_: nullcontext(lambda _: None))


def test_a_trained_stage_judges_the_planned_folds_and_keeps_the_base(
    run: pipeline.Run, chain: pipeline.Chain
) -> None:
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    labels = label_pool(run, chain, teacher.beliefs, 1.0, 0.5)
    heads = stages.fit_chain_heads(run.task, chain.frozen, teacher.choice, run.config, labels)
    before = copy.deepcopy(run.base.state_dict())
    work = Work("trained", steps=3, batch_size=8, size=32)
    first, again = (
        stages.train_trunk(shop(run), run.task, run.base, heads, labels, work, 2, "round")
        for _ in range(2)
    )
    held_out = np.concatenate([c.judges for c in run.task.chains[1:3]])
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
    run: pipeline.Run, chain: pipeline.Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dataclasses.replace(run.task, chains=run.task.chains[:1])
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    labels = label_pool(run, chain, teacher.beliefs, 1.0, 1.0)[:1]
    heads = stages.fit_chain_heads(task, chain.frozen, teacher.choice, run.config, labels)
    fits = []
    fit = stages.fit

    def noted(shop: Any, model: Any, step: Any, loader: Any, settings: Any, label: str) -> Any:
        before = copy.deepcopy(model.state_dict())
        after = fit(shop, model, step, loader, settings, label)
        fits.append((before, after.state_dict(), loader, settings))
        for name in ("head.weight", "trunk.conv_head.weight"):
            assert not torch.equal(before[name], after.state_dict()[name]), name
        return after

    monkeypatch.setattr(stages, "fit", noted)
    work = Work("trained", steps=7, batch_size=8, size=32, revisions=2)
    outcome = stages.train_trunk(shop(run), task, run.base, heads, labels, work, 0, "round")
    assert [settings.steps for *_, settings in fits] == [2, 2, 2]
    assert [loader.first for _, _, loader, _ in fits] == [0, 2, 4]  # no batch comes twice
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
    run: pipeline.Run, chain: pipeline.Chain
) -> None:
    task = dataclasses.replace(run.task, chains=run.task.chains[:1])
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    heads = stages.fit_chain_heads(task, chain.frozen, teacher.choice, run.config, [None])
    work = Work("trained", steps=1, batch_size=8, size=32)
    assert teacher.beliefs.pool[0] is not None
    sure, unsure = (
        select(softmax(teacher.beliefs.pool[0], temperature), fraction=1.0)
        for temperature in (0.5, 4.0)
    )
    temperatures = [
        stages.train_trunk(
            shop(run), task, run.base, heads, [labels], work, 0, "x"
        ).model.spec.temperature
        for labels in (sure, unsure)
    ]
    assert temperatures[0] < temperatures[1]


def test_a_fold_takes_half_the_steps(
    run: pipeline.Run, chain: pipeline.Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = checks.captured_fits(monkeypatch)
    none: list[Any] = [None] * len(run.task.chains)
    choice = {"metric": "plain", "strength": 3.0}
    heads = stages.fit_chain_heads(run.task, chain.frozen, choice, run.config, none)
    work = Work("trained", steps=6, batch_size=8, size=32)
    stages.train_trunk(shop(run), run.task, run.base, heads, none, work, 2, "x")
    assert [fit.settings.steps for fit in fits] == [6, 3, 3]


@pytest.mark.parametrize("kind", ["trained", "online", "labels alone"])
def test_only_online_rounds_learn_the_statistics_of_norms(
    kind: Any, run: pipeline.Run, chain: pipeline.Chain
) -> None:
    none: list[Any] = [None] * len(run.task.chains)
    teacher = stages.transfer_frozen(run.task, run.base, chain.frozen)
    labels = label_pool(run, chain, teacher.beliefs, 1.0, 0.5) if kind != "labels alone" else none
    heads = stages.fit_chain_heads(run.task, chain.frozen, teacher.choice, run.config, none)
    task = dataclasses.replace(run.task, chains=run.task.chains[:1])
    work = Work("online" if kind == "online" else "trained", steps=2, batch_size=8, size=32)
    outcome = stages.train_trunk(shop(run), task, run.base, heads, labels, work, 0, "x")
    before = run.base.state_dict()
    running = [name for name in before if "running_mean" in name]
    assert running
    moved = [not torch.equal(outcome.model.state_dict()[name], before[name]) for name in running]
    assert any(moved) == (kind == "online")


def test_first_stages_stay_where_the_work_says_so(run: pipeline.Run, chain: pipeline.Chain) -> None:
    none: list[Any] = [None] * len(run.task.chains)
    choice = {"metric": "plain", "strength": 3.0}
    heads = stages.fit_chain_heads(run.task, chain.frozen, choice, run.config, none)
    task = dataclasses.replace(run.task, chains=run.task.chains[:1])
    moved = {}
    for frozen in (0, 2):
        work = Work("trained", steps=2, batch_size=8, size=32, frozen_stages=frozen)
        outcome = stages.train_trunk(shop(run), task, run.base, heads, none, work, 0, "x")
        before = run.base.state_dict()
        moved[frozen] = {
            name
            for name, value in outcome.model.state_dict().items()
            if not torch.equal(value, before[name])
        }
    assert "trunk.conv_stem.weight" in moved[0] - moved[2]
    assert any(name.startswith("trunk.") for name in moved[2])


def test_the_students_view_is_the_one_that_was_asked_for() -> None:
    found = {
        name: stages.strong_policy(TransferConfig(augment=name, num_ops=3, magnitude=11))
        for name in ("none", "randaugment", "trivialaugment")
    }
    assert isinstance(found["none"], Weak)
    assert isinstance(found["randaugment"].augment, RandAugment)  # type: ignore[union-attr]
    assert found["randaugment"].augment.num_ops == 3  # type: ignore[union-attr]
    assert found["randaugment"].augment.magnitude == 11.0  # type: ignore[union-attr]
    assert isinstance(found["trivialaugment"].augment, TrivialAugment)  # type: ignore[union-attr]
    assert found["none"].scale == (0.35, 1.0)  # type: ignore[union-attr]
    narrow = stages.strong_policy(TransferConfig(augment="none", crop_scale=0.8))
    assert narrow == Weak(scale=(0.8, 1.0))
    with pytest.raises(ValueError, match="'auto' was not resolved"):
        stages.strong_policy(TransferConfig(augment="auto"))


def test_the_loop_gets_the_users_rates_and_the_plans_steps() -> None:
    config = make_config("run", {"lr_head": 0.5, "weight_decay": 0.25, "optimizer": "sgd"})
    settings = stages.train_config(config, Work("trained", steps=7), lr_trunk=0.125)
    assert (settings.steps, settings.lr_head, settings.lr_trunk) == (7, 0.5, 0.125)
    assert (settings.weight_decay, settings.optimizer) == (0.25, "sgd")


# --- online rounds

ONLINE = {item.name: item for item in dataclasses.fields(SelfTrainConfig)}["online"]


def online_step(method: str, **changes: Any) -> Any:
    options = {"n_pool": 8, "steps": 30, "threshold": 0.7, "hard": False, **changes}
    return stages.make_online_step(method, torch.tensor([0.25, 0.75]), **options)


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
