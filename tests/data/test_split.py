import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogs import of_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.split import ROLES, Split, folds, load_split, make_split, save_split
from tutelage.system.errors import TutelageError


def make_catalog(labels, splits=None, classes=("ant", "bee", "wasp")):
    names = [f"image {i:03}" for i in range(len(labels))]
    return of_arrays(names, labels, splits or ["train"] * len(names), classes)


def draw(catalog, readable=None, *, labels_per_class=None, limit=None, seed=0):
    usable = np.ones(len(catalog), bool) if readable is None else readable
    return make_split(catalog, usable, labels_per_class=labels_per_class, limit=limit, seed=seed)


def load(path, catalog):
    return load_split(path, catalog, np.ones(len(catalog), bool))


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
def test_hidden_truth_never_shows_in_labels(catalog, labels_per_class, limit):
    split = draw(catalog, labels_per_class=labels_per_class, limit=limit)
    allowed = np.isin(split.roles, ["labeled", "val"])
    assert (split.labels[~allowed] == -1).all()
    assert (split.labels[allowed] == catalog.labels[allowed]).all()
    assert (split.labels[allowed] >= 0).all()
    np.testing.assert_array_equal(split.truth, catalog.labels)


@pytest.mark.parametrize("labels_per_class", [None, 1, 4])
def test_labelled_images_are_never_in_the_pool(catalog, labels_per_class):
    split = draw(catalog, labels_per_class=labels_per_class)
    roles = [set(split.indices(role).tolist()) for role in ROLES]
    assert sum(map(len, roles)) == len(set.union(*roles)) == len(catalog)
    pool = split.indices("unlabeled")
    assert (catalog.splits[pool] == "train").all()
    assert (catalog.splits[split.indices("labeled")] == "train").all()


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


def test_a_class_that_cannot_be_learned_is_said():
    catalog = make_catalog([0, 1, 0, 1, 2], ["train"] * 4 + ["test"])
    assert draw(catalog).warnings == (
        "class wasp has 0 readable labelled training images, so it cannot be learned; "
        "label some or remove the class",
    )


def test_fewer_than_asked_for_keeps_what_there_is():
    catalog = make_catalog([0] * 500 + [1] * 5 + [2] * 5)
    split = draw(catalog, labels_per_class=10)
    assert np.bincount(split.labels[split.indices("labeled")]).tolist() == [10, 5, 5]
    assert len(split.warnings) == 2
    assert len(split.indices("unlabeled")) == 490


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([-1, -1], {}, "at least 2 classes are needed; found: none"),
        ([0, 0, -1], {}, "found: ant.*train/<class>/"),
    ],
)
def test_what_cannot_be_drawn(labels, options, message):
    with pytest.raises(TutelageError, match=message):
        draw(make_catalog(labels), **options)


def test_what_is_wrong_with_the_data_is_told_where_labels_lack():
    odd = dataclasses.replace(make_catalog([-1]), warnings=("the table is not used", "and more"))
    with pytest.raises(TutelageError, match=r"S\. the table is not used\. and more$"):
        draw(odd)


def test_a_pinned_split_comes_back_in_any_order(catalog, tmp_path):
    split = draw(catalog, labels_per_class=3, limit=9, seed=5)
    path = tmp_path / "split.parquet"
    save_split(split, catalog, path)
    assert [p.name for p in tmp_path.iterdir()] == ["split.parquet"]
    again = load(path, catalog)
    assert isinstance(again, Split)
    for name in ["roles", "labels", "truth"]:
        before, after = getattr(split, name), getattr(again, name)
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    order = np.random.default_rng(0).permutation(len(catalog))
    turned = load(path, catalog.select(order))
    np.testing.assert_array_equal(turned.roles, split.roles[order])
    np.testing.assert_array_equal(turned.labels, split.labels[order])


