"""The whole chain as a scikit-learn classifier."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tutelage.data.catalog import Catalog
from tutelage.data.decode import UnreadableImage, decode, why_skipped
from tutelage.data.memory import ItemSource
from tutelage.data.open import in_memory
from tutelage.data.runfolder import read_skipped
from tutelage.data.sources import FileSource
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.embedded import TEACHER
from tutelage.system.errors import TutelageError, need, need_training
from tutelage.system.files import write_atomically

need("sklearn", "sklearn")

from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402  # after the plain error
from sklearn.utils import Tags  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402

BATCH = 64  # images decoded at once


class FewLabelClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier from few labels: probe, transfer, self-training, a distilled student.

    Images are paths, uint8 arrays (H, W, 3) or (H, W), one array (N, H, W, 3) or (N, H, W), or a
    data frame with a column ``image`` of these. As elsewhere in scikit-learn, a label of -1 (or
    None, or NaN) marks an unlabelled image, whose pixels are learned from.

    Args:
        minutes: time budget to plan for; None for the default.
        teacher: any timm architecture, or the folder of a tutelage model; several, separated by
            commas, are one teacher.
        student: as ``tutelage run --student``; "none" keeps the teacher.
        device: "auto", "cpu" or "cuda".
        random_state: seed of the folds and views, a whole number.
        run_folder: where the run is kept, with its report; None for a temporary folder.
        settings: any further setting of ``tutelage run --help``, by name.

    Attributes:
        classes_: (K,) the labels, sorted, of the type that they were given in.
        metrics_: the content of the run's metrics.json.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """

    _model: OnnxModel | None = None  # cannot be pickled: opened when it is first used

    def __init__(
        self,
        *,
        minutes: float | None = None,
        teacher: str = TEACHER,
        student: str = "auto",
        device: str = "auto",
        random_state: int = 0,
        run_folder: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.minutes = minutes
        self.teacher = teacher
        self.student = student
        self.device = device
        self.random_state = random_state
        self.run_folder = run_folder
        self.settings = settings

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.non_deterministic = True  # a time budget is planned by this machine's speed
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from N images and N labels; -1, None or NaN marks an unlabelled image.

        Warns:
            UserWarning: some images cannot be read, and nothing was learned from them.

        Raises:
            TutelageError: what was found, what was expected, and what to do.
        """
        catalog, classes = _catalog(_images(X), _column(y))
        settings = {
            "minutes": self.minutes,
            "teacher": self.teacher,
            "device": self.device,
            "seed": self.random_state,
            **({} if self.student == "none" else {"student": self.student}),
            **(self.settings or {}),
        }
        command = "self-train" if self.student == "none" else "run"
        need_training()
        from tutelage.chain.run import train

        folder = Path(self.run_folder or tempfile.mkdtemp(prefix="tutelage-"))
        try:
            # The run's name depends on the images, so that it continues no run on other ones.
            data = in_memory(catalog)
            self.metrics_ = train(command, catalog, data, folder, settings, quiet=True)
            final = "teacher/model.onnx" if self.student == "none" else "student.onnx"
            self._onnx = (folder / final).read_bytes()
            _warn_of_skipped(folder, catalog)
        except TutelageError as error:
            raise TutelageError(f"{error}{_unreadable(catalog)}") from error
        finally:
            if self.run_folder is None:
                shutil.rmtree(folder, ignore_errors=True)
        self.classes_ = classes
        self._model = None
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Calibrated probabilities (N, K) of N images, in the order of ``classes_``.

        Raises:
            NotFittedError: before ``fit``.
            TutelageError: an image cannot be read; the message names it.
        """
        check_is_fitted(self, "classes_")
        images = _images(X)
        parts = [np.zeros((0, len(self.classes_)), dtype=np.float32)]
        for start in range(0, len(images), BATCH):
            pixels = [_pixels(image, start + i) for i, image in enumerate(images[start:][:BATCH])]
            parts.append(self._opened().probabilities(pixels))
        return np.concatenate(parts)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class (N,) of each image."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])

    def save_onnx(self, path: Path | str) -> None:
        """Write the exported model, which ``tutelage predict`` and ``serve`` take."""
        check_is_fitted(self, "classes_")
        write_atomically(Path(path), self._onnx)

    def _opened(self) -> OnnxModel:
        if self._model is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(self._onnx)
                self._model = OnnxModel(path)
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_model": None}


def _catalog(images: list[Any], labels: list[Any]) -> tuple[Catalog, NDArray[Any]]:
    """The images as training images, and the labels (K,) that are their classes, sorted."""
    if len(labels) != len(images):
        raise TutelageError(f"{len(images)} images but {len(labels)} labels; give one for each")
    known = [label for label in labels if not _missing(label)]
    if not known:
        raise TutelageError("every label is -1, None or NaN; give some of at least two classes")
    classes = np.unique(np.array(known))
    if len(classes) < 2:
        raise TutelageError(
            f"every label is {_plain(known[0])!r}, -1, None or NaN; give some of at least two "
            "classes"
        )
    where = {label: k for k, label in enumerate(classes.tolist())}
    indices = [-1 if _missing(label) else where[_plain(label)] for label in labels]
    arrays = isinstance(images[0], np.ndarray)
    pairs = [(image, None) for image in images]  # of images and labels, as torchvision has them
    source = ItemSource(pairs) if arrays else FileSource(tuple(map(os.fspath, images)))
    catalog = Catalog(
        names=tuple(f"image {number}" for number in range(len(images))),
        labels=np.array(indices, dtype=np.int32),
        splits=np.full(len(images), "train", dtype="<U5"),
        classes=tuple(str(label) for label in classes),
        source=source,
    )
    return catalog, classes


def _unreadable(catalog: Catalog) -> str:
    """The end of a failure's message: the first labelled image that cannot be read, if any."""
    for row in np.flatnonzero(catalog.labels >= 0).tolist():
        try:
            decode(catalog.source.read(row))
        except (UnreadableImage, OSError) as error:
            return f"; {_called(catalog, row)}: {why_skipped(error)}"
    return ""


def _warn_of_skipped(run: Path, catalog: Catalog) -> None:
    if reasons := read_skipped(run):
        image, reason = next(iter(reasons.items()))
        first = _called(catalog, catalog.names.index(image))
        warnings.warn(
            f"{len(reasons)} of {len(catalog)} images cannot be read, and nothing was learned from "
            f"them; {first}: {reason}",
            stacklevel=3,
        )


def _called(catalog: Catalog, row: int) -> str:
    paths = catalog.source.paths if isinstance(catalog.source, FileSource) else ()
    return ", ".join([catalog.names[row], *paths[row : row + 1]])


def _images(X: Any) -> list[Any]:
    if hasattr(X, "columns"):
        if "image" not in X.columns:
            raise TutelageError(
                f"the frame has the columns {', '.join(map(str, X.columns))}; expected one called "
                "image, with paths or arrays"
            )
        X = X["image"]
    images = _column(X)
    if not images:
        raise TutelageError("there are no images")
    for number, image in enumerate(images):
        if not (isinstance(image, str | os.PathLike) or _is_picture(image)):
            array = isinstance(image, np.ndarray)
            found = f"{image.dtype} {image.shape}" if array else type(image).__name__
            raise TutelageError(
                f"image {number} is {found}; expected a path, or uint8 of (H, W, 3) or (H, W)"
            )
    if len({isinstance(image, np.ndarray) for image in images}) > 1:
        raise TutelageError("some images are paths and some are arrays; give one kind")
    return images


def _is_picture(image: Any) -> bool:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or not image.size:
        return False
    return image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)


def _column(values: Any) -> list[Any]:
    if isinstance(values, str | bytes | os.PathLike):
        raise TutelageError(f"expected a sequence, found one {type(values).__name__}: {values!r}")
    return list(values)


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _missing(label: Any) -> bool:
    return label is None or label != label or (not isinstance(label, str) and label == -1)


def _pixels(image: Any, number: int) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    try:
        return decode(Path(image).read_bytes())
    except (OSError, UnreadableImage) as error:
        raise TutelageError(f"image {number}, {image}: {error}") from error
