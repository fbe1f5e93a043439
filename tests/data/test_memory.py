"""Data sets in memory are the catalogs of the same images on a disk."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("torch")

import huggingface as hf
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from tutelage.data.decode import decode
from tutelage.data.memory import encoded
from tutelage.data.open import in_memory, is_in_memory, open_data, read_catalog
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError


class Arrays:
    """As torchvision's CIFAR10: ``data``, ``targets``, ``classes``; counts what it is asked for."""

    classes: tuple[str, ...] = ("wasp", "ant")

    def __init__(self, count: int = 4, first: int = 0, transform: Any = None) -> None:
        grey = np.arange(first, first + count, dtype=np.uint8)
        self.data = np.broadcast_to(grey[:, None, None, None], (count, 4, 5, 3)).copy()
        self.targets = [i % 2 for i in range(count)]
        self.transform = transform
        self.asked = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        self.asked += 1
        image = Image.fromarray(self.data[index])
        return (self.transform(image) if self.transform else image), self.targets[index]


def shades(catalog: Any) -> list[int]:
    return [int(decode(catalog.source.read(i))[0, 0, 0]) for i in range(len(catalog))]


# --- Hugging Face


def test_a_hub_data_set_is_read_undecoded_and_is_its_folder(tmp_path: Path) -> None:
    images = [b"any bytes", b"at all", b"even these"]
    tables = {"train": hf.table(images, [0, 1, -1]), "unlabeled": hf.table([b"x"], [0])}
    catalog, words = open_data({name: hf.dataset(rows) for name, rows in tables.items()})
    assert [catalog.source.read(i) for i in range(4)] == [*images, b"x"]
    on_disk = read_catalog(hf.save_to_disk(tables, tmp_path / "set"))
    assert catalog.names == on_disk.names
    assert catalog.classes == on_disk.classes == ("ant", "bee")
    assert catalog.labels.tolist() == on_disk.labels.tolist() == [1, 0, -1, -1]
    assert words.startswith("4 images in memory, ")


def test_a_hub_data_set_of_paths_is_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    rows = hf.table([None], [0], paths=[str(tmp_path / "a.png")])
    catalog, before = open_data(hf.dataset(rows))
    assert catalog.source.read(0) == b"one"
    (tmp_path / "a.png").write_bytes(b"other")
    assert in_memory(catalog) != before


def test_the_package_s_own_objects(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(hf.NAMES))}
    )
    files = [encoded(Image.new("RGB", (3, 3), (i, 0, 0))) for i in range(4)]
    images = [{"bytes": content, "path": None} for content in files]
    made = datasets.Dataset.from_dict({"img": images, "label": [0, 1, -1, 1]}, features)
    for given in (made, made.with_format("numpy"), datasets.DatasetDict(train=made)):
        catalog, _ = open_data(given)
        assert [catalog.source.read(i) for i in range(4)] == files
        assert catalog.labels.tolist() == [1, 0, -1, 0]
    chosen, _ = open_data(made.select([3, 1]))
    assert shades(chosen) == [3, 1]
    with pytest.raises(TutelageError, match="load it without streaming=True"):
        open_data(made.to_iterable_dataset())


# --- torchvision


def test_arrays_are_encoded_when_they_are_read_and_labels_come_from_targets() -> None:
    dataset = Arrays(4)
    catalog, _ = open_data({"train": dataset, "test": Arrays(2, 50)})
    assert dataset.asked == 6  # two looks at the first, and a hash of each
    assert catalog.classes == ("ant", "wasp")
    assert [catalog.classes[k] for k in catalog.labels] == ["wasp", "ant"] * 3
    assert catalog.names == ("train/0", "train/1", "train/2", "train/3", "test/0", "test/1")
    assert shades(catalog) == [0, 1, 2, 3, 50, 51]
    assert decode(catalog.source.read(0)).shape == (4, 5, 3)


def test_arrays_travel_to_another_process() -> None:
    catalog, words = open_data(Arrays(4))
    there = pickle.loads(pickle.dumps(catalog))
    assert shades(there) == [0, 1, 2, 3]
    assert in_memory(there) == words


def test_an_image_folder_is_its_files_with_their_labels(photos: Path) -> None:
    folder = pytest.importorskip("torchvision").datasets.ImageFolder
    given = {name: folder(photos / name) for name in ("train", "test")}
    catalog, _ = open_data(given)
    expected = read_catalog(photos)
    expected = expected.select(np.flatnonzero(expected.labels >= 0))
    rows = {name: row for row, name in enumerate(expected.names)}
    assert set(catalog.names) == rows.keys()
    for row, name in enumerate(catalog.names):
        assert catalog.labels[row] == expected.labels[rows[name]]
        assert catalog.source.read(row) == expected.source.read(rows[name])
    assert isinstance(catalog.source.sources[0].sources[0], FileSource)  # type: ignore[attr-defined]
    grey, _ = open_data(folder(photos / "train", transform=lambda image: image.convert("L")))
    assert np.ptp(decode(grey.source.read(0)), axis=2).max() == 0  # a transform is applied


