"""Each known silent bug is put into the source; the test beside its module must fail."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutate import TESTS, checked, mutate, place_of, replace_everywhere, run_check

pytest.importorskip("timm")

from tutelage.chain import frozen, prepare, student, trained, types
from tutelage.steps import distillation


def planted() -> dict[str, tuple[str, str, str, str]]:
    """Name -> (the test that must fail, module, text of the source, text with the bug)."""
    found = {}
    for section in (TESTS / "planted.diff").read_text("utf-8").split("\n=== ")[1:]:
        check, *bugs = section.split("\n--- ")
        for bug in bugs:
            title, *lines = bug.splitlines()
            module, _, name = title.partition(": ")
            texts = ["\n".join(line[1:] for line in lines if line[0] == sign) for sign in "-+"]
            found[name] = (check, module, texts[0], texts[1])
    return found


MUTATIONS = planted()


INERT: dict[str, tuple[str, str, str]] = {
    "magnitude": ("chain.recipe", "float(config.magnitude)", "9.0"),
    "crop_scale": ("chain.recipe", "scale=(config.crop_scale, 1.0)", "scale=(0.35, 1.0)"),
    "weight_decay": ("chain.trained", "        weight_decay=t.weight_decay,\n", ""),
    "drop_path_rate": ("chain.trained", "run.config.transfer.drop_path_rate)", "0.1)"),
    "alignment": ("chain.pool", "prior, strength=strength", "prior"),
    "out_of_class": ("chain.pool", 'run.config.self_train.out_of_class == "keep"', "False"),
    "clusters": ("chain.stages", 'chain.run.config.self_train.clusters == "ignore"', "False"),
    "online": (
        "chain.trained",
        "        config.self_train.online,\n",
        '        "fixmatch",\n',
    ),
    "threshold": ("chain.trained", "threshold=config.self_train.threshold", "threshold=0.95"),
    "temperature": ("steps.distillation", "temperature=self.temperature", "temperature=1.0"),
    "alpha": ("chain.student", "alpha=config.alpha", "alpha=0.7"),
    "limit": ("data.split", '_draw(catalog.names, pool, limit, f"{seed}/pool")', "pool"),
}

QUICK = (  # one of each kind outside .ci/weekly: in the loop, a step, the chain and on two ranks
    "optimizer never steps",
    "counter on the raw confidence",
    "a fold's limit knows its judged images",
    "resumed without the generator",
)


def some(names: Iterable[str], quick: Sequence[str]) -> list[Any]:
    """All names, of which the quick ones alone are no work for ``.ci/weekly``."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.weekly) for n in names]


@pytest.mark.parametrize("name", [*MUTATIONS, *INERT])
def test_a_bug_has_its_place_in_the_source_and_its_check(name: str) -> None:
    module, old, _new = INERT[name] if name in INERT else MUTATIONS[name][1:]
    place_of(f"tutelage.{module}", old)
    if name in MUTATIONS:
        path, _, test = MUTATIONS[name][0].partition("::")
        assert f"\ndef {test}(" in (TESTS / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", some(MUTATIONS, QUICK))
def test_a_bug_in_the_source_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, module, old, new = MUTATIONS[name]
    checked(check)  # before the bug: it goes where the check's module has its names, too
    if module == "steps.supervised":  # the buggy text needs a name that the module has not
        monkeypatch.setattr("tutelage.steps.supervised.torch", __import__("torch"), raising=False)
    mutate(monkeypatch, f"tutelage.{module}", old, new)
    with pytest.raises(AssertionError):
        run_check(check, tmp_path)


def _live_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distillation asks the live teacher, in training mode."""

    def live(model: Any) -> Any:
        model.train()
        return torch.no_grad()(lambda images: model(images))

    monkeypatch.setattr(distillation, "Forward", live)


def _uncalibrated_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student mimics the logits before calibration."""
    step = student.DistillationStep
    monkeypatch.setattr(
        student,
        "DistillationStep",
        lambda teacher, **kw: step(lambda view: 2.0 * teacher(view), **kw),
    )


def _choice_on_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are chosen, judged and calibrated on the test images."""
    make_task = prepare.make_task

    def leaky(data: Any, plan: Any) -> Any:
        task, test = make_task(data, plan), data.split.indices("test")
        fold = types.Fold(np.ones(len(task.labels), dtype=bool), np.arange(len(test)))
        return dataclasses.replace(
            task, judged=test, judged_labels=data.split.truth[test], folds=(fold,)
        )

    monkeypatch.setattr(prepare, "make_task", leaky)


def _test_in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test images are pseudo-labelled and trained on."""
    make_task = prepare.make_task

    def leaky(data: Any, plan: Any) -> Any:
        task, test = make_task(data, plan), data.split.indices("test")
        return dataclasses.replace(task, pool=np.concatenate([task.pool, test]))

    monkeypatch.setattr(prepare, "make_task", leaky)


def _all_beliefs_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The round learns from every belief, whatever was accepted."""
    believed = frozen.believed_targets

    def everything(labels: Any, kind: Any) -> Any:
        everyone = np.ones_like(labels.accepted)
        return believed(dataclasses.replace(labels, accepted=everyone), kind)

    replace_everywhere(monkeypatch, believed, everything)


def _folds_keep_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold's model trains on all labels."""
    train_fold = trained._train_fold

    def whole(run: Any, fold: Any, *rest: Any) -> Any:
        everything = dataclasses.replace(fold, keep=np.ones_like(fold.keep))
        return train_fold(run, everything, *rest)

    replace_everywhere(monkeypatch, train_fold, whole)


IN_THE_CHAIN = {
    "live teacher": (
        "chain/test_student.py::test_pipeline_teacher_is_in_evaluation_mode",
        _live_teacher,
    ),
    "uncalibrated teacher": (
        "chain/test_student.py::test_pipeline_teacher_is_in_evaluation_mode",
        _uncalibrated_teacher,
    ),
    "choice on test": (
        "chain/test_roles.py::test_the_test_split_decides_nothing",
        _choice_on_test,
    ),
    "test images in the pool decide": (
        "chain/test_roles.py::test_the_test_split_decides_nothing",
        _test_in_the_pool,
    ),
    "test images in the pool": (
        "chain/test_roles.py::test_labeled_images_leave_the_pool",
        _test_in_the_pool,
    ),
    "all beliefs are trained on": (
        "chain/test_trained.py::test_round_trains_on_what_the_report_counts",
        _all_beliefs_are_trained_on,
    ),
    "folds keep every label": (
        "chain/test_trained.py::test_held_out_labels_are_not_trained_on",
        _folds_keep_every_label,
    ),
}


@pytest.mark.parametrize("name", some(IN_THE_CHAIN, ["folds keep every label"]))
def test_a_bug_in_the_chain_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, bug = IN_THE_CHAIN[name]
    checked(check)
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        run_check(check, tmp_path)


@pytest.mark.parametrize("name", some(INERT, ["magnitude"]))
def test_a_setting_that_does_nothing_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = checked("chain/test_settings.py::test_every_setting_changes_something")
    module, old, new = INERT[name]
    mutate(monkeypatch, f"tutelage.{module}", old, new)
    with pytest.raises(AssertionError, match=f"{name} changes nothing"):
        settings(name, tmp_path, {}, monkeypatch)
