"""Which student is built; what it learns is in test_pipeline and the silent bugs' checks."""

import pytest

pytest.importorskip("timm")

from torch import nn

from tutelage.config import make_config
from tutelage.errors import TutelageError
from tutelage.models.classifier import Classifier
from tutelage.models.zoo import create, cut
from tutelage.student import create_student


def teacher(architecture: str, classes: int) -> Classifier:
    return create(architecture, list(map(str, range(classes))), canvas=64, weights="none")


def student_of(whole: Classifier, name: str = "cut") -> Classifier:
    return create_student(make_config("run", {"student": name}), whole)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("classes", [2, 35, 100, 1000])
def test_lite0s_student_keeps_five_stages_in_a_quarter_at_any_number_of_classes(
    classes: int,
) -> None:
    whole = teacher("tf_efficientnet_lite0", classes)
    student = student_of(whole)
    assert student.spec.cut == 5
    assert student.spec.head_hidden is not None
    assert 256 <= student.spec.head_hidden <= 1024
    assert 0.2 < parameters(student) / parameters(whole) <= 0.25
    assert (student.spec.head_hidden == 1024) == (classes <= 35)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "mobilenetv3_large_100"])
def test_other_families_are_cut_to_a_quarter(architecture: str) -> None:
    whole = teacher(architecture, 10)
    student = student_of(whole)
    assert student.spec.cut is not None
    assert parameters(student) <= 0.25 * parameters(whole)
    deeper = cut(whole, student.spec.cut + 1, neck=256)
    assert parameters(deeper) > 0.25 * parameters(whole)


def test_a_named_cut_is_kept_whatever_its_size() -> None:
    whole = teacher("tf_efficientnet_lite0", 2)
    assert student_of(whole, "cut:6").spec.cut == 6
    assert student_of(whole, "cut:6").spec.head_hidden == 256
    assert student_of(whole, "cut:2").spec.head_hidden == 1024


def test_a_named_student_is_the_architecture_with_the_teachers_classes() -> None:
    whole = teacher("resnet18", 3)
    config = make_config("run", {"student": "test_efficientnet", "student_weights": "none"})
    student = create_student(config, whole)
    assert (student.spec.architecture, student.spec.cut) == ("test_efficientnet", None)
    assert student.spec.classes == whole.spec.classes
    assert all(p.requires_grad for p in student.parameters())


def test_weights_of_a_cut_student_are_its_teachers() -> None:
    config = make_config("run", {"student": "cut", "student_weights": "none"})
    with pytest.raises(TutelageError, match="not for one that is cut"):
        create_student(config, teacher("resnet18", 2))
