"""CVAT's XML is read: the form is that of the export "CVAT for images 1.1"."""

import pytest
from catalogs import by_name, put

from tutelage.config import TableConfig
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError

META = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><name>my task</name><size>3</size><mode>annotation</mode>
    <labels>{labels}</labels></task><dumped>2026-11-27 11:51:51+00:00</dumped></meta>
  {images}
</annotations>
"""
LABEL = (
    "<label><name>{}</name><color>#c06060</color><type>tag</type><attributes></attributes></label>"
)
BOX = '<box label="cat" source="manual" occluded="0" xtl="1" ytl="1" xbr="2" ybr="2"></box>'


def image(name, *tags, inside="", **more):
    values = "".join(f' {key}="{value}"' for key, value in more.items())
    found = "".join(f'<tag label="{tag}" source="manual"></tag>' for tag in tags)
    return f'<image id="0" name="{name}"{values} width="3" height="3">{found}{inside}</image>'


def exported(folder, *images, labels=("cat", "dog"), name="annotations.xml"):
    text = META.format(labels="".join(map(LABEL.format, labels)), images="\n".join(images))
    return put(folder / name, text.encode())


NO_USE = "1 image skipped or of no use (first: ROOT/c.jpg): left out; label such images in the tool"
HINTS = ("cat", "dog", "cat (predicted)", "dog (predicted)", "one (predicted)")


@pytest.mark.parametrize(
    ("files", "images", "labels", "found"),
    [
        pytest.param(
            "a.jpg b/b&.jpg c.jpg",
            [image("a.jpg", "cat"), image("b/b&amp;.jpg", "dog"), image("c.jpg")],
            ("cat", "dog"),
            {"a.jpg": ("cat", "train"), "b/b&.jpg": ("dog", "train"), "c.jpg": (None, "train")},
            id="images without a tag are unlabelled",
        ),
        pytest.param(
            "a.jpg b.jpg",
            [image("a.jpg", "cat (predicted)", "dog"), image("b.jpg", "dog (predicted)")],
            HINTS,
            {"a.jpg": ("dog", "train"), "b.jpg": (None, "train")},
            id="tags of a model are no labels",
        ),
        pytest.param(
            "a.jpg",
            [image("a.jpg", "one (predicted)")],
            HINTS,
            {"a.jpg": ("one (predicted)", "train")},
            id="somebody's own class",
        ),
        pytest.param(
            "train/a.jpg valid/a.jpg",
            [image("train/a.jpg", "cat"), image("valid/a.jpg", "cat")],
            ("cat", "dog"),
            {"train/a.jpg": ("cat", "train"), "valid/a.jpg": ("cat", "val")},
            id="images in the folders of splits keep their split",
        ),
    ],
)
def test_tags_are_labels(files, images, labels, found, tmp_path):
    for name in files.split():
        put(tmp_path / name)
    assert by_name(read_catalog(exported(tmp_path, *images, labels=labels))) == found


def test_tags_for_splits_and_for_images_of_no_use(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        put(tmp_path / name)
    tags = {"a.jpg": ("cat", "(test)"), "b.jpg": ("(val)", "dog"), "c.jpg": ("cat", "(of no use)")}
    path = exported(tmp_path, *(image(name, *of) for name, of in tags.items()))
    catalog = read_catalog(path, TableConfig(image_root=str(tmp_path)))
    expected = {"a.jpg": ("cat", "test"), "b.jpg": ("dog", "val"), "d.jpg": (None, "train")}
    assert by_name(catalog) == expected
    assert catalog.warnings[0].replace(str(tmp_path), "ROOT").startswith(NO_USE)


def test_a_project_with_its_images_is_read_as_a_folder(tmp_path):
    for subset in ("Train", "Test", "default"):
        put(tmp_path / "images" / subset / "a.jpg", subset.encode())
    labels = {"Test": "dog", "Train": "cat", "default": "cat"}
    exported(tmp_path, *(image("a.jpg", of, subset=subset) for subset, of in labels.items()))
    catalog = read_catalog(tmp_path)
    assert by_name(catalog) == {
        "images/Test/a.jpg": ("dog", "test"),
        "images/Train/a.jpg": ("cat", "train"),
        "images/default/a.jpg": ("cat", "train"),
    }
    assert catalog.source.read(0) == b"Test"


def test_shapes_are_explained(tmp_path):
    put(tmp_path / "a.jpg")
    put(tmp_path / "b.jpg")
    mixed = exported(tmp_path, image("a.jpg", "cat", inside=BOX), image("b.jpg", inside=BOX))
    assert read_catalog(mixed).warnings == ("shapes are not read (2 of <box>)",)
    with pytest.raises(TutelageError, match=r"no tags but shapes \(1 of <box>\): this is detect"):
        read_catalog(exported(tmp_path, image("b.jpg", inside=BOX)))
    video = exported(tmp_path, '<track id="0" label="cat"></track>')
    with pytest.raises(TutelageError, match='tracks of a video; export it as "CVAT for images'):
        read_catalog(video)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>
<annotations><image name="&c;"></image></annotations>"""
OUTSIDE = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<annotations><image name="a.jpg"><tag label="&x;"/></image></annotations>"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "declares a document type"),
        (OUTSIDE, "declares a document type"),
        ("<annotations><image name='a.jpg'>", "is not readable XML: no element found"),
        ("nothing", "is not readable XML: syntax error"),
        ("", "is not readable XML: no element found"),
        ("<annotations><image name='&x;'/></annotations>", "undefined entity"),
        ("<annotation><filename>a.jpg</filename></annotation>", "XML of the kind <annotation>; "),
        ("<annotations></annotations>", "lists no images"),
        ("<annotations><image id='1'></image></annotations>", "a <image> has no name"),
        ("<annotations><image name='a.jpg'><tag/></image></annotations>", "a <tag> has no label"),
        ("<annotations>" + "<a>" * 100_000, "is not readable XML"),
    ],
)  # fmt: skip
def test_hostile_xml_is_refused(tmp_path, content, message):
    put(tmp_path / "a.jpg")
    with pytest.raises(TutelageError, match=message) as caught:
        read_catalog(put(tmp_path / "x.xml", content.encode()))
    assert "\n" not in str(caught.value)
