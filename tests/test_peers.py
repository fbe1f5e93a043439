"""The benchmarks' data sets, peers and summaries: baselines must be what they are called."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import io
import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripts
import tiny
import torch
from PIL import Image
from shapes import SETTINGS, write_shapes

from tutelage.config import make_config
from tutelage.data.open import read_catalog
from tutelage.models.zoo import create
from tutelage.system.errors import TutelageError

with scripts.importable():
    import efficiency
    import foreign
    import named_sets
    import results
    import review
    from peers import finetune, kd, selftraining, usb
    from peers.common import Clock, Draw, Photos, batches, cosine, endless, photo

CPU = torch.device("cpu")


def ticking(step: float = 1.0) -> Any:
    """A clock that moves by ``step`` whenever it is read."""
    return itertools.count(0.0, step).__next__


def draw(n: int = 6, classes: int = 3, **changes: Any) -> Draw:
    settings: dict[str, Any] = {
        "store": tiny.store(tiny.smooth_images(n)),
        "labeled": np.arange(classes),
        "labels": np.arange(classes),
        "pool": np.arange(classes, n),
        "base": tiny.classifier(classes),
        "size": 16,
        "seconds": 3.0,
        "device": CPU,
        "seed": 0,
    }
    return Draw(**{**settings, **changes})


# --- data sets


def test_an_idx_file_is_read_row_by_row(tmp_path: Path) -> None:
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 1, 3))
    (tmp_path / "x.gz").write_bytes(gzip.compress(header + bytes([1, 2, 3, 4, 5, 6])))
    assert named_sets.read_idx(tmp_path / "x.gz").tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    (tmp_path / "y.gz").write_bytes(gzip.compress(b"\0\0\x0d\x01" + bytes(4)))
    with pytest.raises(TutelageError, match="no IDX file of bytes: it starts with 00000d01"):
        named_sets.read_idx(tmp_path / "y.gz")


def test_a_manifest_keeps_pixels_labels_and_splits(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    rows = [("a.png", named_sets.png(pixels), "x", "train"), ("b.png", b"?", "y", "test")]
    rows.append(("c.png", b"?", "", "train"))
    named_sets.write_manifest(iter(rows), tmp_path / "m.parquet")
    catalog = read_catalog(tmp_path / "m.parquet")
    assert catalog.names == ("a.png", "b.png", "c.png")
    assert catalog.classes == ("x", "y")
    assert catalog.labels.tolist() == [0, 1, -1]
    assert catalog.splits.tolist() == ["train", "test", "train"]
    assert np.array_equal(Image.open(io.BytesIO(catalog.source.read(0))), pixels)


def test_digits_have_a_stratified_test_split() -> None:
    pytest.importorskip("sklearn")
    rows = list(named_sets.MAKERS["digits"]())
    tested = [label for _, _, label, split in rows if split == "test"]
    assert (len(rows), len(tested)) == (1797, 500)
    assert {tested.count(str(digit)) for digit in range(10)} <= set(range(48, 52))
    assert rows == list(named_sets.MAKERS["digits"]())


def test_an_unknown_data_set_and_a_missing_one_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="unknown data set 'mnist'; there are fashion-mnist"):
        named_sets.catalog("mnist")
    with pytest.raises(TutelageError, match=r"cifar10\.parquet.*--data-dir or \$TUTELAGE_DATA"):
        named_sets.catalog("cifar10", tmp_path)


def test_half_of_a_mixed_pool_is_foreign_and_has_no_name(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = (
        (f"{i}.png", b"?", "abcd"[i % 4], "test" if i % 3 == 0 else "train") for i in range(120)
    )
    named_sets.write_manifest(rows, tmp_path / "m.parquet")
    whole = read_catalog(tmp_path / "m.parquet")
    truth = dict(zip(whole.names, whole.labels.tolist(), strict=True))
    mixed, of_no_class = foreign.mixed_catalog(whole, 2, 3, 20, 10, seed=0)
    assert len(mixed.classes) == 2
    names = [whole.classes[truth[name]] for name in mixed.names]
    test, named = mixed.splits == "test", mixed.labels >= 0
    assert np.bincount(mixed.labels[named & ~test]).tolist() == [3, 3]
    assert (test.sum(), (~named).sum(), of_no_class.sum()) == (10, 20, 10)
    assert named[test].all()
    for name, label, outside in zip(names, mixed.labels, of_no_class, strict=True):
        assert (name in mixed.classes) != outside
        assert label == -1 or mixed.classes[label] == name
    others, _ = foreign.mixed_catalog(whole, 2, 3, 20, 10, seed=1)
    assert others.names != mixed.names


# --- what peers are given


def test_wrong_labels_are_wrong_and_only_in_training(tmp_path: Path) -> None:
    catalog = read_catalog(write_shapes(tmp_path / "shapes", train=40))
    noisy = review.with_wrong_labels(catalog, 0.25, seed=0)
    changed = np.flatnonzero(noisy.labels != catalog.labels)
    train = (catalog.splits == "train") & (catalog.labels >= 0)
    assert len(changed) == round(0.25 * train.sum())
    assert train[changed].all()
    assert set(noisy.labels[changed]) == {0, 1, 2}


def test_the_rate_follows_the_clock_and_ends_at_zero() -> None:
    found = [cosine(p, warmup=0.2) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_a_photo_has_its_own_shape_again() -> None:
    images = tiny.smooth_images(3)
    store = tiny.store(images, np.array([1.0, 2.0, 0.5], dtype=np.float32))
    assert [photo(store, row).size for row in range(3)] == [(32, 32), (64, 32), (32, 64)]
    assert np.array_equal(np.asarray(photo(store, 0)), images[0])


def test_few_images_fill_a_batch_and_none_is_forgotten() -> None:
    order = list(itertools.islice(endless(5, seed=0), 15))
    assert [sorted(order[i : i + 5]) for i in (0, 5, 10)] == [list(range(5))] * 3
    assert order[:5] != order[5:10]
    given = draw()
    photos = Photos(given.store, given.labeled, given.labels, lambda image: torch.zeros(1))
    _, labels = next(batches(photos, 7, given))
    assert len(labels) == 7
    assert set(labels.tolist()) == {0, 1, 2}


# --- the peers


@pytest.mark.parametrize("peer", ["finetune", "kd"])
def test_a_trained_peer_moves_every_weight_of_a_copy(peer: str) -> None:
    given = draw()
    given.base.freeze_trunk()  # as the pipeline hands it on
    before = copy.deepcopy(given.base.state_dict())
    if peer == "finetune":
        trained = finetune.finetune(given, clock=Clock(3.0, ticking(0.5)))
    else:
        student = tiny.classifier(3, seed=1)
        before = copy.deepcopy(student.state_dict())
        trained = kd.distill(dataclasses.replace(given, seconds=0.2), given.base, student)
    after = trained.model.state_dict()
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert not same, same
    assert trained.steps >= 2
    assert trained.model.spec.input_size == 16
    if peer == "finetune":
        assert all(
            torch.equal(before[name], value) for name, value in given.base.state_dict().items()
        )


def test_distillation_is_hintons_loss() -> None:
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p, q = torch.softmax(teacher / 4, 1), torch.softmax(student / 4, 1)
    soft = 16 * float((p * (p / q).log()).sum())
    none = torch.tensor([-1])
    assert float(kd.kd_loss(student, teacher, none)) == pytest.approx(0.5 * soft, rel=1e-5)
    hard = math.log(1 + math.e)  # of class 1 under logits 1, 0
    labeled = kd.kd_loss(student, teacher, torch.tensor([1]))
    assert float(labeled) == pytest.approx(0.5 * soft + 0.5 * hard, rel=1e-5)


def test_distillation_is_torchdistills() -> None:
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 5, generator=generator)
    labels = torch.randint(0, 5, (8,), generator=generator)
    theirs = losses.KDLoss(".", "output", ".", "output", temperature=4.0, alpha=0.5)
    expected = theirs({".": {"output": student}}, {".": {"output": teacher}}, labels)
    torch.testing.assert_close(kd.kd_loss(student, teacher, labels), expected)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_fitted_regression_answers_the_same_from_the_head(classes: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    scalers = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(0)
    labels = np.arange(30) % classes
    features = (rng.normal(size=(30, 8)) * 3 + labels[:, None]).astype(np.float32)
    scaler = scalers.StandardScaler().fit(features)
    fitted = linear.LogisticRegression().fit(scaler.transform(features), labels)
    model = tiny.classifier(classes)
    selftraining.set_linear(model, fitted, scaler)
    ours = torch.softmax(model.head(torch.from_numpy(features)), dim=1).detach().numpy()
    expected = fitted.predict_proba(scaler.transform(features))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("criterion", ["threshold", "k_best"])
def test_self_training_takes_the_pool_on(criterion: str) -> None:
    pytest.importorskip("sklearn")
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    # Long clusters side by side: one label each says little about where they part.
    truth = np.arange(303) % 3
    features = rng.normal(size=(303, 8)) * ([3.0] * 3 + [0.3] * 5)
    features[:, 3:6] += 1.5 * np.eye(3)[truth]
    features = torch.from_numpy(features).float()
    scale = features.mean(dim=0), features.std(dim=0, correction=0)
    scaled = ((features - scale[0]) / scale[1]).numpy()
    alone = linear.LogisticRegression().fit(scaled[:3], truth[:3]).score(scaled[3:], truth[3:])
    trained = selftraining.self_training(draw(), features[:3], features[3:], criterion)
    answers = trained.model.head(features[3:]).argmax(dim=1).numpy()
    assert trained.steps > 0
    assert alone < 0.9 < (answers == truth[3:]).mean()


# --- USB


def need_usb() -> None:
    try:
        usb.semilearn()
    except TutelageError as error:
        pytest.skip(str(error))


def usb_network(classes: int = 4) -> usb.Network:
    model = create(
        "test_efficientnet", tuple("abcd"[:classes]), canvas=32, input_size=32, weights="none"
    )
    model.unfreeze_trunk()
    return usb.Network(model).train()


def usb_batches(count: int, classes: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = ("x_lb", "x_ulb_w", "x_ulb_s")
    return [
        {
            **{name: torch.rand(4, 3, 32, 32, generator=generator) for name in images},
            "y_lb": torch.arange(4) % classes,
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("method", usb.METHODS)
def test_our_steps_are_those_of_usbs_own_loop(method: str) -> None:
    need_usb()
    given, steps = usb_batches(3), itertools.count()
    torch.manual_seed(0)
    ours, theirs = (copy.deepcopy(network) for network in [usb_network()] * 2)
    clock = Clock(usb.COMMON["num_train_iter"], lambda: float(next(steps)))  # a step a reading
    algorithm = usb.make_algorithm(method, ours, clock)
    for batch in given:
        usb.step(algorithm, batch)
    reference = usb.make_algorithm(method, theirs, Clock(1.0))
    # USB's loop, its scheduler in place of ours; only what moves a batch to a GPU is left out.
    reference.optimizer, reference.scheduler = usb.semilearn().base.set_optimizer(reference)
    reference.process_batch = lambda **batch: batch
    reference.epochs = 1
    labeled = [{name: batch[name] for name in ("x_lb", "y_lb")} for batch in given]
    pool = [{name: batch[name] for name in ("x_ulb_w", "x_ulb_s")} for batch in given]
    reference.loader_dict = {"train_lb": labeled, "train_ulb": pool}
    reference.train()
    assert algorithm.it == reference.it == 3
    assert algorithm.log_dict == reference.log_dict
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_usbs_rates_fall_with_depth_and_with_time() -> None:
    need_usb()
    now = [0.0]
    algorithm = usb.make_algorithm("freematch", usb_network(), Clock(100.0, lambda: now[0]))
    now[0] = 50.0
    algorithm.scheduler.step()
    iterations, warmup = usb.COMMON["num_train_iter"], usb.COMMON["num_warmup_iter"]
    share = (iterations / 2 - warmup) / (iterations - warmup)
    factor = math.cos(math.pi * 7 / 16 * share)
    rates = sorted({group["lr"] for group in algorithm.optimizer.param_groups}, reverse=True)
    assert rates[0] == pytest.approx(1e-4 * factor)  # the head
    assert rates[1] == pytest.approx(0.95e-4 * factor)
    assert len(rates) > 5
    trained = sum(len(group["params"]) for group in algorithm.optimizer.param_groups)
    assert trained == len(list(algorithm.model.parameters()))


# --- the driver


def test_a_mean_has_students_interval() -> None:
    assert results.mean([1.0, 2.0, 3.0]) == {"mean": 2.0, "ci95": [-0.4841, 4.4841]}
    assert results.mean([0.5]) == {"mean": 0.5, "ci95": None}


def row(seed: int, arm: str, accuracy: float) -> dict[str, Any]:
    setting = dict.fromkeys(results.SETTING, 1)
    return {**setting, "seed": seed, "arm": arm, "accuracy": accuracy, "ece": 0.1, "seconds": 1}


def test_differences_are_between_arms_of_the_same_draw() -> None:
    rows = [row(0, "student", 0.8), row(1, "student", 0.6), row(2, "student", 0.1)]
    rows += [row(1, "probe", 0.5), row(0, "probe", 0.5)]
    student, probe = efficiency.summary(rows, "student")
    assert (student["draws"], student["difference"]) == (3, None)
    assert (probe["draws"], probe["pairs"]) == (2, 2)
    assert probe["difference"]["mean"] == pytest.approx(-0.2)  # of -0.3 and -0.1


def test_rows_that_are_there_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def one_seed(options: Any, catalog: Any, seed: int, arms: list[str]) -> Any:
        made.extend((seed, arm) for arm in arms)
        yield from ({"arm": arm, "accuracy": 0.5, "ece": 0.0, "seconds": 1} for arm in arms)

    monkeypatch.setattr(efficiency, "one_seed", one_seed)
    monkeypatch.setattr(efficiency, "load", lambda *_: None)
    out = tmp_path / "rows.jsonl"
    command = ["efficiency", "digits", "--out", str(out), "--seeds", "2"]
    for arms in ("probe", "probe,kd"):
        monkeypatch.setattr(sys, "argv", [*command, "--arms", arms])
        efficiency.main()
    assert made == [(0, "probe"), (1, "probe"), (0, "kd"), (1, "kd")]
    assert len(efficiency.read_rows(out)) == 4


def test_a_draw_from_labels_to_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_shapes(tmp_path / "data", train=6)
    monkeypatch.setattr(
        efficiency, "make_config", lambda name, given: make_config(name, {**given, **SETTINGS})
    )
    arms = ["probe", "self-train", "student", "timm-fine-tune", "sklearn-k-best", "kd"]
    out = tmp_path / "rows.jsonl"
    command = f"efficiency {data} --labels-per-class 4 --seeds 1 --minutes 0.02 --arms"
    monkeypatch.setattr(sys, "argv", [*command.split(), ",".join(arms), "--out", str(out)])
    efficiency.main()
    rows = {row["arm"]: row for row in efficiency.read_rows(out)}
    assert list(rows) == arms
    for arm, found in rows.items():
        assert (found["data"], found["n"], found["seed"]) == ("data", 18, 0), arm
        assert 0 <= found["accuracy"] <= 1, arm
    sizes = {arm: found["parameters"] for arm, found in rows.items()}
    assert sizes["kd"] == sizes["student"] < sizes["probe"]
    assert {sizes[arm] for arm in arms if arm not in ("kd", "student")} == {sizes["probe"]}
    assert rows["timm-fine-tune"]["steps"] > 0


def test_all_arms_see_the_same_test_images(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    cells = ((f"{i}.png", b"?", "ab"[i % 2], "test" if i < 20 else "train") for i in range(30))
    named_sets.write_manifest(cells, tmp_path / "m.parquet")
    first, again = (efficiency.load(str(tmp_path / "m.parquet"), None, 7) for _ in range(2))
    assert first.names == again.names
    assert [(first.splits == split).sum() for split in ("test", "train")] == [7, 10]