def test_the_pinned_file_is_for_other_programs_too(catalog, tmp_path):
    split = draw(catalog, labels_per_class=3)
    save_split(split, catalog, tmp_path / "split.parquet")
    table = pq.read_table(tmp_path / "split.parquet")
    assert table.column_names == ["image", "role", "label", "truth"]
    assert {str(kind) for kind in table.schema.types} == {"string"}
    for row, truth in zip(table.to_pylist(), catalog.labels, strict=True):
        known = None if truth < 0 else catalog.classes[truth]
        assert row["truth"] == known
        assert row["label"] == (known if row["role"] in ("labeled", "val") else None)


def test_a_pinned_split_refuses_other_images(catalog, tmp_path):
    path = tmp_path / "split.parquet"
    save_split(draw(catalog), catalog, path)
    fewer = catalog.select(np.arange(1, len(catalog)))
    with pytest.raises(TutelageError, match=r"0 new, 1 gone \(first: image 000\).*another --out"):
        load(path, fewer)
    save_split(draw(fewer), fewer, path)
    with pytest.raises(TutelageError, match="1 new, 0 gone"):
        load(path, catalog)


def test_a_pinned_split_refuses_other_labels(catalog, tmp_path):
    path = tmp_path / "split.parquet"
    save_split(draw(catalog), catalog, path)
    labels = catalog.labels.copy()
    labels[7] = -1
    changed = make_catalog(labels, catalog.splits.tolist())
    with pytest.raises(TutelageError, match=r"labels of 1 image changed.*image 007"):
        load(path, changed)
    renamed = make_catalog(catalog.labels, catalog.splits.tolist(), ("ant", "bee", "hornet"))
    with pytest.raises(TutelageError, match="labels of 13 images changed"):
        load(path, renamed)


def test_a_pinned_split_refuses_images_that_became_unreadable(catalog, tmp_path):
    path = tmp_path / "split.parquet"
    readable = np.ones(len(catalog), bool)
    readable[0] = False
    save_split(draw(catalog, readable), catalog, path)
    assert load_split(path, catalog, readable).roles[0] == "unused"
    readable[5] = False
    with pytest.raises(TutelageError, match=r"1 image became unreadable.*image 005"):
        load_split(path, catalog, readable)


def test_a_pinned_split_that_is_damaged_or_not_one(catalog, tmp_path):
    with pytest.raises(TutelageError, match="not a readable Parquet file"):
        load(tmp_path / "no.parquet", catalog)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(TutelageError, match="not a readable Parquet file"):
        load(tmp_path / "bad.parquet", catalog)
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(TutelageError, match=r"not a readable Parquet file: .*role"):
        load(tmp_path / "other.parquet", catalog)


def test_an_interrupted_save_keeps_the_old_file(catalog, tmp_path, monkeypatch):
    path = tmp_path / "split.parquet"
    save_split(draw(catalog), catalog, path)
    before = path.read_bytes()

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_split(draw(catalog, labels_per_class=1), catalog, path)
    assert path.read_bytes() == before


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


@pytest.mark.parametrize(
    ("column", "values"),
    [("role", ["evil"]), ("role", [None]), ("image", [None]), ("image", [["a"]])],
)
def test_a_hostile_pinned_split_is_refused(catalog, tmp_path, column, values):
    save_split(draw(catalog), catalog, tmp_path / "split.parquet")
    table = pq.read_table(tmp_path / "split.parquet").to_pydict()
    table[column] = values * len(catalog)
    pq.write_table(pa.table(table), tmp_path / "split.parquet")
    with pytest.raises(TutelageError, match="is damaged: an image without a name, or with a role"):
        load(tmp_path / "split.parquet", catalog)


def test_a_pinned_split_with_damaged_pages_is_refused(catalog, tmp_path):
    path = tmp_path / "split.parquet"
    save_split(draw(catalog), catalog, path)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(bytes(content))
    with pytest.raises(TutelageError, match="is not a readable Parquet file"):
        load(path, catalog)
