"""A plan: all that augmentation will do to a batch, as a few small tensors.

``policy`` samples plans; ``apply`` carries them out in one pass over the pixels. A plan holds no
pixels: it can be sampled anywhere, printed, moved to another device and applied again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

GREY = 127.5

COLOR_OPS = (
    "identity",
    "brightness",
    "gamma",
    "invert",
    "posterize",
    "solarize",
    "contrast",
    "autocontrast",
    "equalize",
    "saturation",
    "sharpness",
    "blur",
)
"""Colour operations; ``Plan.ops`` holds positions in this tuple."""
(_, BRIGHTNESS, GAMMA, INVERT, POSTERIZE, SOLARIZE, CONTRAST, AUTOCONTRAST, EQUALIZE, SATURATION,
 SHARPNESS, BLUR) = range(len(COLOR_OPS))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """What happens to each of B images.

    Attributes:
        matrix: (B, 2, 3) from view to canvas coordinates, both x, y in [-1, 1] from edge to edge
            (``torch.nn.functional.affine_grid`` with ``align_corners=False``): all geometry,
            multiplied together.
        ops: (B, N) int64 colour operations in their order, positions in ``COLOR_OPS``.
        amounts: (B, N) strength of each operation; what it means depends on the operation (see the
            module ``ops``).
        color: (B, 3, 3) mixes the channels: the saturations among ``ops``, multiplied together.
        stencil: (B, 3, 3) correlated with each channel in view pixels: the sharpness and blur among
            ``ops``, as one.
        window: (B, 4) box x0, y0, x1, y1 in canvas fractions; operations on statistics look only at
            the pixels in it.
        erase: (B, 4) box x0, y0, x1, y1 in fractions of the view; an empty box erases nothing.
        fill: (B, 3) value 0..255 of what lies outside the canvas and inside the erased box. Colour
            operations do not change it. Images of other than 3 channels get its mean.
    """

    matrix: Tensor
    ops: Tensor
    amounts: Tensor
    color: Tensor
    stencil: Tensor
    window: Tensor
    erase: Tensor
    fill: Tensor

    @classmethod
    def identity(cls, batch: int) -> Plan:
        """The plan that shows each of ``batch`` whole canvases unchanged."""
        stencil = torch.zeros(batch, 3, 3)
        stencil[:, 1, 1] = 1.0
        window = torch.zeros(batch, 4)
        window[:, 2:] = 1.0
        return cls(
            # Copied, as policies write into a fresh plan; ``repeat`` would take four times as long.
            matrix=torch.eye(2, 3).expand(batch, 2, 3).clone(),
            ops=torch.zeros(batch, 0, dtype=torch.int64),
            amounts=torch.zeros(batch, 0),
            color=torch.eye(3).expand(batch, 3, 3).clone(),
            stencil=stencil,
            window=window,
            erase=torch.zeros(batch, 4),
            fill=torch.full((batch, 3), GREY),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The parts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Plan:
        """The same plan on another device."""
        parts = self.tensors().items()
        return Plan(**{name: part.to(device, non_blocking=True) for name, part in parts})

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, index: int | slice | Tensor) -> Plan:
        """The plan of some images; an integer gives a plan of one image."""
        if isinstance(index, int):
            index = range(len(self))[index]
            index = slice(index, index + 1)
        return Plan(**{name: part[index] for name, part in self.tensors().items()})

    def __str__(self) -> str:
        """One line for each image: what is done to it."""
        return "\n".join(f"image {i}: {_words(self, i)}" for i in range(len(self)))


def _words(plan: Plan, i: int) -> str:
    words = []
    if not torch.equal(plan.matrix[i], torch.eye(2, 3, device=plan.matrix.device)):
        words.append(f"matrix {_numbers(plan.matrix[i])}")
    for code, amount in zip(plan.ops[i].tolist(), plan.amounts[i].tolist(), strict=True):
        if code:
            words.append(f"{COLOR_OPS[code]} {amount:.3g}")
    x0, y0, x1, y1 = plan.erase[i].tolist()
    if x1 > x0 and y1 > y0:
        words.append(f"erase {_numbers(plan.erase[i])}")
    return "; ".join(words) or "identity"


def _numbers(part: Tensor) -> str:
    return " ".join(f"{value:.3g}" for value in part.flatten().tolist())
