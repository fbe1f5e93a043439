"""What a run leaves: the end of a run does not depend on images that are lost by then."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

from tutelage.chain import finish
from tutelage.data.decode import decode
from tutelage.data.open import open_data
from tutelage.deploy.runtime import OnnxModel
from tutelage.report.verdict import AgainstTeacher
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.watch.reference import load_reference


def test_images_that_can_be_read_no_more_do_not_stop_the_end_of_a_run(photos: Path) -> None:
    catalog = open_data(photos)[0]

    class Source:
        def read(self, row: int) -> bytes:
            if row % 2 == 0 or row in lost:
                raise OSError(5, "Input/output error")
            return catalog.source.read(row)

    lost: set[int] = set()
    others = ["test", "unused", "val"] * len(catalog)
    roles = np.array((["labeled", "unlabeled"] * 3 + others)[: len(catalog)])
    work = SimpleNamespace(
        catalog=dataclasses.replace(catalog, source=Source()),
        split=SimpleNamespace(roles=roles),
        store=SimpleNamespace(canvas=32),
    )
    found = finish.sample_images(work)
    assert [image.tobytes() for image in found] == [
        decode(catalog.source.read(row)).tobytes() for row in (1, 3, 5)
    ]
    lost.update(range(6))
    assert len(finish.sample_images(work)) > 0  # generated ones


FIGURES = {"n": 20, "accuracy": 0.95, "accuracy_ci95": [0.764, 0.991], "majority": 0.5}


def summary(
    capsys: pytest.CaptureFixture[str], result: Any, skipped: int = 0, against: Any = None
) -> list[str]:
    """The lines that a run in the folder "r" prints in the end."""
    reasons = {str(number): "cut short" for number in range(skipped)}
    run: Any = SimpleNamespace(console=Console(), store=SimpleNamespace(reasons=reasons),
                               folder=SimpleNamespace(path=Path("r")))  # fmt: skip
    finish._say_summary(run, result, [], against)
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("test", "images"), [(FIGURES, "test images"), (None, "held-out labels")])
def test_the_summary_says_how_often_the_model_is_right(
    test: Any, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student has no held-out figures: nothing judges it but the test."""
    stages = [
        {"name": "probe", "accepted": False, "val": FIGURES, "test": test},
        {"name": "student", "accepted": True, "val": None, "test": test},
    ]
    heading, baseline, probe, _, use, report = summary(
        capsys, {"stages": stages, "teacher": stages[0]}
    )
    assert heading == f"correct on {images}, with 95% intervals:"
    assert baseline.split() == ["baseline", "50.0%", "(always", "the", "most", "frequent", "class)"]
    assert probe.split() == ["probe", "95.0%", "[76.4%,", "99.1%]", "of", "20", "(rejected)"]
    teacher = Path("r") / "teacher"
    assert use == f"to use it: tutelage predict r IMAGES (the student; {teacher} is the teacher)"
    assert report == f"report: {Path('r') / 'report.html'}"


def test_the_summary_says_what_the_student_lost_and_what_was_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for lost in (True, False):
        said = summary(capsys, {"stages": []}, against=AgainstTeacher(lost, "4 more wrong."))
        assert ("4 more wrong." in said) is lost
    for count, words in ((1, "1 unreadable image was"), (2, "2 unreadable images were")):
        assert f"  {words} skipped (skipped.csv)" in summary(capsys, {"stages": []}, count)


# --- what `tutelage watch` compares with


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


def run_of(**counts: int) -> Any:
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
    monkeypatch.setattr(finish, "find_model", lambda _: found)
    monkeypatch.setattr(finish, "OnnxModel", lambda *_, **__: None)
    monkeypatch.setattr(finish, "make_reference", make)
    monkeypatch.setattr(finish, "save_reference", lambda *_: None)
    finish.write_reference(run_of(**counts))
    assert (made["words"], made["learned"]) == (images, learned)
    assert made["labels"][:2] == labels

    def lost(*_: Any, **__: Any) -> None:
        raise TutelageError("none of the 5 images can be read: gone")

    monkeypatch.setattr(finish, "make_reference", lost)
    work = run_of(**counts)
    finish.write_reference(work)  # the run is worth more
    assert work.said == [
        "tutelage watch will have nothing to compare images with: none of the 5 images can be "
        "read: gone"
    ]
