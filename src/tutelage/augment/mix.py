"""CutMix and mixup on probabilities and weights, as mixings that can be replayed.

A mixing is drawn once and then carried out on images of any size, so that teacher and student see
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
    """Each image i keeps the share ``lam[i]`` and takes the rest from image ``perm[i]``.

    Attributes:
        perm: (B,) int64 the partners.
        lam: (B,) the kept share: one minus the box's area times what is taken there.
        box: (B, 4) x0, y0, x1, y1 in fractions: where the partner shows.
        taken: (B,) how much of the box is the partner's: 1 for CutMix, less for mixup.
    """

    perm: Tensor
    lam: Tensor
    box: Tensor
    taken: Tensor

    @classmethod
    def of(cls, perm: Tensor, box: Tensor, taken: Tensor) -> Mix:
        """The mixing whose share is exactly that of the box."""
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        return cls(perm, 1 - taken * area, box, taken)

    def part(self, at: Tensor) -> tuple[Tensor, Mix]:
        """The mixing of some images of the batch alone.

        Args:
            at: (b,) int64 their positions.

        Returns:
            Positions (n,) of the images it needs, those ``at`` first and their other partners
            after them; and the mixing of the first b of these.
        """
        others = self.perm[at][~torch.isin(self.perm[at], at)]
        needed = torch.cat([at, others])
        place = torch.empty_like(self.perm)
        place[needed] = torch.arange(len(needed))
        return needed, Mix(place[self.perm[at]], self.lam[at], self.box[at], self.taken[at])

    def images(self, images: Tensor) -> Tensor:
        """Mix images (B, C, H, W) of any size; more than B are partners only."""
        if images.device.type == "cpu" and (corners := self._corners(*images.shape[2:])):
            return self._paste(images, corners)
        kept = self._kept(*images.shape[2:]).to(images.device)
        partners = images[self.perm.to(images.device)]
        images = images[: len(self.perm)]
        if images.is_floating_point():
            return torch.lerp(partners, images, kept.to(images.dtype))
        return torch.lerp(partners.float(), images.float(), kept).round().to(images.dtype)

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

    def _corners(self, height: int, width: int) -> list[list[int]] | None:
        """Each box's x0, y0, x1, y1 in pixels, if all are CutMix's and end on pixels' edges."""
        exact = self.box * torch.tensor([width, height, width, height])
        if (self.taken != 1).any() or (exact != exact.round()).any():
            return None
        corners: list[list[int]] = exact.int().tolist()
        return corners

    def _paste(self, images: Tensor, corners: list[list[int]]) -> Tensor:
        """Only the boxes are written: five times as fast on a CPU as weighing every pixel."""
        mixed = images[: len(self.perm)].clone()
        for i, (partner, (x0, y0, x1, y1)) in enumerate(
            zip(self.perm.tolist(), corners, strict=True)
        ):
            mixed[i, :, y0:y1, x0:x1] = images[partner, :, y0:y1, x0:x1]
        return mixed

    def _kept(self, height: int, width: int) -> Tensor:
        """(B, 1, H, W) share of the image itself in each pixel."""
        x0, y0, x1, y1 = self.box[:, :, None].unbind(dim=1)
        columns, rows = _overlap(x0, x1, width), _overlap(y0, y1, height)
        return 1.0 - (rows * self.taken[:, None])[:, None, :, None] * columns[:, None, None, :]


def _overlap(start: Tensor, end: Tensor, size: int) -> Tensor:
    """(B, size) the fraction of each pixel that lies in [start, end] (B, 1)."""
    edges = torch.arange(size, device=start.device)
    return (
        torch.minimum(end * size, edges + 1.0)
        .sub(torch.maximum(start * size, edges))
        .clamp(min=0.0)
    )


def _shares(batch: int, alpha: float, generator: Generator | None, *, per_image: bool) -> Tensor:
    """(B,) draws from Beta(alpha, alpha), or one for all."""
    if alpha <= 0:
        raise TutelageError(f"alpha is {alpha}; a mixing needs alpha > 0 (leave it out for none)")
    # torch's public Beta takes no generator.
    seed = int(torch.randint(2**62, (), generator=generator))
    share = np.random.default_rng(seed).beta(alpha, alpha, batch if per_image else 1)
    return torch.from_numpy(share).float().expand(batch)


