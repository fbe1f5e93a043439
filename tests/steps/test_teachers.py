import dataclasses
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

pytest.importorskip("timm")

from tutelage.losses.distillation import kd_loss
from tutelage.models.classifier import Classifier
from tutelage.steps.teachers import Teachers, mean_logits
from tutelage.system.errors import TutelageError


def model(seed: int, **changes: Any) -> Classifier:
    made = tiny.classifier(3, seed=seed).eval()
    made.spec = dataclasses.replace(made.spec, **changes)
    return made


def pictures(size: int) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(size))


def test_mean_by_hand() -> None:
    logits = [torch.tensor([[0.5, 0.5]]).log() + 9, torch.tensor([[0.9, 0.1]]).log()]
    torch.testing.assert_close(mean_logits(logits).exp(), torch.tensor([[0.7, 0.3]]))


def test_two_teachers_are_the_mean_of_their_calibrated_probabilities() -> None:
    models = [model(1, temperature=2.0), model(2, temperature=0.5)]
    images = pictures(32)
    with torch.no_grad():
        each = [torch.softmax(m(images) / m.spec.temperature, dim=1) for m in models]
    assert (each[0] - each[1]).abs().max() > 0.05
    answer = Teachers(models)(images, images)
    torch.testing.assert_close(answer.logits.exp(), (each[0] + each[1]) / 2, atol=1e-4, rtol=1e-3)
    assert answer.features is None


def test_the_order_of_teachers_does_not_matter() -> None:
    one, other = model(1, temperature=2.0), model(2, input_size=48)
    small, large = pictures(32), pictures(48)
    torch.testing.assert_close(
        Teachers([one, other])(small, large).logits, Teachers([other, one])(large, small).logits
    )


def test_one_teacher_teaches_as_its_calibrated_logits_do() -> None:
    teacher, images = model(1, temperature=2.0), pictures(32)
    with torch.no_grad():
        wanted = teacher(images) / 2.0
        student = model(2)(images)
    found = kd_loss(student, Teachers([teacher])(images).logits, temperature=3.0)
    expected = kd_loss(student, wanted, temperature=3.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_each_teacher_sees_its_own_view_with_its_own_normalisation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(
        "tutelage.steps.teachers.Forward", lambda made, _: torch.no_grad()(lambda x: both(made, x))
    )

    def both(made: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
        features = made.features(images)
        return made.logits(features), features

    models = [tiny.classifier(3, mean=(m,) * 3, std=(s,) * 3) for m, s in ((0.5, 0.5), (0.4, 0.2))]
    models[1].spec = dataclasses.replace(models[1].spec, input_size=48)
    for made in models:
        made.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    teachers = Teachers(models)
    assert teachers.sizes == (32, 48)
    teachers(pictures(32), pictures(48))
    torch.testing.assert_close(seen[0], (pictures(32) - 0.5) / 0.5)
    torch.testing.assert_close(seen[1], (pictures(48) - 0.4) / 0.2)


def test_hints_are_all_features_side_by_side() -> None:
    models, images = [model(1), model(2)], pictures(32)
    answer = Teachers(models, hints=True)(images, images)
    with torch.no_grad():
        expected = torch.cat([m.features(images) for m in models], dim=1)
    assert answer.features is not None
    torch.testing.assert_close(answer.features, expected, atol=1e-4, rtol=1e-3)


def test_a_view_for_each_teacher_is_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Teachers([model(1), model(2)])(pictures(32))


def test_teachers_of_other_classes_are_refused() -> None:
    with pytest.raises(TutelageError, match="teacher 2 knows c, b, a, the first knows a, b, c"):
        Teachers([model(1), model(2, classes=("c", "b", "a"))])
