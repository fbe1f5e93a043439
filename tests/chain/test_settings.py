"""Every setting changes something: one that does nothing is a silent bug."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import silent_checks as checks
import tiny
import torch
from torch import Tensor

from tutelage.chain import frozen, pipeline, stages
from tutelage.chain.machine import choose_device
from tutelage.config import make_config
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError

CHANGED: dict[str, Any] = {
    "labels_per_class": 2,
    "limit": 5,
    "decisions": "no-such-run",
    "duplicates": "keep",
    "seed": 7,
    "device": "cpu",
    "minutes": 0.5,
    "teacher": "test_resnet",
    "weights": "no-such-file.safetensors",
    "track": "no-such-tracker",
    "checkpoint_seconds": 0.0,
    "input_size": 64,
    "canvas": 48,
    "store_gb": 0.0,
    "image_column": "picture",
    "label_column": "kind",
    "image_root": "other",
    "trunk": "trained",
    "features": "last",
    "lr_head": 0.5,
    "lr_trunk": 0.5,
    "layer_decay": 0.5,
    "weight_decay": 0.5,
    "balance": "weights",
    "drop_rate": 0.7,
    "drop_path_rate": 0.7,
    "augment": "trivialaugment",
    "crop_scale": 0.9,
    "num_ops": 5,
    "magnitude": 28,
    "mix": "mixup",
    "rounds": 3,
    "pseudo_labels": "soft",
    "alignment": 0.2,
    "out_of_class": "keep",
    "clusters": "ignore",
    "online": "freematch",
    "threshold": 0.5,
    "student": "cut:1",
    "student_weights": "no-such-file.safetensors",
    "lr_student": 0.5,
    "temperature": 7.0,
    "alpha": 0.1,
    "max_latency_ms": 0.001,
    "max_size_mb": 0.001,
}
OF = {  # what shows a setting; each of the others that are not OF_THEIR_OWN shows in a training
    "table": ("image_column", "label_column", "image_root"),
    "prepare": ("labels_per_class", "limit", "seed", "minutes", "teacher", "weights", "input_size",
                "canvas", "trunk", "features", "rounds", "max_latency_ms", "max_size_mb",
                "duplicates"),
    "student": ("student", "student_weights", "lr_student", "temperature", "alpha"),
    "online": ("online", "threshold"),
}  # fmt: skip
OF_THEIR_OWN = ("device", "minutes", "drop_path_rate", "clusters", "duplicates",
                "store_gb", "checkpoint_seconds")  # fmt: skip


def test_every_setting_has_another_value_to_try() -> None:
    assert checks.settings() == list(CHANGED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all settings are tried, each in a run of its own on the same images."""
    return tmp_path_factory.mktemp("settings")


@pytest.fixture(scope="module")
def usual() -> dict[str, str]:
    """What is seen there at the usual settings."""
    return {}


@pytest.mark.parametrize("name", CHANGED)
def test_every_setting_changes_something(
    name: str, folder: Path, usual: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _usually(name, folder, monkeypatch, usual)
    after = _observed(name, folder, monkeypatch, f"other-{name}", {name: CHANGED[name]})
    assert before != after, f"{name} changes nothing"


@pytest.mark.parametrize("name", ["limit", "alpha", "threshold", "drop_rate"])
def test_what_settings_are_judged_by_repeats(
    name: str, folder: Path, usual: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _usually(name, folder, monkeypatch, usual)
    assert first == _observed(name, folder, monkeypatch, f"same-{name}", {})


def _usually(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, usual: dict[str, str]
) -> str:
    kind = _looked_at(name)
    if kind not in usual:
        usual[kind] = _observed(name, folder, monkeypatch, f"usual-{kind}", {})
    return usual[kind]


def _table_read(place: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]) -> str:
    """What is read of a table that has two columns for each use, and two images of each name."""
    for path in ("a.png", "b.png", "other/a.png"):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).touch()
    (place / "t.csv").write_text("image,label,picture,kind\na.png,ant,b.png,red\n")
    monkeypatch.chdir(place)
    catalog = read_catalog("t.csv", make_config("run", changed).table)
    return _text(catalog.source, catalog.classes)


def _looked_at(name: str) -> str:
    """What shows a setting: the same for all that ``_observed`` treats alike."""
    if name in OF_THEIR_OWN:
        return name
    return next((kind for kind, names in OF.items() if name in names), "trained")


def _observed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, changed: dict[str, Any]
) -> str:
    if name == "device":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        return str(choose_device(changed.get("device", "auto")))
    if name in OF["table"]:
        return _table_read(tmp_path / folder, monkeypatch, changed)
    if name == "minutes":
        changed = {"minutes": 1.0, **changed}
    if name == "duplicates":
        tmp_path = tmp_path / "copies"
        data = tiny.write_data(tmp_path / "data")
        shutil.copy(data / "test" / "ant" / "ant0.png", data / "unlabeled" / "again.png")
    if name == "drop_path_rate":  # test_efficientnet has no residual branch to drop
        changed = {"teacher": "test_resnet", **changed}
    try:
        run = checks.prepared(tmp_path, monkeypatch, folder, **changed)
    except TutelageError as error:
        return str(error)
    if name == "clusters":
        chain = pipeline.Pipeline(run)
        chain.stage("probe", lambda: frozen.probe(run, chain.features))
        return _text(stages.clusters_verdict(chain))
    if name == "store_gb":
        return type(run.store.images).__name__
    if name == "checkpoint_seconds":
        with run.trainings.of(run.folder.stages / "transfer"):
            checkpoints = run.trainings.next()
            return str(checkpoints.due())
    if name in OF["prepare"]:
        return _text(run.split.roles, dataclasses.astuple(run.plan)[1:], run.base.spec)
    if name in OF["student"]:
        fit = checks.student_fit(run, monkeypatch)
        return _text(fit.model.spec, fit.settings, *_of_step(fit))
    kind = "online" if name in OF["online"] else "trained"
    fit, labels = checks.trunk_fit(run, monkeypatch, kind)
    return _text(*_of_fit(fit), labels.probs)


def _of_step(fit: checks.Fit) -> list[Any]:
    """The loss that the first batch gives in evaluation mode."""
    batch = fit.loader.batch(0)
    loss, metrics = fit.step(fit.model.eval(), batch)
    return [loss, *metrics.values()]


def _of_fit(fit: checks.Fit) -> list[Any]:
    """Settings of the loop, three batches, and the loss and rates of the model as it trains."""
    batches = [fit.loader.batch(step) for step in range(3)]
    torch.manual_seed(0)
    loss, metrics = fit.step(fit.model.train(), batches[0])
    pixels = [part for batch in batches for part in (batch.images, batch.targets, batch.weights)]
    # A new residual branch may add nothing, so dropping it need not change the loss.
    drops = [getattr(module, "drop_prob", None) for module in fit.model.modules()]
    return [fit.settings, drops, loss, *metrics.values(), *pixels]


def _text(*parts: Any) -> str:
    return "\n".join(
        repr(p.detach().numpy().tobytes() if isinstance(p, Tensor)
             else p.tobytes() if isinstance(p, np.ndarray) else p)
        for p in parts
    )  # fmt: skip
