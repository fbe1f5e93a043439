"""Folders that Hugging Face wrote are one catalog in every layout, and say what they lack."""

import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import huggingface as hf
import pyarrow as pa
import pyarrow.ipc as ipc
from PIL import Image

from tutelage.data.catalog import Catalog
from tutelage.data.memory import encoded
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError


def pictures(count: int, first: int = 0) -> list[bytes]:
    return [encoded(Image.new("RGB", (4, 4), (first + i, 0, 0))) for i in range(count)]


SPLITS = {
    "train": hf.table(pictures(5), [0, 1, 1, -1, None]),
    "validation": hf.table(pictures(1, 10), [1]),
    "test": hf.table(pictures(2, 20), [0, 1]),
    "unsupervised": hf.table(pictures(3, 30), [1, 1, -1]),
}
WRITERS = {
    "save_to_disk": hf.save_to_disk,
    "two arrow files": lambda s, f: hf.save_to_disk(s, f, shards=2),
    "parquet": hf.write_hub,
    "two parquet files, in data": lambda s, f: hf.write_hub(s, f / "data", shards=2).parent,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_the_same_catalog(layout: str, tmp_path: Path) -> None:
    catalog = read_catalog(WRITERS[layout](SPLITS, tmp_path / "set"))
    assert catalog.classes == ("ant", "bee")
    assert catalog.names[:6] == tuple([f"train/{i}" for i in range(5)] + ["validation/0"])
    assert catalog.labels.tolist() == [1, 0, 0, -1, -1, 0, 1, 0, -1, -1, -1]
    assert catalog.splits.tolist() == ["train"] * 5 + ["val"] + ["test"] * 2 + ["train"] * 3
    expected = [*pictures(5), *pictures(1, 10), *pictures(2, 20), *pictures(3, 30)]
    assert [catalog.source.read(i) for i in range(11)] == expected
    chosen = catalog.select([10, 0])
    assert [chosen.source.read(i) for i in range(2)] == [expected[10], expected[0]]
    assert len({catalog.source.signature(i) for i in range(11)}) == 11


def test_a_signature_changes_with_the_file(tmp_path: Path) -> None:
    folder = hf.save_split_to_disk(SPLITS["train"], tmp_path / "set")
    before = read_catalog(folder).source.signature(0)
    (file,) = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes() + b"\0")
    assert read_catalog(folder).source.signature(0) != before


def test_the_hub_s_own_conversion_has_a_folder_for_each_split(tmp_path: Path) -> None:
    for name in ("train", "test"):
        hf.write_hub({name: SPLITS[name]}, tmp_path / "default" / name)
        next((tmp_path / "default" / name).iterdir()).rename(
            tmp_path / "default" / name / "0000.parquet"
        )
    assert read_catalog(tmp_path).splits.tolist() == ["train"] * 5 + ["test"] * 2


def test_splits_may_be_called_as_people_call_them(tmp_path: Path) -> None:
    hf.write_hub({"Test": SPLITS["test"], "Training": SPLITS["train"]}, tmp_path)
    catalog = read_catalog(tmp_path)
    assert catalog.names[::5] == ("Training/0", "Test/0")
    assert catalog.splits.tolist() == ["train"] * 5 + ["test"] * 2


def test_a_single_split_is_train(tmp_path: Path) -> None:
    catalog = read_catalog(hf.save_split_to_disk(SPLITS["test"], tmp_path / "set"))
    assert catalog.splits.tolist() == ["train", "train"]


def test_columns_are_known_by_their_kind(tmp_path: Path) -> None:
    rows = hf.table(pictures(2), [0, 1], image="img", label="fine_label")
    catalog = read_catalog(hf.write_hub({"train": rows}, tmp_path))
    assert [catalog.classes[k] for k in catalog.labels] == ["bee", "ant"]
    assert catalog.source.read(1) == pictures(2)[1]


def test_images_may_be_paths(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures(1)[0])
    rows = hf.table([None, None], [0, 1], paths=[str(tmp_path / "a.png"), "gone.png"])
    catalog = read_catalog(hf.save_split_to_disk(rows, tmp_path / "set"))
    assert catalog.source.read(0) == pictures(1)[0]
    with pytest.raises(OSError, match=r"gone\.png"):
        catalog.source.read(1)


def _two_labels(folder: Path) -> None:
    rows = hf.table(pictures(1), [0])
    kinds = rows.schema.metadata[b"huggingface"].replace(b'"label"', b'"fine"')
    kinds = kinds.replace(b'{"image"', b'{"coarse": {"_type": "ClassLabel"}, "image"')
    rows = rows.append_column("coarse", rows["label"]).rename_columns(["image", "fine", "coarse"])
    hf.write_hub({"train": rows.replace_schema_metadata({"huggingface": kinds})}, folder)


