"""CutMix and mixup on probabilities and weights, as mixings that can be replayed.

A mixing is drawn once and then carried out on images of any size, so that teacher and student see
the same mixed picture, and on any targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from tutelage.errors import TutelageError

_GRID = 32  # boxes end on pixel edges at every size that is a multiple of this


@dataclass(frozen=True, eq=False)
class Mix:
    """Each image i keeps the share ``lam[i]`` and takes the rest from image ``perm[i]``.

    Attributes:
        perm: (B,) int64 the partners.
        lam: (B,) the kept share, with a box exactly one minus the box's area.
        box: (B, 4) x0, y0, x1, y1 in fractions: what is taken from the partner; None blends whole
            images.
    """

    perm: Tensor
    lam: Tensor
    box: Tensor | None = None

    def images(self, images: Tensor) -> Tensor:
        """Mix images (B, C, H, W) of any size."""
        kept = self._kept(*images.shape[2:]).to(images)
        partners = images[self.perm.to(images.device)]
        return torch.lerp(partners, images, kept)

    def targets(self, targets: Tensor) -> Tensor:
        """Mix targets (B, K), or any (B, ...), by the shares."""
        lam = self.lam.to(targets).view(-1, *[1] * (targets.ndim - 1))
        return torch.lerp(targets[self.perm.to(targets.device)], targets, lam)

    def weighted(self, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mix targets (B, K) of weights (B,).

        The cross-entropy with the result, times its weight, is the mixture of both images'
        weighted cross-entropies; a partner of weight zero leaves only its pixels.
        """
        mixed = self.targets(weights)
        shares = self.targets(targets * weights[:, None]) / mixed.clamp(min=1e-12)[:, None]
        return torch.where(mixed[:, None] > 0, shares, self.targets(targets)), mixed

    def _kept(self, height: int, width: int) -> Tensor:
        """(B, 1, H, W) or (B, 1, 1, 1) share of the image itself in each pixel."""
        if self.box is None:
            return self.lam[:, None, None, None]
        x0, y0, x1, y1 = self.box[:, :, None].unbind(dim=1)
        columns, rows = _overlap(x0, x1, width), _overlap(y0, y1, height)
        return 1.0 - rows[:, None, :, None] * columns[:, None, None, :]


def _overlap(start: Tensor, end: Tensor, size: int) -> Tensor:
    """(B, size) the fraction of each pixel that lies in [start, end] (B, 1)."""
    edges = torch.arange(size, device=start.device)
    return (
        torch.minimum(end * size, edges + 1.0)
        .sub(torch.maximum(start * size, edges))
        .clamp(min=0.0)
    )


def _draw(batch: int, alpha: float, generator: Generator) -> tuple[Tensor, Tensor]:
    if alpha <= 0:
        raise TutelageError(f"alpha is {alpha}; a mixing needs alpha > 0 (leave it out for none)")
    perm = torch.randperm(batch, generator=generator)
    # torch's public Beta takes no generator.
    seed = int(torch.randint(2**62, (), generator=generator))
    share = np.random.default_rng(seed).beta(alpha, alpha, batch)
    return perm, torch.from_numpy(share).float()


def draw_mixup(batch: int, generator: Generator, alpha: float = 0.2) -> Mix:
    """Draw a mixup (Zhang et al. 2018, arXiv:1710.09412): shares from Beta(alpha, alpha)."""
    return Mix(*_draw(batch, alpha, generator))


def draw_cutmix(batch: int, generator: Generator, alpha: float = 1.0) -> Mix:
    """Draw a CutMix (Yun et al. 2019, arXiv:1905.04899): a box of area 1 - Beta(alpha, alpha).

    The box is clipped at the image's edge and its corners are put on a 1/32 grid; the share is
    that of the box that remains.
    """
    perm, share = _draw(batch, alpha, generator)
    half = (1 - share).sqrt()[:, None] / 2
    center = torch.rand(batch, 2, generator=generator)
    corners = torch.cat([center - half, center + half], dim=1).clamp(0.0, 1.0)
    box = (corners * _GRID).round() / _GRID
    lam = 1 - (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return Mix(perm, lam, box)


def cutmix(
    images: Tensor, targets: Tensor, weights: Tensor, generator: Generator, alpha: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """CutMix images (B, C, H, W), targets (B, K) and weights (B,) within the batch.

    Raises:
        TutelageError: alpha is not positive.
    """
    mix = draw_cutmix(len(images), generator, alpha)
    return mix.images(images), *mix.weighted(targets, weights)


def mixup(
    images: Tensor, targets: Tensor, weights: Tensor, generator: Generator, alpha: float = 0.2
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup images (B, C, H, W), targets (B, K) and weights (B,) within the batch.

    Raises:
        TutelageError: alpha is not positive.
    """
    mix = draw_mixup(len(images), generator, alpha)
    return mix.images(images), *mix.weighted(targets, weights)
