import io
import tarfile

import fsspec
import pytest

from tutelage.data.tars import Index, index_tar, label_of, read_member, samples
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


def index_of(data: bytes) -> Index:
    return index_tar(io.BytesIO(data), "pool.tar")


def contents(data: bytes) -> dict[str, bytes]:
    file = io.BytesIO(data)
    return {m.name: read_member(file, m) for m in index_tar(file, "pool.tar").members}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_regular_file_is_read_by_its_place(kind: int) -> None:
    long = "folder/" + "x" * 90 + ".jpg"
    files = {"a.jpg": b"A" * 700, long: b"", "ünï\n.png": b"C", "d/e.cls": b"3"}
    data = packed(*files.items(), (member("d", tarfile.DIRTYPE), b""), kind=kind)
    assert contents(data) == files
    assert index_of(data).refused == ()


def test_a_name_longer_than_a_header_is_whole() -> None:
    name = "/".join(["y" * 200] * 20) + ".jpg"
    assert [*contents(packed((name, b"1")))] == [name]


def test_a_name_that_is_no_text_becomes_one() -> None:
    data = packed(("a\udcff.jpg", b"1"), kind=tarfile.GNU_FORMAT)
    (name,) = contents(data)
    assert name == "a\\xff.jpg"
    name.encode()


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
    ((name, why),) = index_of(data).refused
    assert name == info.name
    assert reason in why


def test_a_sparse_file_is_refused() -> None:
    # GNU's old header: type S, and where the pieces of the file lie at byte 386.
    header = bytearray(member("s.jpg", b"S").tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[482:495] = b"\0" + b"%011o\0" % 0
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    data = bytes(header) + packed(("a.jpg", b"1"))
    assert [m.name for m in index_of(data).members] == ["a.jpg"]
    assert "sparse" in index_of(data).refused[0][1]


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
    index = index_of(data)
    assert len(index.members) == kept
    assert len(contents(data)) == kept
    assert reason in index.refused[-1][1]


def test_a_damaged_header_is_named_not_taken_for_the_end() -> None:
    data = bytearray(packed(("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c")))
    data[1024:1030] = b"\xff" * 6
    assert list(contents(bytes(data))) == ["a.jpg"]
    assert "damaged" in index_of(bytes(data)).refused[0][1]


def test_a_second_tar_behind_the_first_is_named() -> None:
    one = packed(("a.jpg", b"a"))[: 1024 + 1024]  # two blocks of zeros end it
    index = index_of(one + packed(("b.jpg", b"b")))
    assert [m.name for m in index.members] == ["a.jpg"]
    assert "follows the end marker" in index.refused[0][1]


def test_a_negative_size_ends_it() -> None:
    header = bytearray(member("b.jpg").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    data = packed(("a.jpg", b"a"))[:1024] + bytes(header)
    index = index_of(data)
    assert "a.jpg" in [m.name for m in index.members]
    assert "negative" in index.refused[-1][1]


def test_very_many_headers_of_one_member_do_not_exhaust_the_stack() -> None:
    one = tarfile.TarInfo.create_pax_global_header({"a": "b"})
    index = index_of(packed(("a.jpg", b"a"))[:1024] + one * 20_000)
    assert len(index.members) == 1
    assert "damaged" in index.refused[0][1]


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
        index = index_tar(file, "pool.tar")
        assert [read_member(file, m) for m in index.members] == [b"A", b"B"]


def test_a_tar_that_became_shorter_is_an_error_not_a_short_image() -> None:
    data = packed(("a.jpg", b"a" * 600))
    (found,) = index_of(data).members
    with pytest.raises(OSError, match="of 600 bytes"):
        read_member(io.BytesIO(data[:900]), found)


def test_samples_are_images_with_the_label_of_their_key() -> None:
    names = ["d/1.jpg", "d/1.cls", "d/1.json", "e/1.PNG", "e/1.txt", "2.left.jpg", "2.right.jpg"]
    names += ["2.json", "3.jpg", "._3.jpg", "readme.md", "4.cls", "5.meta.json", "5.webp"]
    found = samples(index_of(packed(*((name, b"") for name in names))).members)
    assert [(s.key, s.image.name, s.label and s.label.name) for s in found] == [
        ("d/1", "d/1.jpg", "d/1.cls"),
        ("e/1", "e/1.PNG", "e/1.txt"),
        ("2", "2.left.jpg", "2.json"),
        ("2", "2.right.jpg", "2.json"),
        ("3", "3.jpg", None),
        ("5", "5.webp", None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("a.cls", b"7\n", "7"),
        ("a.txt", "\ufeffGänse".encode(), "Gänse"),
        ("a.json", b'{"label": "cat", "cls": 3}', "cat"),
        ("a.json", b'{"cls": 3}', "3"),
        ("a.json", b'"dog"', "dog"),
    ],
)
def test_labels(name: str, content: bytes, label: str) -> None:
    data = packed((name, content))
    (found,) = index_of(data).members
    assert label_of(found, read_member(io.BytesIO(data), found)) == label


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.cls", b"\xff"), ("a.json", b"{"), ("a.json", b"{}"), ("a.json", b'{"label": true}'),
     ("a.json", b"[" * 100_000)],
)  # fmt: skip
def test_a_label_that_cannot_be_read_is_an_error(name: str, content: bytes) -> None:
    (found,) = index_of(packed((name, content))).members
    with pytest.raises(TutelageError, match=r"a\.\w+ is not a label"):
        label_of(found, content)
