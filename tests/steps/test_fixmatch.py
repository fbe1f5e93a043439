import dataclasses
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.steps.fixmatch import (
    FixMatch,
    OnlineStep,
    Targets,
    WeakViews,
    align,
    confident,
    running_mean,
)
from tutelage.steps.thresholds import FlexMatch, FreeMatch, SoftMatch
from tutelage.training.batch import Batch

EVEN = torch.tensor([0.5, 0.5])


def batch(labeled: int = 3) -> Batch:
    """Weak views of eight images, the first of them labelled, and strong views of the others."""
    plain = tiny.batches(1)[0]
    weights = (torch.arange(8) < labeled).float()
    return dataclasses.replace(
        plain,
        weights=weights,
        targets=plain.targets * weights[:, None],
        strong=plain.images[labeled:].flip(3),
        ids=torch.arange(8 - labeled),
    )


def step(threshold: float, **options: Any) -> OnlineStep:
    return OnlineStep(EVEN, FixMatch(threshold), **options)


def every_method() -> list[Any]:
    return [FixMatch(0.0), FlexMatch(2, 8, 0.0), FreeMatch(2), SoftMatch(2)]


def statistics(method: Any) -> dict[str, torch.Tensor]:
    return dict(method.named_buffers()) if isinstance(method, torch.nn.Module) else {}


# --- what the methods share


@pytest.mark.parametrize("method", every_method(), ids=lambda m: type(m).__name__)
def test_without_a_pool_it_is_supervised_on_the_weak_view(method: Any) -> None:
    model = tiny.classifier().eval()
    given = batch(labeled=8)
    before = {name: value.clone() for name, value in statistics(method).items()}
    online = OnlineStep(EVEN, method, penalty=getattr(method, "fairness", None))
    loss, metrics = online(model, given)
    labels = given.targets.argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(model(given.images), labels))
    assert float(metrics["pseudo_labeled"]) == 0.0
    torch.testing.assert_close(online.marginal, EVEN)
    for name, value in before.items():
        torch.testing.assert_close(statistics(method)[name], value)


def test_targets_are_the_methods_hard_or_soft() -> None:
    model, given = tiny.classifier().eval(), batch()
    said = torch.tensor([[0.3, 0.7]]).expand(5, 2)
    logits = model(given.strong).detach()
    supervised = step(1.1)(model, given)[0]
    for hard, target in ((True, torch.tensor([0.0, 1.0])), (False, said[0])):
        online = OnlineStep(EVEN, lambda _: Targets(said, torch.full((5,), 0.5)), hard=hard)
        loss, metrics = online(model, given)
        by_hand = 0.5 * F.cross_entropy(logits, target.expand(5, 2))
        torch.testing.assert_close(loss - supervised, by_hand)
        assert float(metrics["pseudo_labeled"]) == pytest.approx(0.5)


def test_the_running_mean_is_of_the_pools_weak_views() -> None:
    model, given = tiny.classifier().eval(), batch(labeled=3)
    online = step(0.9, momentum=0.75)
    online(model, given)
    probs = torch.softmax(model(given.images)[3:], dim=1).mean(dim=0)
    torch.testing.assert_close(online.marginal, 0.75 * EVEN + 0.25 * probs.detach())
    assert not online.marginal.requires_grad


def test_running_means_keep_their_precision_where_the_forward_has_less() -> None:
    model, given = tiny.classifier().eval(), batch(labeled=3)
    free, soft = FreeMatch(2, momentum=0.0), SoftMatch(2, momentum=0.0)
    seen: list[WeakViews] = []

    def spy(weak: WeakViews) -> Targets:
        seen.append(weak)
        soft(weak)
        return free(weak)

    with torch.autocast("cpu", torch.bfloat16):
        online = OnlineStep(EVEN, spy, momentum=0.0)
        online(model, given)
    probs, aligned = seen[0].probs, seen[0].aligned
    assert probs.shape == (5, 2)
    exact = {"atol": 1e-6, "rtol": 0.0}
    torch.testing.assert_close(online.marginal, probs.mean(dim=0), **exact)
    torch.testing.assert_close(free.marginal, probs.mean(dim=0), **exact)
    torch.testing.assert_close(free.confidence, aligned.amax(dim=1).mean(), **exact)
    torch.testing.assert_close(soft.mean, aligned.amax(dim=1).mean(), **exact)


@pytest.mark.parametrize("method", every_method(), ids=lambda m: type(m).__name__)
def test_targets_carry_no_gradient_into_the_weak_view(method: Any) -> None:
    given = batch(labeled=0)
    model = tiny.classifier().eval()
    weak = given.images.clone().requires_grad_()
    strong = given.strong.clone().requires_grad_()
    online = OnlineStep(EVEN, method, hard=False)
    loss, _ = online(model, dataclasses.replace(given, images=weak, strong=strong))
    loss.backward()
    assert float(strong.grad.abs().sum()) > 0
    assert float(weak.grad.abs().sum()) == 0
    assert not any(value.requires_grad for value in statistics(method).values())


