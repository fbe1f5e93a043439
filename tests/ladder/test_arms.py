"""The arms of a ladder: what each trains on, from where, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm")

import copy

import numpy as np
import silent_checks as checks
import torch
from locked import is_locked

from tutelage.augment import Center, Weak
from tutelage.augment.randaugment import Strong
from tutelage.chain import pipeline, plan, stages, types
from tutelage.chain.plan import Work
from tutelage.chain.prepare import prepare
from tutelage.config import make_config
from tutelage.data.open import read_catalog
from tutelage.ladder import arms
from tutelage.ladder.request import ARMS, LEFT_OUT
from tutelage.stats.metrics import Comparison

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def prepared(data: Path, tmp_path: Path) -> Callable[..., types.Run]:
    """``prepared(**settings)``: a draw before its first stage."""

    def prepared(**settings: Any) -> types.Run:
        config = make_config("ladder", {**checks.LADDER, **settings})
        catalog, out = read_catalog(data), tmp_path / "run"
        return prepare("ladder", catalog, str(data), out, config, quiet=True)

    return prepared


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The trainings from now on, as they were asked for."""
    return checks.captured_fits(monkeypatch)


def rows_of(fit: Any) -> set[int]:
    return {int(row) for examples, _ in fit.loader.streams for row in examples.rows}


def test_the_extra_arms_get_the_same_rows_views_and_steps(prepared: Any, fits: list[Any]) -> None:
    run = prepared()
    arms.train_arms(pipeline.Pipeline(run), checks.CHAIN)
    assert len(fits) == 3
    fine_tune, alone, distilled = fits
    labeled = set(run.task.labeled.tolist())
    for fit in (fine_tune, alone):
        assert rows_of(fit) == labeled
    pool = {int(row) for row in run.task.pool}
    assert rows_of(distilled) == labeled | pool
    assert {fit.settings.steps for fit in fits} == {4}
    assert {fit.loader.views.size for fit in fits} == {run.plan.student.size}
    assert len({repr(fit.loader.views.policy) for fit in fits}) == 1
    assert {fit.loader.seed for fit in fits} == {run.config.data.seed}
    assert any(p.requires_grad for p in fine_tune.model.trunk.parameters())
    shapes = [{n: p.shape for n, p in fit.model.named_parameters()} for fit in (alone, distilled)]
    assert shapes[0] == shapes[1]


def test_of_several_trunks_the_rivals_train_the_first(prepared: Any, fits: list[Any]) -> None:
    run = prepared(teacher="test_efficientnet,test_resnet")
    assert tuple(arms.train_arms(pipeline.Pipeline(run), arms.ALONE)) == arms.ALONE
    assert {path.name for path in run.folder.stages.iterdir()} == {*arms.ALONE}  # and no others
    assert len(fits) == len(arms.ALONE)
    for fit in fits:
        assert fit.model.spec.architecture == "test_efficientnet"
        assert fit.model.spec.members == ()


@pytest.mark.parametrize(
    ("transfer", "rounds", "expected"),
    [
        ("frozen", ("frozen",), (300, 32)),
        ("frozen", ("frozen", "trained"), (200, 64)),
        ("trained", ("online",), (100, 64)),
    ],
)
def test_fine_tuning_works_as_the_plan_trains_a_trunk_or_else_the_student(
    transfer: Any, rounds: Any, expected: tuple[int, int]
) -> None:
    chosen = plan.RunPlan(
        minutes=1, size=64, views=2, folds=4, judged_folds=2, estimated_seconds=1,
        transfer=Work(transfer, 100, 64, 96), rounds=tuple(Work(r, 200, 64, 96) for r in rounds),
        student=Work("trained", 300, 32, 64),
    )  # fmt: skip
    work = arms.fine_tune_work(chosen)
    assert (work.trunk, work.steps, work.batch_size) == ("trained", *expected)


def test_the_baseline_has_random_weights_that_all_learn_and_no_augmentation(
    prepared: Any, fits: list[Any], tmp_path: Path
) -> None:
    run = prepared(weights=pretrained(tmp_path))
    arms.train_arms(pipeline.Pipeline(run), ("scratch", "augment", "fine-tune"))
    scratch, augment, fine_tune = fits
    labeled = set(run.task.labeled.tolist())
    for fit in fits:
        assert rows_of(fit) == labeled
        assert (fit.settings.steps, fit.loader.views.size) == (4, 32)
    assert isinstance(scratch.loader.views.policy, Center)
    assert scratch.loader.views.mix == "none"
    assert augment.loader.views == fine_tune.loader.views
    own = run.base.state_dict()["trunk.conv_stem.weight"]
    stems = [fit.model.state_dict()["trunk.conv_stem.weight"] for fit in fits]
    assert torch.equal(stems[0], stems[1])
    assert not torch.equal(stems[0], own)
    assert torch.equal(stems[2], own)
    assert not augment.model.head.weight.any()
    for fit, frozen in zip(fits, (False, False, True), strict=True):
        assert fit.model.train()._frozen_norms == frozen
        assert (fit.settings.lr_trunk < fit.settings.lr_head) == frozen


