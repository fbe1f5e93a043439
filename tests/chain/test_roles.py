import shutil
from pathlib import Path

import numpy as np
import pytest
import silent_checks as checks
import tiny
import torch

from tutelage.chain import pipeline, prepare
from tutelage.chain.run import teach


def test_labeled_images_leave_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = checks.prepared(tmp_path, monkeypatch)
    task = run.task
    roles = {r: set(run.split.indices(r).tolist()) for r in ("labeled", "unlabeled", "test")}
    assert len(task.labeled) == 8
    assert len(task.pool) == 28  # 12 train images that lost their label, 16 that never had one
    assert set(task.labeled.tolist()) == roles["labeled"]
    assert set(task.pool.tolist()) == roles["unlabeled"]
    assert not set(task.labeled.tolist()) & set(task.pool.tolist())
    assert not (roles["labeled"] | roles["unlabeled"]) & roles["test"]
    assert (run.split.labels[task.pool] == -1).all()
    for fold in task.folds[1:]:
        assert len(fold.judges)
        assert not fold.keep[fold.judges].any()


def test_copies_are_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a test image trains nothing; nor does one of a labelled image, in the pool."""
    data = tiny.write_data(tmp_path / "data")
    train, test, pool = (data / name for name in ("train", "test", "unlabeled"))
    shutil.copy(test / "ant" / "ant0.png", train / "ant" / "same.png")
    shutil.copy(test / "bee" / "bee0.png", pool / "same.png")
    shutil.copy(train / "ant" / "ant1.png", pool / "labelled.png")
    shutil.copy(train / "ant" / "ant2.png", train / "bee" / "wrong.png")
    gone = {"train/ant/same.png", "unlabeled/same.png", "unlabeled/labelled.png"}
    gone |= {"train/bee/wrong.png", "train/ant/ant2.png"}
    everything = {"labels_per_class": None, "rounds": 1, "trunk": "frozen"}
    run = checks.prepared(tmp_path, monkeypatch, **everything)
    names = np.array(run.catalog.names)
    assert {*names[run.split.indices("unused")].tolist()} == gone
    assert not {*names[run.task.labeled].tolist(), *names[run.task.pool].tolist()} & gone
    assert len(run.split.indices("test")) == 12
    assert any("leakage" in note for note in run.notes)
    again = checks.prepared(tmp_path, monkeypatch, **everything)  # goes on in the same folder
    assert again.copies == run.copies
    np.testing.assert_array_equal(again.split.roles, run.split.roles)


def test_the_test_split_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for seed in (0, 1):
        root = tmp_path / f"decisions{seed}"
        tiny.write_data(root / "data")
        if seed:  # other pixels, and every test label turned round
            for name in ("ant", "bee"):
                for i in range(6):
                    picture = tiny.smooth_image(32, 40, np.random.default_rng(i))
                    path = root / "data" / "test" / name / f"{name}{i}.png"
                    tiny.Image.fromarray(picture).save(path)
        run = checks.prepared(root, monkeypatch, trunk="frozen", rounds=2)
        if seed:
            test = run.split.indices("test")
            run.split.truth[test] = 1 - run.split.truth[test]
            run.task = prepare.make_task(run, run.plan)
        chain = pipeline.Pipeline(run)
        teach(chain, self_training=True)
        found.append(chain.finished)
    for before, after in zip(*found, strict=True):
        assert before.name == after.name
        assert before.accepted == after.accepted
        assert before.reason == after.reason
        assert before.outcome.choice == after.outcome.choice
        assert before.outcome.model.spec == after.outcome.model.spec
        np.testing.assert_array_equal(before.outcome.beliefs.judged, after.outcome.beliefs.judged)
        weights = after.outcome.model.state_dict()
        for name, value in before.outcome.model.state_dict().items():
            assert torch.equal(value, weights[name]), f"{before.name}: {name}"
