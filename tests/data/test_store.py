import errno
import io
import json
import os
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data import store as store_module
from tutelage.data.open import read_catalog
from tutelage.data.sources import FileSource
from tutelage.data.store import open_store
from tutelage.data.stream import StreamedImages
from tutelage.system.errors import TutelageError


def png(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels_of(path):
    return np.array(Image.open(path).convert("RGB"))


@pytest.fixture
def photos(tmp_path):
    """Twelve images of different shapes in two classes."""
    root = tmp_path / "photos"
    for i in range(12):
        path = root / ("ants" if i % 2 else "bees") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(32 + i, 40 + 2 * i, i))
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def calls(monkeypatch):
    """Counts reads of image bytes and decodes."""
    counts = Counter()
    read, decode = FileSource.read, store_module.decode

    def counted_read(self, index):
        counts["read"] += 1
        return read(self, index)

    def counted_decode(data):
        counts["decode"] += 1
        return decode(data)

    monkeypatch.setattr(FileSource, "read", counted_read)
    monkeypatch.setattr(store_module, "decode", counted_decode)
    return counts


def only_store(cache):
    (folder,) = (p for p in (cache / "stores").iterdir() if p.name != "memo")
    return folder


def test_pixels_are_the_squashed_images_in_catalog_order(photos, cache):
    catalog = read_catalog(photos)
    store = open_store(catalog, canvas=24, cache=cache)
    assert store.images.shape == (12, 24, 24, 3)
    assert store.images.dtype == np.uint8
    assert not store.images.flags.writeable
    assert not store.reused
    assert store.readable.all()
    assert store.reasons == {}
    assert store.aspect.dtype == np.float32
    for i, name in enumerate(catalog.names):
        original = pixels_of(photos / name)
        squashed = Image.fromarray(original).resize((24, 24), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(store.images[i], np.asarray(squashed))
        assert store.aspect[i] == pytest.approx(original.shape[1] / original.shape[0])


def test_an_image_of_the_canvas_size_is_kept_as_it_is(tmp_path, cache):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(png(48, 48, 0))
    store = open_store(read_catalog(tmp_path), canvas=48, cache=cache)
    np.testing.assert_array_equal(store.images[0], pixels_of(tmp_path / "a/x.png"))


def test_the_aspect_is_that_of_the_upright_image(tmp_path, cache):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    Image.new("RGB", (60, 30)).save(tmp_path / "a/x.jpg", exif=exif)
    assert open_store(read_catalog(tmp_path), cache=cache).aspect.tolist() == [0.5]


@pytest.mark.parametrize(("short", "canvas"), [(8, 32), (32, 32), (33, 48), (100, 128), (300, 256)])
def test_the_canvas_holds_the_median_short_side(tmp_path, cache, short, canvas):
    (tmp_path / "a").mkdir()
    for i, side in enumerate([2, short, 400]):
        Image.new("L", (side, side * 3)).save(tmp_path / f"a/{i}.png")
    assert open_store(read_catalog(tmp_path), cache=cache).canvas == canvas


@pytest.mark.parametrize(
    ("sizes", "canvas"),
    [([(28, 28)] * 3, 28), ([(8, 8)] * 3, 32), ([(28, 28), (28, 30)], 32), ([(40, 40)] * 3, 48)],
)
def test_small_squares_of_one_size_are_kept_as_they_are(tmp_path, cache, sizes, canvas):
    (tmp_path / "a").mkdir()
    for i, size in enumerate(sizes):
        Image.effect_noise(size, 64).save(tmp_path / f"a/{i}.png")
    assert open_store(read_catalog(tmp_path), cache=cache).canvas == canvas


def test_the_second_open_reads_no_image(photos, cache, calls):
    first = open_store(read_catalog(photos), cache=cache)
    assert calls["decode"] == 12
    calls.clear()
    second = open_store(read_catalog(photos), cache=cache)
    assert calls == {}
    assert second.reused
    assert second.canvas == first.canvas
    np.testing.assert_array_equal(second.images, first.images)
    np.testing.assert_array_equal(second.aspect, first.aspect)


@pytest.mark.parametrize("how", ["touch", "copy", "rename the folder"])
def test_other_times_or_places_are_hashed_but_not_decoded(photos, cache, calls, how):
    first = open_store(read_catalog(photos), cache=cache)
    calls.clear()
    if how == "touch":
        for path in photos.rglob("*.png"):
            os.utime(path, ns=(10**9, 10**9))
    elif how == "copy":
        photos = shutil.copytree(photos, photos.with_name("copy"))
    else:
        photos = photos.rename(photos.with_name("renamed"))
    second = open_store(read_catalog(photos), cache=cache)
    assert calls["decode"] == 0
    assert calls["read"] >= 12
    assert second.reused
    np.testing.assert_array_equal(second.images, first.images)
    calls.clear()
    assert open_store(read_catalog(photos), cache=cache).reused
    assert calls == {}


@pytest.mark.parametrize("how", ["change", "add", "remove", "reorder", "canvas"])
def test_other_content_is_decoded(photos, cache, how):
    open_store(read_catalog(photos), cache=cache)
    canvas = None
    if how == "change":
        (photos / "ants/01.png").write_bytes(png(33, 42, 99))
    elif how == "add":
        (photos / "ants/99.png").write_bytes(png(33, 42, 99))
    elif how == "remove":
        (photos / "ants/01.png").unlink()
    elif how == "canvas":
        canvas = 32
    catalog = read_catalog(photos)
    if how == "reorder":
        catalog = catalog.select(np.arange(12)[::-1])
    store = open_store(catalog, canvas=canvas, cache=cache)
    assert not store.reused
    side = store.canvas
    for i, name in enumerate(catalog.names):
        squashed = Image.fromarray(pixels_of(photos / name)).resize((side, side), 2)
        np.testing.assert_array_equal(store.images[i], np.asarray(squashed))


def test_a_changed_file_with_its_old_time_and_size_is_noticed(photos, cache):
    target = photos / "ants/01.png"
    Image.new("RGB", (40, 40), "red").save(target, "BMP")
    stat = target.stat()
    open_store(read_catalog(photos), cache=cache)
    Image.new("RGB", (40, 40), "blue").save(target, "BMP")
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert target.stat().st_size == stat.st_size
    catalog = read_catalog(photos)
    store = open_store(catalog, cache=cache)
    assert store.images[catalog.names.index("ants/01.png"), 0, 0].tolist() == [0, 0, 255]


def test_another_decoder_does_not_reuse(photos, cache, monkeypatch):
    open_store(read_catalog(photos), cache=cache)
    monkeypatch.setattr(store_module, "DECODER_VERSION", 10_000)
    assert not open_store(read_catalog(photos), cache=cache).reused


def test_an_unreadable_image_is_listed_and_the_rest_works(photos, cache):
    (photos / "ants/01.png").write_bytes(b"")
    (photos / "ants/03.png").write_bytes(png(64, 64, 0)[:2000])
    (photos / "ants/05.png").write_bytes(b"<html>")
    catalog = read_catalog(photos)
    for reused in [False, True]:
        store = open_store(catalog, cache=cache)
        assert store.reused is reused
        assert store.readable.sum() == 9
        assert set(store.reasons) == {"ants/01.png", "ants/03.png", "ants/05.png"}
        assert store.reasons["ants/01.png"] == "the file is empty"
        assert "damaged" in store.reasons["ants/03.png"]
        bad = ~store.readable
        assert store.images[bad].max() == 0
        assert (store.aspect[bad] == 1).all()
        assert (store.images[~bad].reshape(9, -1).max(axis=1) > 0).all()


def test_reasons_follow_the_names_of_a_copy(photos, cache):
    (photos / "ants/01.png").write_bytes(b"")
    open_store(read_catalog(photos), cache=cache)
    (photos / "ants/01.png").rename(photos / "ants/02.png")  # still first: the same content
    store = open_store(read_catalog(photos), cache=cache)
    assert store.reused
    assert store.reasons == {"ants/02.png": "the file is empty"}


def test_a_read_error_is_tried_again_next_time(photos, cache, monkeypatch):
    catalog = read_catalog(photos)
    read = FileSource.read

    def flaky(self, index):
        if index == 3:
            raise PermissionError(13, "Permission denied")
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "read", flaky)
        store = open_store(catalog, cache=cache)
        assert store.reasons == {catalog.names[3]: "the file cannot be read: Permission denied"}
    assert open_store(catalog, cache=cache).readable.all()


