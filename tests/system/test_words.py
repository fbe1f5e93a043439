"""Numbers agree with their nouns and verbs, and the nearest name is found."""

from pathlib import Path

import pytest

from tutelage.system.words import are, counted, did_you_mean, nearest


def test_one_is_singular_and_every_other_number_plural() -> None:
    said = [f"{counted(n, 'image')} {are(n)}" for n in (0, 1, 2, 1200)]
    assert said == ["0 images are", "1 image is", "2 images are", "1,200 images are"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("my photos", "My Photos"),
        ("Phoots", "photos"),
        ("alb", "album"),  # begins one name alone
        ("a", None),  # begins two
        ("xyz", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_found(word: str, meant: str | None) -> None:
    assert nearest(word, ["My Photos", "photos", "album", "ants"]) == meant


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("My Photo", "My Photos"),
        ("runs/11", "runs/1"),
        ("run/1/student", "runs/1/student"),
        ("run/2", ""),  # a part has no near name
        ("secret", ""),  # hidden
        ("My Photos/ants.jpg", "My Photos/ant.jpg"),
        ("My Photos/ant.jpeg", "My Photos/ant.jpg"),
        ("My Photos/birthday.jpg", ""),  # no more than the suffix in common
        ("My Photos/ant.jpg/x", ""),  # below a file
    ],
)
def test_a_path_is_mended_part_by_part(
    path: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "1" / "student").mkdir(parents=True)
    for folder in ("My Photos", ".secret"):
        (tmp_path / folder).mkdir()
    (tmp_path / "My Photos" / "ant.jpg").touch()
    monkeypatch.chdir(tmp_path)
    said = f"; did you mean {meant}?" if meant else ""
    assert did_you_mean(path) == said
    absolute = f"; did you mean {tmp_path / meant}?" if meant else ""
    assert did_you_mean(tmp_path / path) == absolute
