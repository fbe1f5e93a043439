"""A plan: all that augmentation will do to a batch, as a few small tensors.

``policy`` samples plans; ``apply`` carries them out in one pass over the pixels. A plan knows no
pixels: it can be sampled anywhere, saved, replayed, moved between devices and read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.system.errors import TutelageError

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
    "hue",
    "sharpness",
    "blur",
)
"""Colour operations; ``Plan.ops`` holds positions in this tuple."""
SATURATION, HUE = COLOR_OPS.index("saturation"), COLOR_OPS.index("hue")
SHARPNESS, BLUR = COLOR_OPS.index("sharpness"), COLOR_OPS.index("blur")


@dataclass(frozen=True, eq=False)
class Plan:
    """What happens to each of B images.

    Attributes:
        matrix: (B, 2, 3) view coordinates to canvas coordinates, both x, y in [-1, 1] from edge to
            edge (``torch.nn.functional.affine_grid`` with ``align_corners=False``): all geometry,
            multiplied together.
        ops: (B, N) int64 colour operations in their order, positions in ``COLOR_OPS``.
        amounts: (B, N) strength of each; its meaning is the operation's (see ``ops``).
        color: (B, 3, 3) mixes the channels: the saturations among ``ops``, multiplied together.
        hue: (B,) turns of the colour circle: the sum of those among ``ops``.
        stencil: (B, 3, 3) correlates each channel in view pixels: the sharpness and blur among
            ``ops``, as one.
        window: (B, 4) box x0, y0, x1, y1 in canvas fractions whose pixels count as the image for
            operations on statistics.
        erase: (B, 4) box x0, y0, x1, y1 in fractions of the view; an empty box erases nothing.
        fill: (B, 3) value 0..255 of what lies outside the canvas and inside the erased box. Colour
            operations do not change it. An image of other than 3 channels is filled by the mean.
    """

    matrix: Tensor
    ops: Tensor
    amounts: Tensor
    color: Tensor
    hue: Tensor
    stencil: Tensor
    window: Tensor
    erase: Tensor
    fill: Tensor

    @classmethod
    def identity(cls, batch: int, device: torch.device | str = "cpu") -> Plan:
        """The plan that shows each of ``batch`` whole canvases unchanged."""
        stencil = torch.zeros(batch, 3, 3, device=device)
        stencil[:, 1, 1] = 1.0
        return cls(
            matrix=torch.eye(2, 3, device=device).repeat(batch, 1, 1),
            ops=torch.zeros(batch, 0, dtype=torch.int64, device=device),
            amounts=torch.zeros(batch, 0, device=device),
            color=torch.eye(3, device=device).repeat(batch, 1, 1),
            hue=torch.zeros(batch, device=device),
            stencil=stencil,
            window=torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).repeat(batch, 1),
            erase=torch.zeros(batch, 4, device=device),
            fill=torch.full((batch, 3), GREY, device=device),
        )

    @classmethod
    def cat(cls, plans: Iterable[Plan]) -> Plan:
        """Join plans along the batch; the shorter lists of operations are padded."""
        parts = [plan.tensors() for plan in plans]
        longest = max(part["ops"].shape[1] for part in parts)
        for part in parts:
            for name in ("ops", "amounts"):
                part[name] = F.pad(part[name], (0, longest - part[name].shape[1]))
        return cls(**{name: torch.cat([part[name] for part in parts]) for name in _NAMES})

    def tensors(self) -> dict[str, Tensor]:
        """The parts by name."""
        return {name: getattr(self, name) for name in _NAMES}

    def to(self, device: torch.device | str) -> Plan:
        """The same plan on another device."""
        return Plan(
            **{name: part.to(device, non_blocking=True) for name, part in self.tensors().items()}
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.matrix)

    def __getitem__(self, index: int | slice | Tensor) -> Plan:
        """The plan of some images; one index gives a plan of one image."""
        if isinstance(index, int):
            index = range(len(self))[index]
            index = slice(index, index + 1)
        return Plan(**{name: part[index] for name, part in self.tensors().items()})

    def save(self, path: Path | str) -> None:
        """Write the plan as safetensors."""
        from safetensors.torch import save_file

        save_file({name: part.contiguous().cpu() for name, part in self.tensors().items()}, path)

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan that ``save`` wrote.

        Raises:
            TutelageError: the file holds other tensors than a plan's.
        """
        from safetensors.torch import load_file

        parts = load_file(path)
        if set(parts) != set(_NAMES):
            raise TutelageError(
                f"{path} holds the tensors {sorted(parts)}, not a plan's {sorted(_NAMES)}; "
                "give a file that Plan.save wrote"
            )
        return cls(**parts)

    def __str__(self) -> str:
        """One line an image: what is done to it."""
        return "\n".join(f"image {i}: {_words(self, i)}" for i in range(len(self)))


_NAMES = tuple(field.name for field in fields(Plan))


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