def test_nothing_readable_says_why_each_time(tmp_path, cache):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"")
    said = r"none of the 1 images is readable; a/x.png: .*empty"
    for budget in (None, None, 0):
        with pytest.raises(TutelageError, match=said):
            open_store(read_catalog(tmp_path), cache=cache, budget=budget)
    with pytest.raises(TutelageError, match="no images"):
        open_store(read_catalog(tmp_path).select([]), cache=cache)


def changed(**parts):
    return lambda content: json.dumps(json.loads(content) | parts).encode()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("pixels.npy", lambda content: content[:-1]),
        ("pixels.npy", None),  # gone
        ("index.json", lambda content: content[:-9]),
        ("index.json", lambda content: b""),
        ("index.json", lambda content: b"[1]"),
        ("index.json", changed(aspect=[1.0] * 11)),
        ("index.json", changed(reasons={"99": "x"})),
    ],
)
def test_a_half_written_cache_is_rebuilt(photos, cache, name, damage):
    first = np.array(open_store(read_catalog(photos), cache=cache).images)
    path = only_store(cache) / name
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    second = open_store(read_catalog(photos), cache=cache)
    assert not second.reused
    np.testing.assert_array_equal(second.images, first)
    assert open_store(read_catalog(photos), cache=cache).reused


@pytest.mark.parametrize("budget", [None, 0])
def test_a_read_that_failed_once_is_tried_again(photos, cache, budget, monkeypatch):
    catalog = read_catalog(photos)
    source = type(catalog.source)
    read, reads = source.read, Counter()

    def failing(self, index):
        reads[index] += 1
        if index == 1 and reads[index] == 2:  # the first one made the content's digest
            raise OSError(errno.EIO, "Input/output error")
        return read(self, index)

    def opened():
        return open_store(read_catalog(photos), cache=cache, canvas=32, budget=budget)

    with monkeypatch.context() as patch:
        patch.setattr(source, "read", failing)
        first = opened()
    second, third = opened(), opened()
    name = catalog.names[1]
    assert "Input/output error" in first.reasons[name]
    assert not second.reused
    assert name not in second.reasons
    assert second.readable[1]
    assert third.reused


