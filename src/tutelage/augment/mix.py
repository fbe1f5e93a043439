"""CutMix and mixup on probabilities and weights.

A ``Mix`` is drawn once and then carried out on images of any size, so that teacher and student see
the same mixed picture, and on any targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from tutelage.system.errors import TutelageError

_GRID = 32  # boxes end on pixel edges at every size that is a multiple of this


@dataclass(frozen=True, eq=False)
class Mix:
    """Each image i keeps the share ``lam[i]`` of itself and takes the rest from image ``perm[i]``.

    Attributes:
        perm: (B,) int64 positions of the partners.
        lam: (B,) the kept share: 1 - ``taken`` times the box's area.
        box: (B, 4) x0, y0, x1, y1 in fractions: where the partner shows.
        taken: (B,) the partner's weight inside the box: 1 for CutMix, less for mixup.
    """

    perm: Tensor
    lam: Tensor
    box: Tensor
    taken: Tensor

    @classmethod
    def of(cls, perm: Tensor, box: Tensor, taken: Tensor) -> Mix:
        """The mixing whose kept share follows exactly from the box."""
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        return cls(perm, 1 - taken * area, box, taken)

    def part(self, at: Tensor) -> tuple[Tensor, Mix]:
        """The mixing of only some images of the batch, at positions (b,) int64.

        Gives the positions (n,) of the images it needs (first ``at``, then the partners that are
        not among them), and the mixing of the first b of these n.
        """
        others = self.perm[at][~torch.isin(self.perm[at], at)]
        needed = torch.cat([at, others])
        place = torch.empty_like(self.perm)
        place[needed] = torch.arange(len(needed))
        return needed, Mix(place[self.perm[at]], self.lam[at], self.box[at], self.taken[at])

    def images(self, images: Tensor) -> Tensor:
        """Mix images (B, C, H, W) of any size; images after the first B are only partners."""
        if images.device.type == "cpu" and (corners := self._corners(*images.shape[2:])):
            return self._paste(images, corners)
        kept = self._kept(*images.shape[2:]).to(images.device)
        partners = images[self.perm.to(images.device)]
        images = images[: len(self.perm)]
        if images.is_floating_point():
            return torch.lerp(partners, images, kept.to(images.dtype))
        return torch.lerp(partners.float(), images.float(), kept).round().to(images.dtype)

    def targets(self, targets: Tensor) -> Tensor:
        """Mix targets (B, K), or any tensor (B, ...), by the shares."""
        lam = self.lam.to(targets).view(-1, *[1] * (targets.ndim - 1))
        return torch.lerp(targets[self.perm.to(targets.device)], targets, lam)

    def weighted(self, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mix targets (B, K) with weights (B,); returns both.

        The cross-entropy with the mixed target, times the mixed weight, equals the mixture of both
        images' weighted cross-entropies. A partner of weight 0 adds its pixels and no target.
        """
        mixed = self.targets(weights)
        shares = self.targets(targets * weights[:, None]) / mixed.clamp(min=1e-12)[:, None]
        return torch.where(mixed[:, None] > 0, shares, self.targets(targets)), mixed

    def _corners(self, height: int, width: int) -> list[list[int]] | None:
        """The boxes in pixels, or None unless all are CutMix's and end on pixel edges."""
        exact = self.box * torch.tensor([width, height, width, height])
        if (self.taken != 1).any() or (exact != exact.round()).any():
            return None
        corners: list[list[int]] = exact.int().tolist()
        return corners

    def _paste(self, images: Tensor, corners: list[list[int]]) -> Tensor:
        """Write only the boxes: five times as fast on a CPU as weighing every pixel."""
        mixed = images[: len(self.perm)].clone()
        for own, partner, (x0, y0, x1, y1) in zip(mixed, self.perm.tolist(), corners, strict=True):
            own[:, y0:y1, x0:x1] = images[partner, :, y0:y1, x0:x1]
        return mixed

    def _kept(self, height: int, width: int) -> Tensor:
        """(B, 1, H, W) the image's own share of each pixel."""
        x0, y0, x1, y1 = self.box[:, :, None].unbind(dim=1)
        columns, rows = _overlap(x0, x1, width), _overlap(y0, y1, height)
        return 1.0 - (rows * self.taken[:, None])[:, None, :, None] * columns[:, None, None, :]


