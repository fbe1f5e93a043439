"""Members of tars are found by their places, and DATA of tars is a catalog of them."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from PIL import Image
from tarred import tar_tree, write_tar

from tutelage.data.open import read_catalog
from tutelage.data.store import open_store
from tutelage.data.tars import Member, index_tar, label_of, read_member, tar_images
from tutelage.system.errors import TutelageError


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def packed(*files: tuple[tarfile.TarInfo | str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, content in files:
            info = member(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def index_of(data: bytes) -> tuple[list[str], list[tuple[str, str]]]:
    """The names that can be read, and what is refused."""
    members, refused = index_tar(io.BytesIO(data), "pool.tar")
    return [found.name for found in members], refused


def contents(data: bytes) -> dict[str, bytes]:
    file = io.BytesIO(data)
    return {m.name: read_member(file, m) for m in index_tar(file, "pool.tar")[0]}


def header(info: tarfile.TarInfo, *parts: tuple[int, bytes]) -> bytes:
    """A header of GNU's format in which some bytes are others, with the checksum of all."""
    found = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for at, part in parts:
        found[at : at + len(part)] = part
    found[148:156] = b"%06o\0 " % (sum(found[:148]) + 8 * 32 + sum(found[156:]))
    return bytes(found)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_regular_file_is_read_by_its_place(kind: int) -> None:
    long = "folder/" + "x" * 90 + ".jpg"
    files = {"a.jpg": b"A" * 700, long: b"", "ünï\n.png": b"C", "d/e.cls": b"3"}
    data = packed(*files.items(), (member("d", tarfile.DIRTYPE), b""), kind=kind)
    assert contents(data) == files
    assert index_of(data)[1] == []
    if kind != tarfile.USTAR_FORMAT:  # a name longer than a header, and one that is no text
        names = ["/".join(["y" * 200] * 20) + ".jpg", "a\udcff.jpg"]
        found = [*contents(packed(*((name, b"1") for name in names), kind=kind))]
        assert found == [names[0], "a\\xff.jpg"]


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (member("/etc/passwd.jpg"), "absolute"),
        (member("\\\\host\\share.jpg"), "absolute"),
        (member("C:\\x.jpg"), "absolute"),
        (member("../../up.jpg"), ".."),
        (member("a\\..\\up.jpg"), ".."),
        (member("link.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"), "symbolic link"),
        (member("hard.jpg", tarfile.LNKTYPE, linkname="good.jpg"), "hard link"),
        (member("zero.jpg", tarfile.CHRTYPE), "device"),
        (member("pipe.jpg", tarfile.FIFOTYPE), "pipe"),
        (member("good.jpg"), "there twice"),
        (member("./x/../good.jpg"), ".."),
        (member("./good.jpg"), "there twice"),
        (member("odd.jpg", b"Q"), "unknown kind"),
    ],
)
def test_a_hostile_member_is_refused_and_the_others_are_read(
    info: tarfile.TarInfo, reason: str
) -> None:
    data = packed(("good.jpg", b"good"), (info, b""), ("last.jpg", b"last"))
    assert contents(data) == {"good.jpg": b"good", "last.jpg": b"last"}
    ((name, why),) = index_of(data)[1]
    assert name == info.name
    assert reason in why


@pytest.mark.parametrize(
    ("cut", "kept", "reason"),
    [
        (512 + 300, 0, "cut off"),  # within the bytes of the first
        (1024, 1, "no end marker"),  # between two members
        (1024 + 100, 1, "no end marker"),  # within the second header
        (1024 + 512 + 10, 1, "cut off"),
        (2048, 2, "no end marker"),
    ],
)
def test_what_lies_before_a_cut_is_kept(cut: int, kept: int, reason: str) -> None:
    data = packed(("a.jpg", b"a" * 512), ("b.jpg", b"b" * 512))[:cut]
    names, refused = index_of(data)
    assert len(names) == len(contents(data)) == kept
    assert reason in refused[-1][1]


ONE = packed(("a.jpg", b"a"))[:1024]  # without its end
SPARSE = [(386, b"%011o\0%011o\0" % (0, 0)), (482, b"\0" + b"%011o\0" % 0)]  # of GNU's type S
NEGATIVE = (124, b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big"))  # the size
MANY = tarfile.TarInfo.create_pax_global_header({"a": "b"}) * 20_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header(member("s.jpg", b"S"), *SPARSE) + ONE + bytes(1024), "sparse"),
        (ONE + header(member("b.jpg"), NEGATIVE), "negative"),
        (ONE + b"\xff" * 6 + ONE[6:], "damaged"),  # not taken for the end
        (ONE + bytes(1024) + ONE, "follows the end marker"),
    ],
)
def test_damage_is_named_and_the_rest_is_read(data: bytes, reason: str) -> None:
    names, refused = index_of(data)
    assert names[0] == "a.jpg"
    assert reason in refused[-1][1]


