"""The encoding of a text file that does not say what it is."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path

from tutelage.system.errors import TutelageError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NAMES = {"cp949": "CP949 (Korean Windows)", "cp1252": "Windows-1252 (Western Europe)"}


def encoding_of(path: Path) -> str:
    """The Python name of a file's encoding: what its mark says, UTF-8, or a guess.

    Raises:
        TutelageError: no encoding that is known here gives its bytes a meaning.
    """
    content = path.read_bytes()
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            _decoded(content, name, path)
            return name
    try:
        content.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        if _is_korean(content):
            return "cp949"
        problem = str(error)
    _decoded(content, "cp1252", path, problem)
    return "cp1252"


def guess_told(path: Path, encoding: str, texts: Iterable[str]) -> list[str]:
    """A warning with one of the texts where the encoding is a guess."""
    if encoding not in _NAMES:
        return []
    example = next((text for text in texts if not text.isascii()), "")
    return [
        f"{path} is not UTF-8 and is read as {_NAMES[encoding]}"
        f"{f', which gives {example!r:.80}' if example else ''}; "
        "if that is wrong, save it as CSV UTF-8"
    ]


def _decoded(content: bytes, encoding: str, path: Path, problem: str = "") -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise TutelageError(
            f"{path} is not UTF-8 ({problem or error}); save it as CSV UTF-8"
        ) from error


def _is_korean(content: bytes) -> bool:
    """Whether it decodes as CP949, and most of what is not ASCII is Hangul in common use.

    Accented Western text may decode, too, but as Chinese characters or as the rare syllables that
    CP949 adds to KS X 1001, whose second byte is often a letter.
    """
    try:
        beyond = [character for character in content.decode("cp949") if not character.isascii()]
    except UnicodeDecodeError:
        return False
    hangul = [character for character in beyond if "가" <= character <= "힣"]
    common = [character for character in hangul if min(character.encode("cp949")) > 0xA0]
    return 2 * len(common) > len(beyond)
