import dataclasses

import pytest
import tiny
import torch
import torch.nn.functional as F

from tutelage.batch import Batch
from tutelage.steps.online import OnlinePseudoLabelStep

EVEN = torch.tensor([0.5, 0.5])


def batch(labeled: int = 3) -> Batch:
    plain = tiny.batches(1)[0]
    weights = (torch.arange(8) < labeled).float()
    return dataclasses.replace(
        plain, weights=weights, targets=plain.targets * weights[:, None], weak=plain.images.flip(3)
    )


def test_without_a_pool_it_is_supervised_on_the_weak_view() -> None:
    model = tiny.classifier().eval()
    given = batch(labeled=8)
    step = OnlinePseudoLabelStep(EVEN, threshold=0.0, unlabeled_weight=3.0)
    loss, metrics = step(model, given)
    labels = given.targets.argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(model(given.weak), labels))
    assert float(metrics["pseudo_labeled"]) == 0.0
    torch.testing.assert_close(step.marginal, EVEN)


def test_the_weight_of_a_label_does_not_depend_on_the_pool_beside_it() -> None:
    model = tiny.classifier().eval()
    step = OnlinePseudoLabelStep(EVEN, threshold=1.1, unlabeled_weight=1.0)  # no belief counts
    given = batch(labeled=3)
    loss, _ = step(model, given)
    labels = given.targets[:3].argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(model(given.weak[:3]), labels))


def test_unlabeled_weight_scales_the_unsupervised_part() -> None:
    model, given = tiny.classifier().eval(), batch()
    losses = []
    for weight in (0.0, 1.0, 2.0):
        step = OnlinePseudoLabelStep(EVEN, threshold=0.0, unlabeled_weight=weight)
        losses.append(step(model, given)[0].item())
    assert losses[1] > losses[0]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)


def test_soft_and_hard_targets_differ() -> None:
    model, given = tiny.classifier().eval(), batch()
    found = [
        OnlinePseudoLabelStep(EVEN, threshold=0.0, unlabeled_weight=1.0, hard=hard)(model, given)[
            0
        ].item()
        for hard in (True, False)
    ]
    assert found[0] != pytest.approx(found[1])


def test_the_running_mean_is_of_the_pools_weak_views() -> None:
    model, given = tiny.classifier().eval(), batch(labeled=3)
    step = OnlinePseudoLabelStep(EVEN, threshold=0.9, unlabeled_weight=1.0, momentum=0.75)
    step(model, given)
    probs = torch.softmax(model(given.weak)[3:], dim=1).mean(dim=0)
    torch.testing.assert_close(step.marginal, 0.75 * EVEN + 0.25 * probs.detach())
    assert not step.marginal.requires_grad


def test_beliefs_carry_no_gradient_into_the_weak_view() -> None:
    given = batch(labeled=0)
    model = tiny.classifier().eval()
    weak = given.weak.clone().requires_grad_()
    strong = given.images.clone().requires_grad_()
    step = OnlinePseudoLabelStep(EVEN, threshold=0.0, unlabeled_weight=1.0, hard=False)
    loss, _ = step(model, dataclasses.replace(given, weak=weak, images=strong))
    loss.backward()
    assert float(strong.grad.abs().sum()) > 0
    assert float(weak.grad.abs().sum()) == 0


def test_a_missing_view_is_refused() -> None:
    step = OnlinePseudoLabelStep(EVEN, threshold=0.9, unlabeled_weight=1.0)
    with pytest.raises(ValueError, match="weak view"):
        step(tiny.classifier(), dataclasses.replace(batch(), weak=None))