def test_a_damaged_memo_is_only_a_lost_shortcut(photos, cache):
    open_store(read_catalog(photos), cache=cache)
    (memo,) = (cache / "stores/memo").iterdir()
    for damage in [b"", b"\xff\xfe", b"../../etc", b"\0"]:
        memo.write_bytes(damage)
        assert open_store(read_catalog(photos), cache=cache).reused


def test_an_interrupted_build_leaves_nothing_that_is_used(photos, cache):
    class Stop(BaseException):
        pass

    def stop(done):
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        open_store(read_catalog(photos), cache=cache, progress=stop)
    assert [p.name for p in (cache / "stores").iterdir()] == ["memo"]
    assert not open_store(read_catalog(photos), cache=cache).reused


def test_what_a_killed_build_left_is_removed_once_it_is_old(photos, cache):
    old, young = cache / "stores/.ab.old.partial", cache / "stores/.ab.young.partial"
    for folder in [old, young]:
        folder.mkdir(parents=True)
        (folder / "pixels.npy").write_bytes(b"x")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(old, (two_days_ago, two_days_ago))
    open_store(read_catalog(photos), cache=cache)
    assert not old.exists()
    assert young.exists()


def test_concurrent_writers_agree(photos, cache):
    catalog = read_catalog(photos)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: open_store(catalog, cache=cache), range(4)))
    for store in stores:
        np.testing.assert_array_equal(store.images, stores[0].images)
        assert store.readable.all()
    only_store(cache)


def test_a_full_disk_says_what_to_set(photos, cache, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TutelageError, match=r"No space left on device.*TUTELAGE_CACHE"):
        open_store(read_catalog(photos), cache=cache)
    assert [p.name for p in (cache / "stores").iterdir()] == ["memo"]


def test_a_cache_that_cannot_be_made_says_what_to_set(photos, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TutelageError, match="TUTELAGE_CACHE"):
        open_store(read_catalog(photos), cache=tmp_path / "file")


