import copy
import dataclasses
import math
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F

from tutelage.steps.mean_teacher import MeanTeacherStep, ramp_up
from tutelage.training.batch import Batch


def batch(labeled: int = 3) -> Batch:
    plain = tiny.batches(1)[0]
    weights = (torch.arange(8) < labeled).float()
    return dataclasses.replace(
        plain, weights=weights, targets=plain.targets * weights[:, None], weak=plain.images.flip(3)
    )


def moved(model: Any, by: int) -> None:
    """What an optimiser's step and a forward in train mode do to a model."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(by)


def test_the_loss_by_hand() -> None:
    model, given = tiny.classifier().eval(), batch()
    step = MeanTeacherStep(ramp_steps=10, consistency_weight=20.0)
    loss, metrics = step(model, given)
    strong, weak = model(given.images), model(given.weak)  # the teacher is still a copy
    labels = given.targets[:3].argmax(dim=1)
    gaps = (torch.softmax(strong, dim=1) - torch.softmax(weak, dim=1)).square().mean()
    by_hand = F.cross_entropy(strong[:3], labels) + 20 * math.exp(-5) * gaps
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(metrics["consistency"], gaps.detach())
    assert float(gaps.detach()) > 0


def test_the_weight_rises_with_the_calls() -> None:
    model, given = tiny.classifier().eval(), batch(labeled=0)
    step = MeanTeacherStep(ramp_steps=2, consistency_weight=8.0)
    found = []
    for _ in range(4):
        loss, metrics = step(model, given)
        found.append(float(loss.detach() / metrics["consistency"]))
    assert found == pytest.approx([8 * math.exp(-5), 8 * math.exp(-1.25), 8.0, 8.0])


def test_the_teacher_after_two_steps_by_hand_buffers_included() -> None:
    model, given = tiny.classifier().eval(), batch()
    step = MeanTeacherStep(ramp_steps=2, decay=0.1)
    before = copy.deepcopy(model.state_dict())
    step(model, given)
    for by in (3, 4):
        moved(model, by)
        step(model, given)
    assert step.teacher is not None
    after = step.teacher.model.state_dict()
    for name in ("trunk.1.running_mean", "trunk.1.running_var", "trunk.0.weight", "head.weight"):
        # + 3 becomes + 2.7; then 0.1 * 2.7 + 0.9 * 7 = 6.57
        torch.testing.assert_close(after[name], before[name] + 6.57)


def test_the_teacher_is_in_eval_mode_and_untouched_by_gradients_and_forwards() -> None:
    model, given = tiny.classifier().train(), batch()
    step = MeanTeacherStep(ramp_steps=0, consistency_weight=5.0)
    before = copy.deepcopy(model.state_dict())
    loss, _ = step(model, given)
    loss.backward()
    assert step.teacher is not None
    assert not any(module.training for module in step.teacher.model.modules())
    assert all(p.grad is None and not p.requires_grad for p in step.teacher.model.parameters())
    torch.testing.assert_close(step.teacher.model.state_dict(), before)
    assert model.training
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_gradient_is_the_strong_views() -> None:
    given = batch(labeled=0)
    weak = given.weak.clone().requires_grad_()
    strong = given.images.clone().requires_grad_()
    step = MeanTeacherStep(ramp_steps=0)
    loss, _ = step(tiny.classifier().eval(), dataclasses.replace(given, weak=weak, images=strong))
    loss.backward()
    assert weak.grad is None
    assert float(strong.grad.abs().sum()) > 0


def test_a_missing_view_is_refused() -> None:
    with pytest.raises(ValueError, match="weak view"):
        MeanTeacherStep(ramp_steps=1)(tiny.classifier(), dataclasses.replace(batch(), weak=None))


@pytest.mark.parametrize(
    ("step", "steps", "expected"),
    [(0, 10, math.exp(-5)), (4, 10, math.exp(-1.8)), (10, 10, 1.0), (11, 10, 1.0), (0, 0, 1.0)],
)
def test_the_ramp_by_hand(step: int, steps: int, expected: float) -> None:
    assert ramp_up(step, steps) == pytest.approx(expected)
