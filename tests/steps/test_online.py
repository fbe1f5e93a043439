import dataclasses
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F

from tutelage.steps.online import (
    Beliefs,
    FixMatch,
    FlexMatch,
    FreeMatch,
    OnlinePseudoLabelStep,
    SoftMatch,
    WeakViews,
)
from tutelage.training.batch import Batch

EVEN = torch.tensor([0.5, 0.5])


def batch(labeled: int = 3) -> Batch:
    plain = tiny.batches(1)[0]
    weights = (torch.arange(8) < labeled).float()
    ids = torch.where(weights > 0, -1, torch.arange(8) - labeled)
    return dataclasses.replace(
        plain,
        weights=weights,
        targets=plain.targets * weights[:, None],
        weak=plain.images.flip(3),
        ids=ids,
    )


def views(probs: Any, *, pool: Any, aligned: Any = None, ids: Any = None) -> WeakViews:
    """Weak views whose alignment changes nothing unless it is given."""
    return WeakViews(
        torch.tensor(probs),
        torch.tensor(probs if aligned is None else aligned),
        torch.tensor(pool),
        None if ids is None else torch.tensor(ids),
    )


def step(threshold: float, **options: Any) -> OnlinePseudoLabelStep:
    return OnlinePseudoLabelStep(EVEN, FixMatch(threshold), **options)


def every_method() -> list[Any]:
    return [FixMatch(0.0), FlexMatch(2, 8, 0.0), FreeMatch(2), SoftMatch(2)]


# --- what the methods share


@pytest.mark.parametrize("method", every_method(), ids=lambda m: type(m).__name__)
def test_without_a_pool_it_is_supervised_on_the_weak_view(method: Any) -> None:
    model = tiny.classifier().eval()
    given = batch(labeled=8)
    state = {name: value for name, value in vars(method).items() if isinstance(value, torch.Tensor)}
    online = OnlinePseudoLabelStep(EVEN, method, unlabeled_weight=3.0)
    loss, metrics = online(model, given)
    labels = given.targets.argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(model(given.weak), labels))
    assert float(metrics["pseudo_labeled"]) == 0.0
    torch.testing.assert_close(online.marginal, EVEN)
    for name, value in state.items():
        kept = slice(-1) if name == "marks" else ...  # the last slot is for those of no pool
        torch.testing.assert_close(getattr(method, name)[kept], value[kept])


def test_the_weight_of_a_label_does_not_depend_on_the_pool_beside_it() -> None:
    model = tiny.classifier().eval()
    given = batch(labeled=3)
    loss, _ = step(1.1)(model, given)  # no belief counts
    labels = given.targets[:3].argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(model(given.weak[:3]), labels))


def test_unlabeled_weight_scales_the_unsupervised_part() -> None:
    model, given = tiny.classifier().eval(), batch()
    losses = []
    for weight in (0.0, 1.0, 2.0):
        losses.append(step(0.0, unlabeled_weight=weight)(model, given)[0].item())
    assert losses[1] > losses[0]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)


def test_targets_are_the_methods_beliefs_hard_or_soft() -> None:
    model, given = tiny.classifier().eval(), batch()
    said = torch.tensor([[0.3, 0.7]]).expand(8, 2)
    logits = model(given.images)[3:].detach()
    supervised = step(1.1)(model, given)[0]
    for hard, target in ((True, torch.tensor([0.0, 1.0])), (False, said[0])):
        online = OnlinePseudoLabelStep(
            EVEN, lambda _: Beliefs(said, torch.full((8,), 0.5)), hard=hard
        )
        loss, metrics = online(model, given)
        by_hand = 0.5 * F.cross_entropy(logits, target.expand(5, 2))
        torch.testing.assert_close(loss - supervised, by_hand)
        assert float(metrics["pseudo_labeled"]) == pytest.approx(0.5)


def test_the_running_mean_is_of_the_pools_weak_views() -> None:
    model, given = tiny.classifier().eval(), batch(labeled=3)
    online = step(0.9, momentum=0.75)
    online(model, given)
    probs = torch.softmax(model(given.weak)[3:], dim=1).mean(dim=0)
    torch.testing.assert_close(online.marginal, 0.75 * EVEN + 0.25 * probs.detach())
    assert not online.marginal.requires_grad


