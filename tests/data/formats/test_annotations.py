"""What a file is shows in its content, and what is nobody's is refused in one line."""

import pytest
from catalogs import put

from tutelage.config import TableConfig
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not readable JSON"),
        (b"[" * 100_000, "is not readable JSON"),
        (b"\xff\xfe{}", "is not readable JSON"),
        (b"3", "holds int; expected an export of Label Studio .a list of tasks., COCO"),
        (b"{}", "holds nothing; expected"),
        (b'{"a": 1, "labels": []}', "holds a, labels; expected"),
        (b"1" * 10_000, "is not readable JSON"),
    ],
)
def test_json_of_nobody_is_refused(tmp_path, content, message):
    with pytest.raises(TutelageError, match=message) as caught:
        read_catalog(put(tmp_path / "x.json", content))
    assert len(str(caught.value)) < 600


def test_a_table_of_label_studio_is_known_by_its_columns_and_others_stay_manifests(tmp_path):
    put(tmp_path / "a.jpg")
    put(tmp_path / "b.jpg")
    rows = b"annotation_id,annotator,choice,image,lead_time\n1,1,x,a.jpg,2\n2,1,y,b.jpg,2\n"
    assert read_catalog(put(tmp_path / "m.csv", rows)).classes == ("x", "y")
    assert read_catalog(put(tmp_path / "m.csv", b"image,label\na.jpg,z\n")).classes == ("z",)


def test_a_file_of_a_common_name_does_not_make_a_folder_an_export(tmp_path):
    put(tmp_path / "ants/a.jpg")
    put(tmp_path / "bees/b.jpg")
    put(tmp_path / "labels.json", b'{"0": "ants"}')
    assert read_catalog(tmp_path).classes == ("ants", "bees")


def test_the_root_of_the_images_must_be_there(tmp_path):
    path = put(tmp_path / "x.json", b'[{"image": "a.jpg"}]')
    with pytest.raises(TutelageError, match=r"--image-root .*/no is not a folder"):
        read_catalog(path, TableConfig(image_root=str(tmp_path / "no")))
