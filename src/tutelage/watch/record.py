"""What a server's model has seen, as small rows in a folder: no image can be made of them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.system.files import append, digest
from tutelage.watch.look import ROW, Seen, check_features, is_sound, seen_of

SUFFIX = ".seen"


class RecordingModel(OnnxModel):
    """An exported model that also writes down what it sees, for ``tutelage watch``.

    The rows of a day are appended to ``<model>-<day>.seen`` in the folder; days are those of UTC.
    """

    def __init__(self, path: Path | str, folder: Path) -> None:
        super().__init__(path, threads=1)
        check_features(self)
        folder.mkdir(parents=True, exist_ok=True)
        self._start = folder / f"{name_of(self)}-"
        self._writing = threading.Lock()
        self._failed = False

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """As ``OnnxModel.probabilities``."""
        return self.answers(images)[0]

    def answers(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """As ``OnnxModel.answers``."""
        if not len(images):
            return super().answers(images)
        probabilities, energy, features = self.look(images)
        self._append(seen_of(self, images, probabilities, energy, features))
        return probabilities, energy

    def _append(self, seen: Seen) -> None:
        """Add rows; a disk that is full is said once, and stops no answer."""
        path = Path(f"{self._start}{datetime.now(UTC).date().isoformat()}{SUFFIX}")
        try:
            with self._writing:
                append(path, seen.tobytes(), ROW.itemsize)
        except OSError as error:
            if not self._failed:
                print(f"{path} cannot be written: {error.strerror}", file=sys.stderr, flush=True)
            self._failed = True


def name_of(model: OnnxModel) -> str:
    """What the rows of a model are called after: they mean nothing to another one."""
    return digest(model.path.read_bytes())[:8]


def is_record(given: object) -> bool:
    """Whether this is the path of a file of rows, or of a folder that has some."""
    if not isinstance(given, str | os.PathLike):
        return False
    path = Path(given)
    return path.suffix == SUFFIX or (path.is_dir() and any(path.glob(f"*{SUFFIX}")))


def read_record(paths: Sequence[Path], model: OnnxModel) -> Seen:
    """All rows of files and folders, in the order of their days."""
    files = [f for path in paths for f in (sorted(path.glob("*" + SUFFIX)) or [path])]
    own = [file for file in files if file.name.startswith(name_of(model))]
    if not own:
        raise TutelageError(
            f"{files[0]} was written by another model than {model.path}; give the one that was "
            "served"
        )
    parts = []
    for file in own:
        content = file.read_bytes()
        whole = len(content) // ROW.itemsize  # a kill may have left a part of a row at the end
        parts.append(np.frombuffer(content, ROW, whole))
        if not is_sound(parts[-1], len(model.classes)):
            raise TutelageError(f"{file} is damaged; delete it, or leave it out")
    return np.concatenate(parts)