def draw_mixup(
    batch: int, generator: Generator | None, alpha: float = 0.2, *, per_image: bool = True
) -> Mix:
    """Draw a mixup (Zhang et al. 2018, arXiv:1710.09412): shares from Beta(alpha, alpha)."""
    perm = torch.randperm(batch, generator=generator)
    share = _shares(batch, alpha, generator, per_image=per_image)
    return Mix.of(perm, torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(batch, 1), 1 - share)


def draw_cutmix(
    batch: int, generator: Generator | None, alpha: float = 1.0, *, per_image: bool = True
) -> Mix:
    """Draw a CutMix (Yun et al. 2019, arXiv:1905.04899): a box of area 1 - Beta(alpha, alpha).

    The box is clipped at the image's edge and its corners are put on a 1/32 grid; the share is
    that of the box that remains.

    Args:
        batch: B.
        generator: source of the draws.
        alpha: of the Beta distribution.
        per_image: each image has a box of its own, else all have the same.
    """
    perm = torch.randperm(batch, generator=generator)
    share = _shares(batch, alpha, generator, per_image=per_image)
    half = (1 - share).sqrt()[:, None] / 2
    center = torch.rand(batch if per_image else 1, 2, generator=generator)
    corners = torch.cat([center - half, center + half], dim=1).clamp(0.0, 1.0)
    return Mix.of(perm, (corners * _GRID).round() / _GRID, torch.ones(batch))


def draw_either(
    batch: int,
    generator: Generator | None,
    *,
    cutmix_alpha: float = 1.0,
    mixup_alpha: float = 0.2,
    cutmix_share: float = 0.5,
    per_image: bool = True,
) -> Mix:
    """Draw a CutMix for some images and a mixup for the others, or one of them for the batch.

    Args:
        batch: B.
        generator: source of the draws.
        cutmix_alpha: of CutMix's Beta distribution.
        mixup_alpha: of mixup's.
        cutmix_share: probability of CutMix.
        per_image: each image draws for itself, else one draw is for all.
    """
    cut = draw_cutmix(batch, generator, cutmix_alpha, per_image=per_image)
    blend = draw_mixup(batch, generator, mixup_alpha, per_image=per_image)
    draws = torch.rand(batch if per_image else 1, generator=generator).expand(batch)
    chosen = draws < cutmix_share
    box = torch.where(chosen[:, None], cut.box, blend.box)
    return Mix.of(cut.perm, box, torch.where(chosen, cut.taken, blend.taken))


@dataclass(frozen=True)
class CutMix:
    """CutMix as a transform of a batch: called with images (B, C, H, W) and labels.

    Attributes:
        alpha: of the Beta distribution of the kept share.
        num_classes: K, needed where labels are class numbers (B,).
        per_image: each image has a box of its own, else all have the same.
        generator: source of the draws; None is torch's own.
    """

    alpha: float = 1.0
    num_classes: int | None = None
    per_image: bool = True
    generator: Generator | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images, and targets (B, K) as probabilities.

        Args:
            images: (B, C, H, W).
            labels: (B,) class numbers or (B, K) probabilities.

        Raises:
            TutelageError: the labels are neither.
        """
        mix = draw_cutmix(len(images), self.generator, self.alpha, per_image=self.per_image)
        return mix.images(images), mix.targets(probabilities(labels, self.num_classes))


@dataclass(frozen=True)
class MixUp:
    """Mixup as a transform of a batch; see ``CutMix``."""

    alpha: float = 0.2
    num_classes: int | None = None
    per_image: bool = True
    generator: Generator | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images, and targets (B, K) as probabilities; see ``CutMix``."""
        mix = draw_mixup(len(images), self.generator, self.alpha, per_image=self.per_image)
        return mix.images(images), mix.targets(probabilities(labels, self.num_classes))


def probabilities(labels: Tensor, num_classes: int | None) -> Tensor:
    """(B, K) targets of class numbers (B,), or the probabilities (B, K) that they already are.

    Raises:
        TutelageError: class numbers without ``num_classes``, or beyond it.
    """
    if labels.is_floating_point() and labels.ndim == 2:
        return labels
    if labels.is_floating_point() or labels.ndim != 1:
        raise TutelageError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype}; expected class "
            "numbers (B,) or probabilities (B, K)"
        )
    if num_classes is None:
        raise TutelageError("labels are class numbers: num_classes says how many there are")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise TutelageError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, "
            f"but num_classes is {num_classes}"
        )
    return torch.nn.functional.one_hot(labels.long(), num_classes).float()


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
