import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogs import of_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.split import ROLES, folds, load_split, make_split, save_split
from tutelage.system.errors import TutelageError


def make_catalog(labels, splits=None, classes=("ant", "bee", "wasp")):
    names = [f"image {i:03}" for i in range(len(labels))]
    return of_arrays(names, labels, splits or ["train"] * len(names), classes)


def draw(catalog, readable=None, *, labels_per_class=None, limit=None, seed=0):
    usable = np.ones(len(catalog), bool) if readable is None else readable
    return make_split(catalog, usable, labels_per_class=labels_per_class, limit=limit, seed=seed)


def load(path, catalog):
    return load_split(path, catalog, np.array([name != "image 000" for name in catalog.names]))


@pytest.fixture
def catalog():
    """30 labelled and 6 unlabelled for training, 6 for val, 9 for test; one unlabelled in each."""
    labels = [0, 1, 2] * 10 + [-1] * 6 + [0, 1, 2, 0, 1, -1] + [0, 1, 2, 0, 1, 2, 0, 1, -1]
    return make_catalog(labels, ["train"] * 36 + ["val"] * 6 + ["test"] * 9)


def test_every_role_without_a_draw(catalog):
    split = draw(catalog)
    assert split.indices("labeled").tolist() == list(range(30))
    assert split.indices("unlabeled").tolist() == list(range(30, 36))
    assert split.indices("val").tolist() == list(range(36, 41))
    assert split.indices("test").tolist() == list(range(42, 50))
    assert split.indices("unused").tolist() == [41, 50]
    assert split.warnings == ()
    with pytest.raises(TutelageError, match="unknown role 'train'; the roles are labeled"):
        split.indices("train")


@pytest.mark.parametrize("labels_per_class", [None, 1, 4, 10])
@pytest.mark.parametrize("limit", [None, 0, 5])
def test_labelled_images_are_never_in_the_pool_nor_its_truth_in_the_labels(
    catalog, labels_per_class, limit
):
    split = draw(catalog, labels_per_class=labels_per_class, limit=limit)
    roles = [set(split.indices(role).tolist()) for role in ROLES]
    assert sum(map(len, roles)) == len(set.union(*roles)) == len(catalog)
    for role in ("labeled", "unlabeled"):
        assert (catalog.splits[split.indices(role)] == "train").all()
    allowed = np.isin(split.roles, ["labeled", "val"])
    assert (split.labels[~allowed] == -1).all()
    assert (split.labels[allowed] == catalog.labels[allowed]).all()
    assert (split.labels[allowed] >= 0).all()
    np.testing.assert_array_equal(split.truth, catalog.labels)


def test_the_draw_keeps_n_of_each_class_and_the_rest_joins_the_pool(catalog):
    split = draw(catalog, labels_per_class=4)
    assert np.bincount(split.labels[split.indices("labeled")]).tolist() == [4, 4, 4]
    assert len(split.indices("unlabeled")) == 6 + 30 - 12
    assert len(split.indices("val")) == 5
    assert len(split.indices("test")) == 8


def test_limit_keeps_that_many_of_the_pool(catalog):
    whole = draw(catalog, labels_per_class=4)
    split = draw(catalog, labels_per_class=4, limit=7)
    assert len(split.indices("unlabeled")) == 7
    assert set(split.indices("unlabeled")) < set(whole.indices("unlabeled"))
    assert split.indices("labeled").tolist() == whole.indices("labeled").tolist()
    assert len(split.indices("unused")) == 2 + 24 - 7
    assert len(draw(catalog, limit=0).indices("unlabeled")) == 0
    assert len(draw(catalog, limit=1000).indices("unlabeled")) == 6


