"""Bytes come from files and columns as they are asked for, or an error says why not."""

import os
import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface
import numpy as np
import pyarrow as pa
import pytest
from catalogs import parquet, put

from tutelage.data import sources
from tutelage.data.open import read_catalog
from tutelage.data.sources import read_file

BYTES = [f"image {i}".encode() for i in range(1000)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("group", [1000, 300, 7])
def test_parquet_bytes_in_any_order(tmp_path, kind, group):
    columns = {"image": pa.array(BYTES, kind), "label": ["a", None] * 500}
    path = parquet(tmp_path / "p.parquet", columns, row_group_size=group)
    catalog = read_catalog(path)
    assert catalog.names[999] == "p.parquet#999"
    assert catalog.labels[:2].tolist() == [0, -1]
    random = np.random.default_rng(0).permutation(1000)[:60]
    for order in [range(1000), range(999, 0, -50), random]:
        assert [catalog.source.read(int(i)) for i in order] == [BYTES[i] for i in order]
    chosen = catalog.select(random)
    assert chosen.source.read(5) == BYTES[random[5]]
    assert chosen.names[5] == f"p.parquet#{random[5]}"
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(catalog.source.read, range(1000))) == BYTES


def test_parquet_in_order_decodes_each_batch_once(tmp_path, monkeypatch):
    path = parquet(tmp_path / "p.parquet", {"image": BYTES, "label": ["a"] * 1000})
    catalog = read_catalog(path)
    batches = []

    class Counting:
        def __init__(self, file):
            self.file, self.metadata = file, file.metadata

        def iter_batches(self, *arguments):
            for batch in self.file.iter_batches(*arguments):
                batches.append(batch)
                yield batch

    open_parquet = sources.open_parquet
    monkeypatch.setattr(sources, "open_parquet", lambda path: Counting(open_parquet(path)))
    nearly = [*range(130), 100, 127, *range(130, 1000)]  # as threads in a pool read
    assert [catalog.source.read(i) for i in nearly] == [BYTES[i] for i in nearly]
    assert len(batches) == 8
    assert max(map(len, batches)) == 128


def test_rows_travel_to_another_process_by_the_name_of_their_file(tmp_path):
    images = [bytes([k]) * 10_000 for k in range(20)]
    columns = {"image": pa.array(images, pa.binary()), "label": ["a", "b"] * 10}
    arrow = huggingface.save_to_disk(
        {"train": huggingface.table(images, [0, 1] * 10)}, tmp_path / "saved"
    )
    for data in (parquet(tmp_path / "p.parquet", columns), arrow):
        catalog = read_catalog(data)
        assert catalog.source.read(3) == images[3]  # so that it is open
        content = pickle.dumps(catalog)
        assert len(content) < 10_000
        there = pickle.loads(content)
        assert [there.source.read(i) for i in range(20)] == images
        assert there.source.signature(5) == catalog.source.signature(5)


def test_a_number_in_the_place_of_bytes_is_unreadable_and_allocates_nothing(tmp_path):
    images = [{"bytes": 10**15}, {"bytes": None}]
    columns = {"image": images, "label": ["a", None]}
    catalog = read_catalog(parquet(tmp_path / "m.parquet", columns))
    for row in range(2):
        with pytest.raises(OSError, match="no image bytes"):
            catalog.source.read(row)


def test_a_damaged_page_is_an_oserror_and_later_reads_recover(tmp_path):
    random = np.random.default_rng(0)
    image = [random.bytes(2000) for _ in range(40)]
    path = parquet(
        tmp_path / "p.parquet",
        {"image": image, "label": ["a"] * 40},
        row_group_size=20,
        compression="zstd",
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    place = data.index(image[10])
    data[4:place] = bytes(place - 4)  # the first row group's page header too
    path.write_bytes(data)
    catalog = read_catalog(path)
    for _ in range(2):
        with pytest.raises(OSError, match="damaged"):
            catalog.source.read(10)
        assert catalog.source.read(30) == image[30]


def test_signatures_change_with_the_file(tmp_path):
    file = put(tmp_path / "ants/a.jpg", b"one")
    put(tmp_path / "ants/b.jpg", b"one")
    source = read_catalog(tmp_path).source
    first = source.signature(0)
    assert first == source.signature(0) != source.signature(1)
    os.utime(file, ns=(1, 1))
    touched = source.signature(0)
    assert touched != first
    file.write_bytes(b"two")  # same size
    os.utime(file, ns=(1, 1))  # and the old time put back
    assert source.signature(0) != touched
    file.unlink()
    assert isinstance(source.signature(0), str)


def test_what_never_answers_is_no_image_file(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(tmp_path)  # a socket's path may have 107 bytes
        bound.bind("socket.jpg")
        for name in ("pipe.jpg", "link.jpg", "socket.jpg"):
            with pytest.raises(OSError, match="a pipe, a device or a socket"):
                read_file(name)
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(OSError, match="a folder"):
        read_file(tmp_path / "folder.jpg")


def test_a_file_that_turns_into_a_pipe_does_not_block(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1234")
    before = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda name: before)
        reading = threading.Thread(target=read_file, args=(path,), daemon=True)
        reading.start()
        reading.join(5)
        assert not reading.is_alive()


def test_a_file_of_a_terabyte_is_not_read(tmp_path: Path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes; expected at most"):
        read_file(tmp_path / "huge.png")


@pytest.mark.parametrize("name", ["a\0.jpg", "\ud800.jpg", "n" * 256, "d/" * 2048 + "a.jpg"])
def test_a_name_that_no_file_has_is_told(name, tmp_path: Path):
    with pytest.raises(OSError, match=r"no file can be called|too long"):
        read_file(str(tmp_path / name))