def test_the_cache_is_where_the_environment_says(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "there"))
    open_store(read_catalog(photos))
    assert only_store(tmp_path / "there").is_dir()
    monkeypatch.delenv("TUTELAGE_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    open_store(read_catalog(photos))
    assert only_store(tmp_path / "home/.cache/tutelage").is_dir()


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_counts_every_image_whatever_the_threads(photos, cache, threads, monkeypatch):
    monkeypatch.setattr(store_module, "cores", lambda: threads)
    seen = []
    open_store(read_catalog(photos), cache=cache, progress=seen.append)
    assert seen == list(range(1, 13))


def test_labels_and_splits_do_not_matter_to_the_pixels(photos, cache):
    catalog = read_catalog(photos)
    open_store(catalog, cache=cache)
    relabelled = replace(catalog, labels=np.full(12, -1, np.int32))
    assert open_store(relabelled, cache=cache).reused


# --- no room for the pixels


@pytest.fixture
def full(monkeypatch):
    """A disk with so many bytes free."""

    def change(free):
        usage = shutil._ntuple_diskusage(10**12, 10**12 - free, free)
        monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: usage)

    return change


def test_without_room_the_canvases_are_the_same_and_no_pixels_are_kept(photos, cache):
    (photos / "ants/broken.png").write_bytes(b"no image")
    catalog = read_catalog(photos)
    kept = open_store(catalog, canvas=24, cache=cache / "kept")
    store = open_store(catalog, canvas=24, cache=cache, budget=0)
    assert isinstance(store.images, StreamedImages)
    np.testing.assert_array_equal(store.images[:], kept.images)
    np.testing.assert_array_equal(store.aspect, kept.aspect)
    np.testing.assert_array_equal(store.readable, kept.readable)
    assert store.readable.sum() == 12
    assert store.reasons == kept.reasons
    assert store.canvas == kept.canvas
    assert not store.reused
    assert kept.note == ""
    assert [p.name for p in only_store(cache).iterdir()] == ["index.json"]


def test_what_is_known_of_the_images_is_cached(photos, cache, calls):
    first = open_store(read_catalog(photos), canvas=24, cache=cache, budget=0)
    calls.clear()
    second = open_store(read_catalog(photos), canvas=24, cache=cache, budget=0)
    assert second.reused
    assert calls["decode"] == calls["read"] == 0
    np.testing.assert_array_equal(second.aspect, first.aspect)
    assert second.note == first.note


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"canvas": 24}', '{"canvas": "x"}'])
def test_a_damaged_survey_is_made_anew(photos, cache, damage):
    open_store(read_catalog(photos), canvas=24, cache=cache, budget=0)
    (only_store(cache) / "index.json").write_text(damage)
    assert not open_store(read_catalog(photos), canvas=24, cache=cache, budget=0).reused
    assert open_store(read_catalog(photos), canvas=24, cache=cache, budget=0).reused


def test_the_free_disk_decides(photos, cache, full):
    size = 12 * 24 * 24 * 3
    full(size)
    store = open_store(read_catalog(photos), canvas=24, cache=cache)
    assert isinstance(store.images, StreamedImages), "a tenth of the disk stays free"
    full(int(size / 0.9) + 1)
    kept = open_store(read_catalog(photos), canvas=24, cache=cache)
    assert not isinstance(kept.images, StreamedImages)
    assert not kept.reused
    full(0)
    assert open_store(read_catalog(photos), canvas=24, cache=cache).reused, "it takes no more room"
    assert isinstance(kept.images, np.memmap)


def test_a_budget_decides_whatever_is_free_or_there(photos, cache, full):
    full(0)
    size = 12 * 24 * 24 * 3
    kept = open_store(read_catalog(photos), canvas=24, cache=cache, budget=size)
    assert isinstance(kept.images, np.memmap)
    less = open_store(read_catalog(photos), canvas=24, cache=cache, budget=size - 1)
    assert isinstance(less.images, StreamedImages)
    again = open_store(read_catalog(photos), canvas=24, cache=cache, budget=size)
    assert isinstance(again.images, np.memmap)
    assert again.reused


def test_the_note_says_what_it_costs(photos, cache):
    note = open_store(read_catalog(photos), canvas=100, cache=cache, budget=0).note
    assert "12 images" in note
    assert "0.00036 GB" in note
    assert "100 px" in note
    assert "--store-gb" in note


def test_an_image_that_is_lost_later_is_named(photos, cache):
    catalog = read_catalog(photos)
    store = open_store(catalog, canvas=24, cache=cache, budget=0)
    (photos / catalog.names[4]).unlink()
    found = store.images[np.array([3, 4])]
    assert found[0].any()
    assert not found[1].any()
    assert list(store.reasons) == [catalog.names[4]]
    assert "No such file" in store.reasons[catalog.names[4]]
    assert "readable before" in store.reasons[catalog.names[4]]
