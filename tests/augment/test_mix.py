"""Mixing: the share is the clipped box's, whatever the size, and replays exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tutelage.augment import (
    CutMix,
    MixUp,
    draw_cutmix,
    draw_mixup,
)
from tutelage.system.errors import TutelageError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (50, 37)])
def test_cutmix_share_is_the_clipped_box(size):
    n = 256
    mix = draw_cutmix(n, seeded(), alpha=1.0)
    own = torch.arange(float(n))[:, None, None, None].expand(n, 1, *size)
    partners = mix.perm.float()[:, None, None, None]
    kept = (mix.images(own) - partners) / (own - partners)
    moved = mix.perm != torch.arange(n)
    torch.testing.assert_close(kept.mean((1, 2, 3))[moved], mix.lam[moved], atol=1e-4, rtol=0)
    if size[0] % 32 == 0 and size[1] % 32 == 0:
        assert ((kept[moved] < 1e-5) | (kept[moved] > 1 - 1e-5)).all()  # whole pixels
    targets, weights = mix.weighted(torch.eye(n), torch.ones(n))
    torch.testing.assert_close(targets.diagonal()[moved], mix.lam[moved])
    torch.testing.assert_close(weights, torch.ones(n))


def test_boxes_are_clipped_and_on_the_grid():
    mix = draw_cutmix(2000, seeded(), alpha=1.0)
    assert mix.box.min() >= 0
    assert mix.box.max() <= 1
    assert torch.equal(mix.box * 32, (mix.box * 32).round())
    area = (mix.box[:, 2:] - mix.box[:, :2]).prod(1)
    assert torch.equal(mix.lam, 1 - area)
    # Clipping makes the kept share larger than Beta(1, 1) on average: 0.5 before.
    assert mix.lam.mean() > 0.58


def test_partner_and_target_belong_together():
    images = torch.eye(6)[:, :, None, None].expand(6, 6, 32, 32)  # channel = identity
    for mix in (draw_cutmix(6, seeded(3)), draw_mixup(6, seeded(3), alpha=1.0)):
        assert sorted(mix.perm.tolist()) == list(range(6))
        shares = mix.images(images).mean((2, 3))
        torch.testing.assert_close(shares, mix.targets(torch.eye(6)), atol=1e-5, rtol=0)


def test_weighted_loss_is_the_mixture_of_losses():
    generator = seeded(5)
    logits = torch.randn(7, 4, generator=generator)
    targets = torch.rand(7, 4, generator=generator).softmax(1)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.0, 1.0, 1.0])
    mix = draw_mixup(7, generator, alpha=1.0)
    mixed, share = mix.weighted(targets, weights)
    ours = share * F.cross_entropy(logits, mixed, reduction="none")
    own = weights * F.cross_entropy(logits, targets, reduction="none")
    other = weights[mix.perm] * F.cross_entropy(logits, targets[mix.perm], reduction="none")
    torch.testing.assert_close(ours, mix.lam * own + (1 - mix.lam) * other)
    torch.testing.assert_close(mixed.sum(1), torch.ones(7))


def test_weight_zero_throughout_keeps_probabilities():
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    mixed, share = draw_mixup(2, seeded()).weighted(targets, torch.zeros(2))
    assert torch.equal(share, torch.zeros(2))
    torch.testing.assert_close(mixed.sum(1), torch.ones(2))


@pytest.mark.parametrize("draw", [draw_cutmix, draw_mixup])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_and_nothing_in_place(draw, batch):
    images = torch.rand(batch, 3, 32, 32, generator=seeded(1))
    targets, weights = torch.eye(5)[:batch], torch.ones(batch)
    before = images.clone(), targets.clone(), weights.clone()

    def mixed_by(seed):
        mix = draw(batch, seeded(seed))
        return mix.images(images), *mix.weighted(targets, weights)

    mixed, again = mixed_by(2), mixed_by(2)
    for one, two, original in zip(mixed, again, before, strict=True):
        assert torch.equal(one, two)
        assert one.shape == original.shape
    for value, original in zip((images, targets, weights), before, strict=True):
        assert torch.equal(value, original)
    if batch == 1:
        torch.testing.assert_close(mixed[0], images)
    if batch == 5:
        assert not torch.equal(mixed[0], mixed_by(3)[0])


def test_alpha_is_alive_and_checked():
    near = draw_mixup(4000, seeded(), alpha=0.1).lam
    even = draw_mixup(4000, seeded(), alpha=8.0).lam
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert near.var().item() == pytest.approx(1 / 4.8, rel=0.1)
    assert even.var().item() == pytest.approx(1 / 68, rel=0.1)
    assert near.mean().item() == pytest.approx(0.5, abs=0.03)
    with pytest.raises(TutelageError, match="alpha is 0"):
        draw_cutmix(2, seeded(), alpha=0)


@pytest.mark.parametrize("kind", [CutMix, MixUp])
def test_transforms_of_a_batch(kind):
    images, labels = torch.rand(6, 3, 32, 32, generator=seeded()), torch.arange(6) % 3
    mixed, targets = kind(num_classes=3, generator=seeded(4))(images, labels)
    draw = draw_cutmix if kind is CutMix else draw_mixup
    mix = draw(6, seeded(4))
    assert torch.equal(mixed, mix.images(images))
    torch.testing.assert_close(targets, mix.targets(torch.eye(3)[labels]))
    again, same = kind(generator=seeded(4))(images, torch.eye(3)[labels])
    assert torch.equal(again, mixed)
    assert torch.equal(same, targets)
    with pytest.raises(TutelageError, match="num_classes"):
        kind()(images, labels)
    with pytest.raises(TutelageError, match="go from 0 to 2, but num_classes is 2"):
        kind(num_classes=2)(images, labels)
    with pytest.raises(TutelageError, match=r"shape \(6, 1\)"):
        kind(num_classes=2)(images, labels[:, None])


def test_whole_numbers_stay_whole():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    mix = draw_mixup(4, seeded(1), alpha=1.0)
    mixed = mix.images(images)
    assert mixed.dtype == torch.uint8
    exact = mix.images(images.float())
    assert (mixed.float() - exact).abs().max() <= 0.5