def test_very_many_headers_of_one_member_do_not_exhaust_the_stack() -> None:
    names, refused = index_of(ONE + MANY)
    assert names == ["a.jpg"]
    assert "damaged" in refused[0][1]


@pytest.mark.parametrize("junk", [b"", b"\xff\xd8\xff" * 400, b"x" * 5000])
def test_what_is_no_tar_is_an_error(junk: bytes) -> None:
    with pytest.raises(TutelageError, match=r"pool\.tar is not a readable tar"):
        index_of(junk)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused_with_the_mend(mode: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{mode}") as tar:
        tar.addfile(member("a.jpg"))
    with pytest.raises(TutelageError, match=r"compressed with .*unpack it to a plain \.tar"):
        index_of(file.getvalue())


def test_a_file_that_fsspec_opened() -> None:
    with fsspec.open("memory://tars/pool.tar", "wb") as file:
        file.write(packed(("a.jpg", b"A"), ("b.jpg", b"B")))
    with fsspec.open("memory://tars/pool.tar", "rb") as file:
        members, _ = index_tar(file, "pool.tar")
        assert [read_member(file, m) for m in members] == [b"A", b"B"]


def test_a_tar_that_became_shorter_is_an_error_not_a_short_image() -> None:
    data = packed(("a.jpg", b"a" * 600))
    ((found,), _) = index_tar(io.BytesIO(data), "pool.tar")
    with pytest.raises(OSError, match="of 600 bytes"):
        read_member(io.BytesIO(data[:900]), found)


def test_images_come_with_the_label_of_their_key() -> None:
    names = ["d/1.jpg", "d/1.cls", "d/1.json", "e/1.PNG", "e/1.txt", "2.left.jpg", "2.right.jpg"]
    names += ["2.json", "3.jpg", "._3.jpg", "readme.md", "4.cls", "5.meta.json", "5.webp"]
    data = packed(*((name, b"") for name in names))
    found = tar_images(index_tar(io.BytesIO(data), "pool.tar")[0])
    assert [(image.name, label and label.name) for image, label in found] == [
        ("d/1.jpg", "d/1.cls"),
        ("e/1.PNG", "e/1.txt"),
        ("2.left.jpg", "2.json"),
        ("2.right.jpg", "2.json"),
        ("3.jpg", None),
        ("5.webp", None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("a.cls", b"7\n", "7"),
        ("a.txt", "\ufeffGänse".encode(), "Gänse"),
        ("a.json", b'{"label": "cat", "cls": 3}', "cat"),
        ("a.json", b'{"cls": 3}', "3"),
        ("a.json", b'"dog"', "dog"),
        ("a.cls", b"\xff", None),
        ("a.json", b"{", None),
        ("a.json", b"{}", None),
        ("a.json", b'{"label": true}', None),
        ("a.json", b"[" * 100_000, None),
    ],
)
def test_labels_are_read_or_refused(name: str, content: bytes, label: str | None) -> None:
    found = Member(name, 0, len(content))
    if label is not None:
        assert label_of(found, content) == label
        return
    with pytest.raises(TutelageError, match=r"a\.\w+ is not a label"):
        label_of(found, content)


def png(shade):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def images_of(catalog):
    return [catalog.source.read(i) for i in range(len(catalog))]


def test_labels_splits_and_bytes_are_those_of_the_members(tmp_path):
    write_tar(tmp_path / "train-0001.tar", [("a/1.png", png(1)), ("a/1.cls", b"bee\n")])
    write_tar(
        tmp_path / "train-0000.tar",
        [("1.png", png(2)), ("1.json", b'{"label": "ant"}'), ("2.png", png(3)), ("2.cls", b"-1")],
    )
    write_tar(tmp_path / "unlabeled-0.tar", [("1.png", png(4)), ("1.cls", b"wasp")])
    write_tar(tmp_path / "val/x.tar", [("1.png", png(5)), ("1.cls", b"ant")])
    write_tar(tmp_path / "test/0.tar", [("1.png", png(6)), ("1.cls", b"bee")])
    catalog = read_catalog(tmp_path)
    assert catalog.names == (
        *("test/0.tar/1.png", "train-0000.tar/1.png", "train-0000.tar/2.png"),
        *("train-0001.tar/a/1.png", "unlabeled-0.tar/1.png", "val/x.tar/1.png"),
    )
    assert catalog.classes == ("ant", "bee")
    assert catalog.labels.tolist() == [1, 0, -1, 1, -1, 0]
    assert catalog.splits.tolist() == ["test", "train", "train", "train", "train", "val"]
    assert images_of(catalog) == [png(n) for n in (6, 2, 3, 1, 4, 5)]
    assert images_of(catalog.select([4, 0])) == [png(4), png(6)]
    assert catalog.warnings == ()


def test_classes_by_number_are_sorted_by_it(tmp_path):
    files = [
        (f"{n}.{kind}", c) for n in (10, 9) for kind, c in (("png", png(n)), ("cls", b"%d" % n))
    ]
    catalog = read_catalog(write_tar(tmp_path / "x.tar", files))
    assert catalog.classes == ("9", "10")
    assert catalog.splits.tolist() == ["train", "train"]
    assert catalog.names == ("x.tar/10.png", "x.tar/9.png")


@pytest.mark.parametrize(
    ("name", "split", "labelled"),
    [
        *(("train-000000.tar", "train", True), ("imagenet-val-0.tar", "val", True)),
        *(("validation/7.tar", "val", True), ("Test_00.tar", "test", True)),
        *(("unlabelled.tar", "train", False), ("train/unlabeled/0.tar", "train", False)),
        *(("shard-3.tar", "train", True), ("latest-0.tar", "train", True)),
    ],
)
def test_the_split_is_a_word_of_the_path(tmp_path, name, split, labelled):
    write_tar(tmp_path / name, [("1.png", png(1)), ("1.cls", b"a")])
    catalog = read_catalog(tmp_path)
    assert catalog.splits.tolist() == [split]
    assert (catalog.labels >= 0).tolist() == [labelled]


def test_a_path_of_two_splits_is_refused(tmp_path):
    write_tar(tmp_path / "train/test-0.tar", [("1.png", png(1))])
    with pytest.raises(TutelageError, match=r"train/test-0\.tar has the words .* test, train"):
        read_catalog(tmp_path)


def test_a_tree_of_files_and_its_tars_are_the_same_images(tmp_path):
    for number, place in enumerate(
        ["train/b/1", "train/a/1", "train/a/2", "test/b/1", "unlabeled/1"]
    ):
        path = tmp_path / "files" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    files = read_catalog(tmp_path / "files")
    tars = read_catalog(tar_tree(tmp_path / "files", tmp_path / "tars", per_tar=2))
    assert images_of(tars) == images_of(files)
    assert tars.classes == files.classes
    np.testing.assert_array_equal(tars.labels, files.labels)
    np.testing.assert_array_equal(tars.splits, files.splits)


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path):
    good = write_tar(tmp_path / "train-1.tar", [("1.png", png(1)), ("1.cls", b"a")])
    (tmp_path / "train-2.tar").write_bytes(b"no tar")
    cut = good.read_bytes()
    (tmp_path / "train-3.tar").write_bytes(cut[:2048])  # two headers, two members, no end
    with tarfile.open(tmp_path / "train-4.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("../up.png", "twice.png", "twice.png", "broken.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"png"))
    catalog = read_catalog(tmp_path)
    assert len(set(catalog.names)) == len(catalog.names)
    store = open_store(catalog, cache=tmp_path / "cache")
    assert [n for n, ok in zip(catalog.names, store.readable, strict=True) if ok] == [
        "train-1.tar/1.png",
        "train-3.tar/1.png",
    ]
    reasons = {name.rpartition(" ")[2]: why for name, why in store.reasons.items()}
    assert "symbolic link" in reasons["link.png"]
    assert "has .. in its name" in reasons["../up.png"]
    assert "there twice" in reasons["twice.png"]
    assert "not a JPEG" in reasons["train-4.tar/broken.png"]
    assert "no end marker" in reasons["train-3.tar"]
    assert "not a readable tar" in reasons["train-2.tar"]


