"""What a text file is encoded in, where it does not say."""

import pytest
from catalogs import put

from tutelage.data.encoding import encoding_of, guess_told
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("ant", "utf-8"),
        ("꿀벌", "utf-8"),
        ("꿀벌", "cp949"),
        ("a.jpg,꿀벌\nb.jpg,뚜왈기", "cp949"),  # and a syllable that only CP949 has
        ("Käfer", "cp1252"),
        ("Äpfel", "cp1252"),  # decodes as CP949, too: a rare syllable
        ("größer", "cp1252"),  # decodes as CP949, too: a Chinese character
        ("naïve café", "cp1252"),
    ],
)
def test_an_encoding_without_a_mark(text, encoding, tmp_path):
    path = put(tmp_path / "x.csv", text.encode(encoding))
    assert encoding_of(path) == encoding
    assert path.read_text(encoding_of(path)) == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_is_believed(encoding, tmp_path):
    path = put(tmp_path / "x.csv", "꿀벌".encode(encoding))
    assert path.read_text(encoding_of(path)) == "꿀벌"


def test_bytes_of_no_encoding_are_refused(tmp_path):
    with pytest.raises(TutelageError, match=r"is not UTF-8 .*save it as CSV UTF-8"):
        encoding_of(put(tmp_path / "x.csv", b"\x81\x8d"))


def test_a_guess_is_told_with_an_example(tmp_path):
    path = tmp_path / "x.csv"
    assert guess_told(path, "utf-8", ["꿀벌"]) == []
    (said,) = guess_told(path, "cp949", ["ant", "꿀벌"])
    assert "CP949 (Korean Windows), which gives '꿀벌'" in said
    (said,) = guess_told(path, "cp1252", ["ant"])
    assert "(Western Europe); if that is wrong" in said