def test_the_draw_is_a_function_of_seed_and_names_alone(catalog):
    def drawn(catalog, seed):
        split = draw(catalog, labels_per_class=3, limit=8, seed=seed)
        return dict(zip(catalog.names, split.roles.tolist(), strict=True))

    order = np.random.default_rng(0).permutation(len(catalog))
    assert drawn(catalog, 1) == drawn(catalog.select(order), 1)
    assert len({tuple(sorted(drawn(catalog, seed).items())) for seed in range(5)}) == 5


def test_a_smaller_draw_is_part_of_a_larger_one(catalog):
    small, large = draw(catalog, labels_per_class=2), draw(catalog, labels_per_class=5)
    assert set(small.indices("labeled")) < set(large.indices("labeled"))


def test_the_draw_is_fair():
    catalog = make_catalog([0] * 10 + [1] * 10)
    counts = np.zeros(20)
    for seed in range(400):
        counts[draw(catalog, labels_per_class=3, seed=seed).indices("labeled")] += 1
    assert counts.sum() == 400 * 6
    # 120 expected each, standard deviation 9.2
    assert counts.min() > 80
    assert counts.max() < 160


def test_the_pool_and_the_labels_are_drawn_independently():
    """With one ranking for both, the pool would be the images next in line for a label."""
    catalog = make_catalog([0] * 40 + [1] * 40)
    pool = set(draw(catalog, labels_per_class=1, limit=20).indices("unlabeled"))
    next_in_line = set(draw(catalog, labels_per_class=21).indices("labeled"))
    assert not pool <= next_in_line


def test_unreadable_images_have_no_role(catalog):
    readable = np.ones(len(catalog), bool)
    readable[[0, 30, 36, 42]] = False
    split = draw(catalog, readable, labels_per_class=10)
    assert (split.roles[~readable] == "unused").all()
    assert split.warnings == (
        "class ant has 9 readable labelled training images of the 10 asked for",
    )


def test_a_class_with_too_few_labels_keeps_what_there_is_and_that_is_said():
    catalog = make_catalog([0] * 500 + [1] * 5 + [2], ["train"] * 505 + ["test"])
    split = draw(catalog, labels_per_class=10)
    assert np.bincount(split.labels[split.indices("labeled")]).tolist() == [10, 5]
    assert len(split.indices("unlabeled")) == 490
    said = "readable labelled training images of the 10 asked for"
    assert split.warnings == (
        f"class bee has 5 {said}",
        f"class wasp has 0 {said}, so it cannot be learned; label some or remove the class",
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-1, -1], "at least 2 classes are needed; found: none"),
        ([0, 0, -1], r"found: ant.*train/<class>/.*S\. the table is not used\. and more$"),
    ],
)
def test_what_cannot_be_drawn(labels, message):
    told = ("the table is not used", "and more")
    with pytest.raises(TutelageError, match=message):
        draw(dataclasses.replace(make_catalog(labels), warnings=told))


@pytest.fixture
def pinned(catalog, tmp_path):
    """The path of a split of the catalog whose first image cannot be read."""
    split = draw(catalog, readable(catalog), labels_per_class=3, limit=9, seed=5)
    save_split(split, catalog, tmp_path / "split.parquet")
    return tmp_path / "split.parquet"


def readable(catalog, *gone):
    known = np.ones(len(catalog), bool)
    known[[0, *gone]] = False
    return known


def test_a_pinned_split_comes_back_in_any_order(catalog, pinned):
    split = draw(catalog, readable(catalog), labels_per_class=3, limit=9, seed=5)
    order = np.random.default_rng(0).permutation(len(catalog))
    assert [p.name for p in pinned.parent.iterdir()] == ["split.parquet"]
    for rows in (np.arange(len(catalog)), order):
        again = load(pinned, catalog.select(rows))
        for name in ("roles", "labels", "truth"):
            np.testing.assert_array_equal(getattr(again, name), getattr(split, name)[rows])
            assert getattr(again, name).dtype == getattr(split, name).dtype


