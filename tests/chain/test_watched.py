from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

from tutelage.chain import watched
from tutelage.data.open import open_data
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.watch.reference import load_reference


def test_a_run_leaves_what_its_test_images_look_like_to_the_student(
    finished: Path, photos: Path
) -> None:
    model = OnnxModel(finished / "student.onnx")
    reference = load_reference(finished / "student" / "reference.npz", model)
    catalog = open_data(photos)[0]
    labels = catalog.labels[catalog.splits == "test"]
    assert (reference.images, reference.learned) == ("test images", False)
    assert reference.labels.tolist() == labels.tolist()
    assert len(reference.seen) == len(labels) == 18


def run(**counts: int) -> Any:
    """A run that has so many images of each role."""
    order = ("labeled", "unlabeled", "val", "test")
    roles = np.array([role for role in order for _ in range(counts.get(role, 0))])
    said: list[str] = []
    return SimpleNamespace(
        split=SimpleNamespace(
            indices=lambda role: np.flatnonzero(roles == role), truth=np.arange(len(roles))
        ),
        folder=SimpleNamespace(path=Path("run")),
        catalog=SimpleNamespace(names=[str(i) for i in range(len(roles))]),
        note=said.append,
        said=said,
    )


@pytest.mark.parametrize(
    ("counts", "images", "learned", "labels"),
    [
        ({"labeled": 2, "unlabeled": 3, "val": 4, "test": 5}, "test images", False, [9, 10]),
        ({"labeled": 2, "unlabeled": 3, "val": 4, "test": 1}, "validation images", False, [5, 6]),
        ({"labeled": 2, "unlabeled": 3}, "training images", True, [-1, -1]),
        ({"labeled": 2}, "training images", True, [-1, -1]),
    ],
)
def test_images_that_the_model_did_not_learn_from_go_first(
    counts: dict[str, int],
    images: str,
    learned: bool,
    labels: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}

    def make(
        model: Any, catalog: Any, rows: Any, labels: Any, words: str, *, learned: bool
    ) -> None:
        made.update(labels=labels.tolist(), words=words, learned=learned)

    exported = Path("run/student.onnx")
    found = SimpleNamespace(exported=exported, folder=Path("run/student"))
    monkeypatch.setattr(watched, "find_model", lambda _: found)
    monkeypatch.setattr(watched, "OnnxModel", lambda *_, **__: None)
    monkeypatch.setattr(watched, "make_reference", make)
    monkeypatch.setattr(watched, "save_reference", lambda *_: None)
    watched.write_reference(run(**counts))
    assert (made["words"], made["learned"]) == (images, learned)
    assert made["labels"][:2] == labels

    def lost(*_: Any, **__: Any) -> None:
        raise TutelageError("none of the 5 images can be read: gone")

    monkeypatch.setattr(watched, "make_reference", lost)
    work = run(**counts)
    watched.write_reference(work)  # the run is worth more
    assert work.said == [
        "tutelage watch will have nothing to compare images with: none of the 5 images can be "
        "read: gone"
    ]
