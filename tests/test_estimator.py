"""The chain behind scikit-learn's interface."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")
pytest.importorskip("sklearn")

from PIL import Image
from shapes import CLASSES, SETTINGS
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

import tutelage
from tutelage.data.decode import decode
from tutelage.estimator import FewLabelClassifier, _images
from tutelage.system.errors import TutelageError

CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
)
"""Those of scikit-learn's checks that give the estimator no table of numbers."""


def tiny() -> FewLabelClassifier:
    rest = {k: v for k, v in SETTINGS.items() if k not in ("teacher", "student", "minutes")}
    return FewLabelClassifier(
        teacher=SETTINGS["teacher"],
        student=SETTINGS["student"],
        minutes=SETTINGS["minutes"],
        settings=rest,
    )


@pytest.fixture(scope="module")
def files(photos: Path) -> tuple[list[Path], list[str], list[Path], list[str]]:
    """Training images with labels or "" for none, and test images with theirs."""
    train = sorted((photos / "train").rglob("*.*"))
    pool = sorted((photos / "unlabeled").iterdir())
    test = sorted((photos / "test").rglob("*.*"))
    return (
        train + pool,
        [p.parent.name for p in train] + [""] * len(pool),
        test,
        [p.parent.name for p in test],
    )


@pytest.fixture(scope="module")
def fitted(files: Any, own_cache: Path) -> FewLabelClassifier:
    paths, labels, _, _ = files
    return tiny().fit(paths, [label or None for label in labels])


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_own_check(name: str) -> None:
    getattr(estimator_checks, name)("FewLabelClassifier", FewLabelClassifier())


def test_it_is_found_where_users_look() -> None:
    assert tutelage.FewLabelClassifier is FewLabelClassifier


def test_it_learns_and_scores(fitted: FewLabelClassifier, files: Any) -> None:
    _, _, test, truth = files
    assert fitted.classes_.tolist() == list(CLASSES)
    probabilities = fitted.predict_proba(test)
    assert probabilities.shape == (len(test), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    predicted = fitted.predict(test)
    assert predicted.tolist() == [CLASSES[k] for k in probabilities.argmax(axis=1)]
    assert fitted.score(test, truth) > 0.7
    assert fitted.metrics_["final"]["name"] == "student"


def test_paths_and_arrays_give_the_same_answers(fitted: FewLabelClassifier, files: Any) -> None:
    test = files[2][:5]
    arrays = [decode(path.read_bytes()) for path in test]
    np.testing.assert_array_equal(fitted.predict_proba(test), fitted.predict_proba(arrays))
    np.testing.assert_array_equal(
        fitted.predict_proba([str(path) for path in test]), fitted.predict_proba(arrays)
    )


def test_it_outlives_a_pickle_and_can_be_exported(
    fitted: FewLabelClassifier, files: Any, tmp_path: Path
) -> None:
    test = files[2][:3]
    before = fitted.predict_proba(test)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(test), before)
    fitted.save_onnx(tmp_path / "m.onnx")
    rows, _ = tutelage.predict(tmp_path / "m.onnx", test)
    found = [[row.probabilities[name] for name in CLASSES] for row in rows]
    np.testing.assert_allclose(found, before, atol=1e-6)


def test_labels_keep_their_type_and_minus_one_is_unlabelled(
    files: Any, own_cache: Path, tmp_path: Path
) -> None:
    paths, labels, test, truth = files
    numbers = {"disc": 2, "square": 10, "triangle": 3}
    y = np.array([numbers.get(label, -1) for label in labels])
    pixels = [np.asarray(Image.open(p).convert("RGB").resize((32, 32))) for p in paths]
    X = np.stack(pixels)
    folder = tmp_path / "run"
    model = tiny().set_params(run_folder=str(folder), student="none").fit(X, y)
    assert model.classes_.tolist() == [2, 3, 10]
    assert (folder / "report.html").exists()
    assert model.predict(test).dtype.kind == "i"
    assert np.mean(model.predict(test) == [numbers[name] for name in truth]) > 0.6
    with pytest.raises(TutelageError, match="holds another run"):
        model.fit(255 - X, y)


class Frame(dict[str, list[Any]]):
    """What a data frame's readers rely on."""

    @property
    def columns(self) -> list[str]:
        return list(self)


def test_grey_images_and_frames() -> None:
    grey = np.zeros((2, 4, 5), np.uint8)
    assert [image.shape for image in _images(grey)] == [(4, 5), (4, 5)]
    assert _images(Frame(image=["a.png", "b.png"], other=[1, 2])) == ["a.png", "b.png"]
    with pytest.raises(TutelageError, match="the frame has the columns other"):
        _images(Frame(other=[1, 2]))


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        ([], [], "there are no images"),
        ("a.png", ["a"], "expected a sequence, found one str"),
        ([np.zeros((4, 4, 3))], ["a"], r"image 0 is float64 \(4, 4, 3\)"),
        ([np.zeros((4, 4, 4), np.uint8)], ["a"], r"image 0 is uint8 \(4, 4, 4\)"),
        ([7], ["a"], "image 0 is int; expected a path"),
        (["a.png", np.zeros((4, 4), np.uint8)], ["a", "b"], "give one kind"),
        (["a.png"], ["a", "b"], "1 images but 2 labels"),
        (["a.png"], [-1], "every label is -1"),
        (["a.png", "b.png"], ["a", None], "every label is 'a', -1, None or NaN; give some of at"),
        (
            ["gone.png", "b.png"],
            ["a", "b"],
            r"none of the 2 images is readable; .*; image 0, gone\.png: the file cannot",
        ),
        ([np.zeros((9, 9), np.uint8)] * 2, [7, 7], "every label is 7, -1, None"),
    ],
)
def test_what_it_refuses(X: Any, y: Any, said: str) -> None:
    with pytest.raises(TutelageError, match=said):
        FewLabelClassifier().fit(X, y)


def test_what_cannot_be_read_is_a_reason_or_a_warning(
    files: Any, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disc, square = (str(path) for path in files[0][:9:8])
    said = r"found: disc\. .*; image 1, gone\.png: the file cannot be read: No such file"
    with pytest.raises(TutelageError, match=said):
        tiny().fit([disc, "gone.png"], ["disc", "square"])

    def trained(command: str, catalog: Any, data: str, folder: Path, *_: Any, **__: Any) -> Any:
        (folder / "student.onnx").write_bytes(b"")
        (folder / "skipped.csv").write_text("image,reason\nimage 2,the file is empty\n")
        return {}

    monkeypatch.setattr("tutelage.chain.run.train", trained)
    (tmp_path / "torn.png").touch()
    with pytest.warns(
        UserWarning, match=r"1 of 3 images cannot be read.* image 2, .*torn\.png: the"
    ):
        tiny().fit([disc, square, str(tmp_path / "torn.png")], ["disc", "square", None])


def test_before_fit_and_unreadable_images(fitted: FewLabelClassifier, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        FewLabelClassifier().predict(["a.png"])
    assert not hasattr(clone(fitted), "classes_")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(TutelageError, match=r"image 0, .*broken\.png: the file is not a JPEG"):
        fitted.predict([broken])
    with pytest.raises(TutelageError, match=r"image 0, .*gone\.png"):
        fitted.predict([tmp_path / "gone.png"])