def _overlap(start: Tensor, end: Tensor, size: int) -> Tensor:
    """(B, size) the fraction of each pixel that lies in [start, end] (B, 1)."""
    edges = torch.arange(size, device=start.device)
    upper, lower = torch.minimum(end * size, edges + 1.0), torch.maximum(start * size, edges)
    return (upper - lower).clamp(min=0.0)


def _shares(batch: int, alpha: float, generator: Generator | None) -> Tensor:
    """(B,) draws from Beta(alpha, alpha)."""
    if alpha <= 0:
        raise TutelageError(f"alpha is {alpha}; a mixing needs alpha > 0 (leave it out for none)")
    # torch's public Beta takes no generator.
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, batch)).float()


def draw_mixup(batch: int, generator: Generator | None, alpha: float = 0.2) -> Mix:
    """Draw a mixup (Zhang et al. 2018, arXiv:1710.09412): shares from Beta(alpha, alpha).

    Raises:
        TutelageError: alpha is not positive.
    """
    perm = torch.randperm(batch, generator=generator)
    share = _shares(batch, alpha, generator)
    return Mix.of(perm, torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(batch, 1), 1 - share)


def draw_cutmix(batch: int, generator: Generator | None, alpha: float = 1.0) -> Mix:
    """Draw a CutMix (Yun et al. 2019, arXiv:1905.04899): a box of area 1 - Beta(alpha, alpha).

    The box is clipped at the image's edge and its corners are rounded to a 1/32 grid; the share is
    that of the box that remains.

    Raises:
        TutelageError: alpha is not positive.
    """
    perm = torch.randperm(batch, generator=generator)
    share = _shares(batch, alpha, generator)
    half = (1 - share).sqrt()[:, None] / 2
    center = torch.rand(batch, 2, generator=generator)
    corners = torch.cat([center - half, center + half], dim=1).clamp(0.0, 1.0)
    return Mix.of(perm, (corners * _GRID).round() / _GRID, torch.ones(batch))


@dataclass(frozen=True)
class CutMix:
    """CutMix as a transform of a batch: called with images (B, C, H, W) and labels.

    Attributes:
        alpha: parameter of the Beta distribution of the kept share.
        num_classes: K, needed where labels are class numbers (B,).
        generator: source of the draws; None is torch's own.
    """

    alpha: float = 1.0
    num_classes: int | None = None
    generator: Generator | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images (B, C, H, W), and targets (B, K) as probabilities.

        Labels are (B,) class numbers or (B, K) probabilities.

        Raises:
            TutelageError: the labels are neither, or ``num_classes`` is missing or too small.
        """
        mix = self._draw(len(images), self.generator, self.alpha)
        return mix.images(images), mix.targets(_probabilities(labels, self.num_classes))

    _draw = staticmethod(draw_cutmix)


@dataclass(frozen=True)
class MixUp(CutMix):
    """Mixup as a transform of a batch; see ``CutMix``."""

    alpha: float = 0.2
    _draw = staticmethod(draw_mixup)


def _probabilities(labels: Tensor, num_classes: int | None) -> Tensor:
    """(B, K) targets from class numbers (B,) or from probabilities (B, K), which are returned."""
    if labels.is_floating_point() and labels.ndim == 2:
        return labels
    if labels.is_floating_point() or labels.ndim != 1:
        raise TutelageError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype}; expected class "
            "numbers (B,) or probabilities (B, K)"
        )
    if num_classes is None:
        raise TutelageError("labels are class numbers; set num_classes to the number of classes")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise TutelageError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, "
            f"but num_classes is {num_classes}"
        )
    return torch.nn.functional.one_hot(labels.long(), num_classes).float()
