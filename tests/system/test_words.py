"""Numbers agree with their nouns and verbs."""

from tutelage.system.words import are, counted


def test_one_is_singular_and_every_other_number_plural() -> None:
    said = [f"{counted(n, 'image')} {are(n)}" for n in (0, 1, 2, 1200)]
    assert said == ["0 images are", "1 image is", "2 images are", "1,200 images are"]