def _two_sets(folder: Path) -> None:
    for name in ("small", "large"):
        hf.write_hub({"train": SPLITS["train"]}, folder / name)


def _damaged(folder: Path) -> None:
    (file,) = hf.save_split_to_disk(SPLITS["test"], folder).glob("*.arrow")
    file.write_bytes(b"no arrow")


def hub(split: str, rows: pa.Table) -> Callable[[Path], object]:
    return lambda folder: hf.write_hub({split: rows}, folder)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (hub("extra", SPLITS["train"]), "has the split extra; known: .*Give the splits you mean"),
        (_two_labels, r"several columns of the kind ClassLabel: .*; call the one you mean label"),
        (hub("train", SPLITS["train"].select(["label"])), "no column of images; found: label"),
        (_two_sets, "several data sets or versions; give one of the folders .*large, .*small"),
        (
            hub("train", hf.table(pictures(1), [2])),
            "a label is 2, but there are 2 class names: bee",
        ),
        (_damaged, "is not a readable Arrow file"),
    ],
)
def test_what_cannot_be_read_is_said(
    write: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    write(tmp_path / "set")
    with pytest.raises(TutelageError, match=said):
        read_catalog(tmp_path / "set")


def test_what_the_package_itself_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(hf.NAMES))}
    )
    images = [{"bytes": b, "path": None} for b in pictures(4)]
    made = datasets.Dataset.from_dict({"image": images, "label": [0, 1, -1, 1]}, features)
    made.save_to_disk(tmp_path / "disk", num_shards=2)
    made.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    for folder in ("disk", "hub"):
        catalog: Catalog = read_catalog(tmp_path / folder)
        assert np.array_equal(catalog.labels, [1, 0, -1, 0])
        assert [catalog.source.read(i) for i in range(4)] == pictures(4)


def arrow_folder(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """Three images in an Arrow stream file of which the bytes are changed."""
    images = [{"bytes": bytes([65 + i]) * (1000 + i), "path": None} for i in range(3)]
    table = pa.table({"image": images, "label": ["a", "b", "c"]})
    content = io.BytesIO()
    with ipc.new_stream(content, table.schema) as stream:
        stream.write_table(table)
    folder.mkdir()
    (folder / "a.arrow").write_bytes(change(content.getvalue()))
    (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    return folder


OFFSETS = struct.pack("<4i", 0, 1000, 2001, 3003)  # of the images, in their buffer


def test_offsets_out_of_an_arrow_file_do_not_end_the_process(tmp_path: Path) -> None:
    good = read_catalog(arrow_folder(tmp_path / "good", bytes))
    assert [len(good.source.read(i)) for i in range(3)] == [1000, 1001, 1002]
    labels = struct.pack("<4i", 0, 1, 2, 3)
    folders = []
    for old, new in (
        (OFFSETS, (0, 1000, 2001, 2**31 - 1)),
        (OFFSETS, (0, 1000, -5_000_000, 3003)),
        (labels, (0, 1, 2, 2**31 - 1)),
    ):

        def change(content: bytes, old: bytes = old, new: tuple[int, ...] = new) -> bytes:
            assert content.count(old) == 1
            return content.replace(old, struct.pack("<4i", *new))

        folders.append(arrow_folder(tmp_path / f"bad {len(folders)}", change))
    code = """
import sys
from tutelage.data.open import TutelageError, read_catalog
for folder in sys.argv[1:]:
    try:
        read_catalog(folder)
    except TutelageError as error:
        print(error)
"""
    words = [sys.executable, "-c", code, *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # -11: it crashed
    assert done.stdout.count("a.arrow is not a readable Arrow file") == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_dict.json", '{"splits": ["../elsewhere"]}'),
        ("dataset_dict.json", '{"splits": ["/etc"]}'),
        ("dataset_dict.json", '{"splits": [".."]}'),
        ("dataset_dict.json", '{"splits": 3}'),
        ("dataset_dict.json", '{"splits": [null]}'),
        ("dataset_dict.json", "[]"),
        ("dataset_dict.json", "[" * 100_000),
        ("state.json", '{"_data_files": [{"filename": "../../etc/passwd"}]}'),
        ("state.json", '{"_data_files": ["a/b.arrow"]}'),
        ("state.json", '{"_data_files": [{}]}'),
        ("state.json", '{"_data_files": {}}'),
        ("state.json", "{}"),
        ("state.json", "{"),
    ],
)
def test_a_folder_s_description_names_nothing_outside_of_it(
    name: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TutelageError, match=r"expected names of what lies beside|cannot read"):
        read_catalog(tmp_path)


def test_a_pipe_is_no_data_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.arrow")
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    with pytest.raises(TutelageError, match="a pipe"):
        read_catalog(tmp_path)