def test_a_penalty_reads_the_strong_views_and_what_was_used_and_is_added() -> None:
    model, given = tiny.classifier().eval(), batch()
    seen: list[torch.Tensor] = []

    def penalty(logits: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
        seen.extend([logits, used])
        return logits.new_tensor(2.5)

    loss, _ = step(0.0, penalty=penalty)(model, given)
    plain, _ = step(0.0)(model, given)
    torch.testing.assert_close(loss, plain + 2.5)
    torch.testing.assert_close(seen[0], model(given.strong))
    assert seen[1].tolist() == [1.0] * 5


@pytest.mark.parametrize("lacking", ["strong", "ids"])
def test_a_missing_view_is_refused(lacking: str) -> None:
    with pytest.raises(ValueError, match="strong views of the pool's images"):
        step(0.9)(tiny.classifier(), dataclasses.replace(batch(), **{lacking: None}))


# --- FixMatch


def test_fixmatch_compares_the_aligned_confidence() -> None:
    weak = WeakViews(
        torch.tensor([[0.9, 0.1], [0.45, 0.55]]),
        torch.tensor([[0.5, 0.5], [0.1, 0.9]]),
        torch.arange(2),
    )
    found = FixMatch(0.8)(weak)
    assert found.weights.tolist() == [0.0, 1.0]
    assert torch.equal(found.probs, weak.aligned)


def test_each_class_can_have_its_own_threshold() -> None:
    probs = torch.tensor([[0.7, 0.3], [0.3, 0.7], [0.55, 0.45], [0.45, 0.55]])
    # the second class of the third row reaches 0.4, but it is not that row's best
    assert confident(probs, torch.tensor([0.6, 0.4])).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert confident(probs, 0.6).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert confident(probs, 0.7).tolist() == [1.0, 1.0, 0.0, 0.0]  # at the threshold it counts
    assert not confident(probs, 0.7000001).any()


# --- distribution alignment


def test_align_by_hand() -> None:
    probs = torch.tensor([[0.6, 0.4]])
    found = align(probs, marginal=torch.tensor([0.75, 0.25]), prior=EVEN)
    # 0.6 * 0.5 / 0.75 = 0.4 and 0.4 * 0.5 / 0.25 = 0.8
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 2 / 3]]))


def test_align_survives_a_class_nobody_believes_in() -> None:
    found = align(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0]), EVEN)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0]]))


def test_a_running_mean_of_nothing_stays() -> None:
    found = running_mean(EVEN, torch.tensor([[1.0, 0.0], [0.8, 0.2]]), 0.5)
    torch.testing.assert_close(found, torch.tensor([0.7, 0.3]))
    assert running_mean(EVEN, torch.zeros(0, 2), 0.5) is EVEN


# --- known silent bugs


def test_online_counter_counts_what_the_loss_uses() -> None:
    n = 8
    weights = torch.tensor([1.0, 1.0] + [0.0] * 6)
    weak = torch.tensor([[2.0, 0], [0, 2], [2, 0], [1.2, 0], [0.5, 0], [0, 0.2], [0, 0.6], [0, 3]])
    strong = torch.linspace(-1, 1, 2 * n).view(n, 2)[2:].requires_grad_()
    targets = F.one_hot(torch.tensor([0, 1] + [0] * 6), 2).float()
    images = torch.zeros(n, 3, 2, 2)
    batch = Batch(images, targets, weights, strong=images[2:], ids=torch.arange(6))
    prior = torch.tensor([0.2, 0.8])
    step = OnlineStep(prior, FixMatch(0.7))
    step.marginal = torch.tensor([0.6, 0.4])

    class Fixed(nn.Module):
        def forward(self, _images: Tensor) -> Tensor:
            return torch.cat([weak, strong])

    loss, metrics = step(Fixed(), batch)
    probs = torch.softmax(weak, dim=1)
    marginal = 0.99 * torch.tensor([0.6, 0.4]) + 0.01 * probs[2:].mean(dim=0)
    aligned = probs * prior / marginal
    aligned = aligned / aligned.sum(dim=1, keepdim=True)
    taken = aligned.amax(dim=1)[2:] >= 0.7
    unaligned = probs.amax(dim=1)[2:] >= 0.7
    assert not torch.equal(taken, unaligned)  # else the order could not be told
    assert int(taken.sum()) != int(unaligned.sum())
    assert float(metrics["pseudo_labeled"]) == pytest.approx(float(taken.float().mean()))
    beliefs = aligned.argmax(dim=1)[2:]
    each = F.cross_entropy(strong, beliefs, reduction="none")
    by_hand = F.cross_entropy(weak[:2], targets[:2]) + (each * taken).mean()
    torch.testing.assert_close(loss, by_hand)
    (gradient,) = torch.autograd.grad(loss, strong)
    learned = gradient.abs().sum(dim=1) > 0
    assert torch.equal(learned, taken)