def pretrained(tmp_path: Path) -> str:
    """Weights of the tests' architecture in a file, as a user has them."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(5)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model(checks.LADDER["teacher"]).state_dict(), path)
    return str(path)


def test_a_chain_less_a_part_differs_by_that_part_alone(
    prepared: Any, fits: list[Any], tmp_path: Path
) -> None:
    run = prepared(weights=pretrained(tmp_path))
    done = arms.train_arms(pipeline.Pipeline(run), ("self-train", "student", *LEFT_OUT))
    assert tuple(done) == ("self-train", "student", *LEFT_OUT)
    # Pretrained students begin gently, the random one cannot.
    by_policy = [type(fit.loader.views.policy) for fit in fits]
    assert sorted(by_policy, key=str) == sorted([Weak, Weak, Center, Strong], key=str)
    plain = [fit for fit in fits if isinstance(fit.loader.views.policy, Center)]
    assert [fit.loader.views.mix for fit in plain] == ["none"]
    assert all(rows_of(fit) == rows_of(fits[0]) for fit in fits)  # the same split
    assert {fit.settings.steps for fit in fits} == {4}
    stem = "trunk.body.conv_stem.weight"
    known = run.base.state_dict()["trunk.conv_stem.weight"]
    random = [fit for fit in fits if not torch.equal(fit.model.state_dict()[stem], known)]
    assert len(random) == 1
    assert random[0].run.config.data.weights == "none"
    assert isinstance(random[0].loader.views.policy, Strong)
    for name in ("no-augmentation", "no-transfer"):
        stored = {path.name for path in (run.folder.path / name / "stages").iterdir()}
        assert stored == {"probe", "transfer", "self-train-1", "student"}
        assert not is_locked(run.folder.path / name)
    assert len(run.notes) == len(set(run.notes))  # theirs are not the run's


@pytest.mark.usefixtures("fits")
def test_time_is_counted_with_all_that_an_arm_builds_on(prepared: Any) -> None:
    chain = pipeline.Pipeline(prepared())
    done = arms.train_arms(chain, ARMS)
    spent = {stage.name: stage.seconds for stage in chain.finished}
    before = spent["probe"] + spent["transfer"]
    assert done["transfer"].total == pytest.approx(before)
    assert done["self-train"].total == pytest.approx(before + spent["self-train-1"])
    assert done["student"].total == pytest.approx(sum(spent.values()))
    assert done["student"].seconds == spent["student"]
    for name in arms.ALONE:
        assert done[name].total == done[name].seconds
    for name in ("no-augmentation", "no-transfer"):
        assert done[name].total == done[name].seconds > 0


@pytest.mark.parametrize("accepted", [True, False])
def test_a_student_without_rounds_learns_from_the_teacher_before_them(
    accepted: bool, prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Comparison, "accepted", property(lambda _: accepted))
    taught: list[Any] = []
    distil = arms.student.distill

    def noted(run: Any, teachers: Any, *rest: Any) -> Any:
        taught.extend(teachers)
        return distil(run, teachers, *rest)

    monkeypatch.setattr(arms.student, "distill", noted)
    monkeypatch.setattr(stages, "distill", noted)
    chain = pipeline.Pipeline(prepared())
    done = arms.train_arms(chain, ("self-train", "student", "no-self-train"))
    if accepted:
        transfer = next(stage for stage in chain.finished if stage.name == "transfer")
        assert taught == [chain.teachers[-1].outcome.model, transfer.outcome.model]
        assert done["no-self-train"].stage is not done["student"].stage
    else:
        assert len(taught) == 1
        assert done["no-self-train"] is done["student"]


# --- known silent bugs


def test_an_arm_never_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    checks.captured_fits(monkeypatch)
    chain = pipeline.Pipeline(run)
    model = copy.deepcopy(run.base)
    beliefs = types.Beliefs([None], np.full((len(run.task.judged), 2), np.nan))
    chain.stage("probe", lambda: types.Outcome(run.base, beliefs, frozen=False))
    done = chain.arm("fine-tune", lambda: types.Outcome(model, beliefs, frozen=False))
    assert done.outcome.model is model
    assert chain.teacher.name == "probe"
    assert [stage.name for stage in chain.finished] == ["probe"]