def test_the_pinned_file_is_for_other_programs_too(catalog, pinned):
    table = pq.read_table(pinned)
    assert table.column_names == ["image", "role", "label", "truth"]
    assert {str(kind) for kind in table.schema.types} == {"string"}
    for row, truth in zip(table.to_pylist(), catalog.labels, strict=True):
        known = None if truth < 0 else catalog.classes[truth]
        assert row["truth"] == known
        assert row["label"] == (known if row["role"] in ("labeled", "val") else None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": range(1, 51)}, r"0 new, 1 gone \(first: image 000\).*another --out"),
        ({"more": 1}, "1 new, 0 gone"),
        ({"label": 7}, "labels of 1 image changed.*image 007"),
        ({"classes": ("ant", "bee", "hornet")}, "labels of 13 images changed"),
        ({"gone": (36,)}, "1 image became unreadable.*image 036"),
    ],
)
def test_a_pinned_split_refuses_other_data(catalog, pinned, change, message):
    labels, more = catalog.labels.copy(), change.get("more", 0)
    if "label" in change:
        labels[change["label"]] = -1
    splits = [*catalog.splits.tolist(), *["train"] * more]
    other = make_catalog([*labels, *[-1] * more], splits, change.get("classes", catalog.classes))
    other = other.select([*change.get("rows", range(len(other)))])
    load_split(pinned, catalog, readable(catalog))
    with pytest.raises(TutelageError, match=message):
        load_split(pinned, other, readable(other, *change.get("gone", ())))


def test_an_interrupted_save_keeps_the_old_file(catalog, pinned, monkeypatch):
    before = pinned.read_bytes()

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_split(draw(catalog, labels_per_class=1), catalog, pinned)
    assert pinned.read_bytes() == before


def rewritten(path, **columns):
    table = pq.read_table(path).to_pydict()
    changed = {name: values * len(table["image"]) for name, values in columns.items()}
    pq.write_table(pa.table(table | changed), path)


UNSOUND = "is damaged: an image without a name, or with a role"
UNREADABLE = "is not a readable Parquet file"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: rewritten(path, role=["evil"]), UNSOUND),
        (lambda path: rewritten(path, role=[None]), UNSOUND),
        (lambda path: rewritten(path, image=[None]), UNSOUND),
        (lambda path: rewritten(path, image=[["a"]]), UNSOUND),
        (lambda path: path.unlink(), UNREADABLE),
        (lambda path: path.write_bytes(b"PAR1"), UNREADABLE),
        (lambda path: pq.write_table(pa.table({"image": ["a"]}), path), f"{UNREADABLE}: .*role"),
        (
            lambda path: path.write_bytes(
                path.read_bytes()[:4] + b"\xff" * 56 + path.read_bytes()[60:]
            ),
            UNREADABLE,
        ),
    ],
)
def test_a_damaged_pinned_split_is_refused(catalog, pinned, damage, message):
    damage(pinned)
    with pytest.raises(TutelageError, match=message):
        load(pinned, catalog)


def test_fold_draws_depend_on_the_seed_only():
    labels = np.repeat([0, 1], 20)
    assert folds(labels, 4, seed=1).tolist() == folds(labels, 4, seed=1).tolist()
    assert len({tuple(folds(labels, 4, seed=seed)) for seed in range(5)}) == 5


@settings(max_examples=50, deadline=None, database=None)
@given(
    labels=st.lists(st.integers(0, 4), max_size=60),
    k=st.integers(2, 6),
    seed=st.integers(0, 3),
)
def test_folds_are_balanced_overall_and_within_each_class(labels, k, seed):
    ids = folds(np.array(labels, int), k, seed)
    count = min(k, len(labels))
    assert set(ids) == set(range(count))
    assert not count or np.ptp(np.bincount(ids, minlength=count)) <= 1
    for label in set(labels):
        inside = np.bincount(ids[np.array(labels) == label], minlength=count)
        assert inside.max() - inside.min() <= 1