def test_a_label_that_cannot_be_read_is_none_and_said(tmp_path):
    files = [("1.png", png(1)), ("1.json", b"{"), ("2.png", png(2)), ("2.cls", b"a")]
    catalog = read_catalog(write_tar(tmp_path / "train.tar", files))
    assert catalog.labels.tolist() == [-1, 0]
    (warning,) = catalog.warnings
    assert "1 label members cannot be read (first: train.tar/1.json" in warning


def test_no_images_is_an_error_with_a_reason(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.cls", b"a")])
    with pytest.raises(TutelageError, match=r"no images in the 1 tars of .* such as 0001\.jpg"):
        read_catalog(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(TutelageError, match="compressed with gzip"):
        read_catalog(tmp_path)


def test_a_signature_tells_members_apart_and_changes_with_the_tar(tmp_path):
    files = [("1.png", png(1)), ("2.png", png(2))]
    source = read_catalog(write_tar(tmp_path / "a.tar", files)).source
    assert source.signature(0) != source.signature(1)
    before = source.signature(0)
    write_tar(tmp_path / "a.tar", [*files, ("3.png", png(3))])
    assert source.signature(0) != before
    (tmp_path / "a.tar").unlink()
    assert source.signature(0) != before


def test_many_threads_read_at_once(tmp_path):
    files = [(f"{n:03}.png", png(n)) for n in range(200)]
    source = read_catalog(write_tar(tmp_path / "a.tar", files)).source
    order = np.random.default_rng(0).permutation(200)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, order)) == [png(n) for n in order]