def test_parts_and_chains_of_data_sets() -> None:
    first, second = Arrays(4), Arrays(3, 10)
    catalog, _ = open_data(Subset(ConcatDataset([first, Subset(second, [2, 0])]), [5, 1, 4]))
    assert shades(catalog) == [10, 1, 12]
    assert [catalog.classes[k] for k in catalog.labels] == ["wasp", "ant", "wasp"]
    assert catalog.names == ("train/1/0", "train/0/1", "train/1/2")
    assert shades(catalog.select([2, 1])) == [12, 1]


def test_splits_of_one_data_set_keep_their_names() -> None:
    whole = Arrays(4)
    catalog, _ = open_data({"test": Subset(whole, [3]), "train": Subset(whole, [2, 0])})
    assert catalog.names == ("train/2", "train/0", "test/3")


@pytest.mark.parametrize(
    ("label", "text"), [(1, "1"), (np.int64(1), "1"), (torch.tensor(1), "1"), ("fly", "fly"),
                        (-1, None), (None, None)]
)  # fmt: skip
def test_labels_of_pairs(label: Any, text: str | None) -> None:
    image = Image.new("RGB", (2, 2))
    catalog, _ = open_data([(image, label), (image, "other")])
    assert (catalog.classes[catalog.labels[0]] if catalog.labels[0] >= 0 else None) == text


@pytest.mark.parametrize(
    "image",
    [
        np.full((2, 3), 7, np.uint8),
        np.full((2, 3, 1), 7, np.uint8),
        np.full((2, 3, 3), 7, np.uint8),
        torch.full((3, 2, 3), 7, dtype=torch.uint8),
        torch.full((1, 2, 3), 7, dtype=torch.uint8),
        torch.full((2, 3), 7, dtype=torch.uint8),
        Image.new("L", (3, 2), 7),
        Image.new("CMYK", (3, 2), (248, 248, 248, 0)),
    ],
)
def test_images_of_pairs_are_kept_without_loss(image: Any) -> None:
    pixels = decode(open_data([(image, 0)])[0].source.read(0))
    assert pixels.shape == (2, 3, 3)
    assert (pixels == 7).all()


def test_tensors_need_no_classes() -> None:
    pixels = torch.arange(2, dtype=torch.uint8)[:, None, None, None].expand(2, 3, 4, 4)
    catalog, _ = open_data(TensorDataset(pixels, torch.tensor([5, 11])))
    assert catalog.classes == ("5", "11")
    assert shades(catalog) == [0, 1]


def test_an_item_that_fails_later_is_an_unreadable_image() -> None:
    bad = [(Image.new("L", (2, 2)), 0), (np.zeros((2, 2)), 1)]
    catalog, _ = open_data(bad)
    with pytest.raises(OSError, match=r"item 1 cannot be read: .*float64"):
        catalog.source.read(1)


def test_a_damaged_file_stops_nothing(tmp_path: Path) -> None:
    class Files(Arrays):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            if index == 0:
                Image.open(tmp_path)  # no file
            return super().__getitem__(index)

    catalog, _ = open_data(Files())
    assert catalog.labels.tolist() == [-1, 0, 1, 0]
    with pytest.raises(OSError, match="item 0 cannot be read"):
        catalog.source.read(0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "DATA is NoneType, which has no items by number; expected a path, a data set"),
        ({}, "DATA is an empty dict"),
        ([], "lists no images"),
        (["a.jpg"], "item 0 of list is str; expected a pair of image and label"),
        ({"extra": Arrays()}, "has the split extra; known: train"),
        ({"image": ["a.jpg"]}, "item 0 of list is str"),
        ([(torch.rand(3, 4, 4), 0)], r"images of float32 \(4, 4, 3\); .* without transform="),
        ([(Image.new("L", (2, 2)), 0.5)], "label of item 0 is float; expected a whole number"),
        ([(Image.new("L", (2, 2)), {"boxes": []})], "label of item 0 is dict"),
        (Subset(Arrays(), [1, 1]), "listed more than once"),
    ],
)
def test_what_is_no_data_is_said(data: Any, said: str) -> None:
    with pytest.raises(TutelageError, match=said):
        open_data(data)


def test_class_names_must_differ() -> None:
    dataset = Arrays()
    dataset.classes = ("crane", "crane")
    with pytest.raises(TutelageError, match="has a class name twice: crane, crane"):
        open_data(dataset)


# --- identity


def test_other_images_labels_or_splits_are_another_run() -> None:
    def words(dataset: Any) -> str:
        return open_data(dataset)[1]

    assert words(Arrays()) == words({"train": Arrays()})
    assert is_in_memory(words(Arrays()))
    other = Arrays()
    other.targets = [1, 0, 1, 0]
    found = {words(d) for d in (Arrays(), Arrays(first=1), other, {"test": Arrays()})}
    assert len(found) == 4
    assert not is_in_memory("photos/")
