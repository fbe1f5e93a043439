"""The demo's data set."""

import collections
import csv
import typing
from pathlib import Path

import numpy as np
import pytest

from tutelage import api
from tutelage.data.decode import decode
from tutelage.data.demo import DEMOS, digits, solar_cells
from tutelage.system import errors
from tutelage.system.errors import MissingExtra


@pytest.mark.parametrize("data", [digits, solar_cells])
def test_without_the_packages_the_extra_is_named(data, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(errors.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r'pip install "tutelage\[demo\]"'):
        data()


def test_the_command_line_offers_each_data_set() -> None:
    hints = typing.get_type_hints(api.demo, vars(api))
    assert list(DEMOS) == list(typing.get_args(hints["data"]))


def test_notes_tell_licence_and_optimism() -> None:
    notes = DEMOS["solar-cells"].notes
    assert any("CC BY-NC-SA 4.0" in note for note in notes)
    assert any("no module id" in note and "optimistic" in note for note in notes)
    assert any("CC BY 4.0" in note for note in DEMOS["digits"].notes)


def test_digits_of_each_class_are_test() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    catalog, given = digits(), datasets.load_digits()
    assert len(catalog) == 1797
    assert catalog.classes == tuple("0123456789")
    assert catalog.labels.tolist() == given.target.tolist()
    test = catalog.splits == "test"
    assert int(test.sum()) == 500
    assert np.bincount(catalog.labels[test]).min() >= 45
    assert digits().splits.tolist() == catalog.splits.tolist()
    pixels = decode(catalog.source.read(7))
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels[..., 0] / 255 * 16, given.images[7], atol=0.05)
    assert catalog.source.signature(0) != catalog.source.signature(1)


def test_certain_cells_are_labelled_and_a_quarter_of_them_is_test() -> None:
    elpv = pytest.importorskip("elpv_dataset")
    catalog = solar_cells()
    assert len(catalog) == 2624
    assert catalog.classes == ("defective", "functional")
    with Path(elpv.__file__).with_name("data").joinpath("labels.csv").open() as file:
        rows = [row for row in csv.reader(file, delimiter=" ", skipinitialspace=True) if row]
    chance = {row[0]: float(row[1]) for row in rows}
    label_of = {1.0: 0, 0.0: 1}
    for name, label in zip(catalog.names, catalog.labels, strict=True):
        assert label == label_of.get(chance[name], -1), name
    test = catalog.splits == "test"
    certain = catalog.labels >= 0
    assert int(test.sum()) == 556 == round(0.25 * certain.sum())
    assert certain[test].all()  # none of the uncertain cells is judged on
    assert set(catalog.splits.tolist()) == {"train", "test"}
    shares = [np.mean(catalog.labels[rows] == 0) for rows in (test, certain & ~test)]
    assert shares[0] == pytest.approx(shares[1], abs=0.06)
    assert solar_cells().splits.tolist() == catalog.splits.tolist()
    assert decode(catalog.source.read(0)).shape == (300, 300, 3)
    counts = collections.Counter(catalog.labels.tolist())
    assert counts[-1] == sum(value not in label_of for value in chance.values()) > 0