def test_running_means_keep_their_precision_where_the_forward_has_less() -> None:
    model, given = tiny.classifier().eval(), batch(labeled=3)
    free, soft = FreeMatch(2, momentum=0.0), SoftMatch(2, momentum=0.0)
    seen: list[WeakViews] = []

    def spy(weak: WeakViews) -> Beliefs:
        seen.append(weak)
        soft(weak)
        return free(weak)

    with torch.autocast("cpu", torch.bfloat16):
        online = OnlinePseudoLabelStep(EVEN, spy, momentum=0.0)
        online(model, given)
    probs, aligned = seen[0].probs[3:], seen[0].aligned[3:]
    exact = {"atol": 1e-6, "rtol": 0.0}
    torch.testing.assert_close(online.marginal, probs.mean(dim=0), **exact)
    torch.testing.assert_close(free.marginal, probs.mean(dim=0), **exact)
    torch.testing.assert_close(free.confidence, aligned.amax(dim=1).mean(), **exact)
    torch.testing.assert_close(soft.mean, aligned.amax(dim=1).mean(), **exact)


@pytest.mark.parametrize("method", every_method(), ids=lambda m: type(m).__name__)
def test_beliefs_carry_no_gradient_into_the_weak_view(method: Any) -> None:
    given = batch(labeled=0)
    model = tiny.classifier().eval()
    weak = given.weak.clone().requires_grad_()
    strong = given.images.clone().requires_grad_()
    online = OnlinePseudoLabelStep(EVEN, method, hard=False)
    loss, _ = online(model, dataclasses.replace(given, weak=weak, images=strong))
    loss.backward()
    assert float(strong.grad.abs().sum()) > 0
    assert float(weak.grad.abs().sum()) == 0
    assert not any(v.requires_grad for v in vars(method).values() if isinstance(v, torch.Tensor))


def test_a_penalty_reads_the_strong_views_and_what_was_used_and_is_added() -> None:
    model, given = tiny.classifier().eval(), batch()
    seen: list[torch.Tensor] = []

    def penalty(logits: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
        seen.extend([logits, used])
        return logits.new_tensor(2.5)

    loss, _ = step(0.0, penalty=penalty)(model, given)
    plain, _ = step(0.0)(model, given)
    torch.testing.assert_close(loss, plain + 2.5)
    torch.testing.assert_close(seen[0], model(given.images))
    assert seen[1].tolist() == [0.0] * 3 + [1.0] * 5


def test_a_missing_view_is_refused() -> None:
    with pytest.raises(ValueError, match="weak view"):
        step(0.9)(tiny.classifier(), dataclasses.replace(batch(), weak=None))


# --- where they differ


def test_fixmatch_compares_the_aligned_confidence() -> None:
    weak = views([[0.9, 0.1], [0.45, 0.55]], aligned=[[0.5, 0.5], [0.1, 0.9]], pool=[1.0, 1.0])
    found = FixMatch(0.8)(weak)
    assert found.weights.tolist() == [0.0, 1.0]
    assert torch.equal(found.probs, weak.aligned)


def test_flexmatch_judges_by_the_marks_of_earlier_batches() -> None:
    flex = FlexMatch(2, 4, 0.8)
    first = views(
        [[0.99, 0.01], [0.9, 0.1], [0.3, 0.7], [0.05, 0.95]],
        pool=[0.0, 1.0, 1.0, 1.0],
        ids=[-1, 0, 1, 2],
    )
    assert flex(first).weights.tolist() == [1.0] * 4  # no marks yet: every threshold is 0
    assert flex.marks[:4].tolist() == [0, -1, 1, -1]  # 0.7 is below 0.8; image 3 was not seen
    # Marks: image 0 in class 0. Image 1, sure now, adds one for class 0 after the batch.
    flex.marks[2] = -1
    second = views([[0.85, 0.15], [0.45, 0.55]], pool=[1.0, 1.0], ids=[1, 3])
    # sigma = (1, 0), 3 unused: beta = (1/3, 0), T = (0.8 / 5, 0)
    assert flex(second).weights.tolist() == [1.0, 1.0]
    assert flex.marks[:4].tolist() == [0, 0, -1, -1]


def test_flexmatch_lowers_the_threshold_of_a_class_but_marks_at_the_fixed_one() -> None:
    flex = FlexMatch(2, 10, 0.9)
    flex.marks[:10] = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, -1])
    # sigma = (6, 3): T = (0.9, 0.3)
    weak = views([[0.8, 0.2], [0.2, 0.8], [0.95, 0.05]], pool=[1.0] * 3, ids=[0, 9, 6])
    assert flex(weak).weights.tolist() == [0.0, 1.0, 1.0]
    # Image 0 is unsure and keeps its mark, 9 was used but reached no 0.9, 6 changes sides.
    assert flex.marks[:10].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, -1]


def test_flexmatch_needs_ids() -> None:
    with pytest.raises(ValueError, match="ids"):
        FlexMatch(2, 4, 0.8)(views([[0.9, 0.1]], pool=[1.0]))


def test_freematch_two_steps_by_hand() -> None:
    free = FreeMatch(2, momentum=0.5)
    first = views([[0.1, 0.9], [0.9, 0.1], [0.7, 0.3]], pool=[0.0, 1.0, 1.0])
    # confidence 0.5 -> (0.5 + 0.8) / 2; marginal (0.5, 0.5) -> with (0.8, 0.2); histogram with
    # (1, 0). Thresholds 0.65 and 0.65 * 0.35 / 0.65 = 0.35.
    assert free(first).weights.tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(free.confidence, torch.tensor(0.65))
    torch.testing.assert_close(free.marginal, torch.tensor([0.65, 0.35]))
    torch.testing.assert_close(free.histogram, torch.tensor([0.75, 0.25]))
    second = views([[0.6, 0.4], [0.35, 0.65], [0.1, 0.9]], pool=[1.0, 1.0, 0.0])
    # confidence (0.65 + 0.625) / 2 = 0.6375; marginal (0.65 + 0.475) / 2 = 0.5625 and 0.4375;
    # thresholds 0.6375 and 0.6375 * 0.4375 / 0.5625 = 0.4958
    assert free(second).weights.tolist() == [0.0, 1.0, 1.0]
    torch.testing.assert_close(free.confidence, torch.tensor(0.6375))
    torch.testing.assert_close(free.marginal, torch.tensor([0.5625, 0.4375]))
    torch.testing.assert_close(free.histogram, torch.tensor([0.625, 0.375]))


def test_freematch_confidence_is_of_aligned_beliefs_and_classes_of_unaligned_ones() -> None:
    free = FreeMatch(2, momentum=0.0)
    found = free(views([[0.9, 0.1], [0.7, 0.3]], aligned=[[0.6, 0.4], [0.2, 0.8]], pool=[1.0, 1.0]))
    torch.testing.assert_close(free.confidence, torch.tensor(0.7))
    torch.testing.assert_close(free.marginal, torch.tensor([0.8, 0.2]))
    torch.testing.assert_close(free.histogram, torch.tensor([1.0, 0.0]))
    assert found.weights.tolist() == [0.0, 1.0]  # thresholds 0.7 and 0.7 / 4
    torch.testing.assert_close(found.probs, torch.tensor([[0.6, 0.4], [0.2, 0.8]]))


def test_freematch_fairness_uses_its_own_statistics() -> None:
    free = FreeMatch(2, fairness_weight=0.1)
    free.marginal, free.histogram = torch.tensor([0.6, 0.4]), torch.tensor([0.75, 0.25])
    logits = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]).log()
    # the value is worked out in the test of the loss
    torch.testing.assert_close(free.fairness(logits, torch.ones(3)), torch.tensor(-0.0644732))


def test_softmatch_by_hand() -> None:
    soft = SoftMatch(2, momentum=0.5)
    weak = views(
        [[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]],
        aligned=[[0.5, 0.5], [0.4, 0.6], [0.2, 0.8], [1.0, 0.0]],
        pool=[0.0, 1.0, 1.0, 1.0],
    )
    found = soft(weak)
    # Pool: mean 0.8, variance 0.04. Running: (0.5 + 0.8) / 2 = 0.65 and (1 + 0.04) / 2 = 0.52.
    torch.testing.assert_close(soft.mean, torch.tensor(0.65))
    torch.testing.assert_close(soft.variance, torch.tensor(0.52))
    low = torch.tensor(-(0.05**2) / 1.04).exp()
    torch.testing.assert_close(found.weights[1:], torch.stack([low, *torch.ones(2)]))
    assert torch.equal(found.probs, weak.probs)  # alignment decides weights only
