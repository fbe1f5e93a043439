"""A plan: all that augmentation will do to a batch, as plain tensors.

An image passes through ``matrix -> table -> color -> stencil -> table2 -> erase``; a part that is
not used is the identity. Plans are sampled by ``policy``, carried out by ``apply``, and can be
saved, replayed, moved between devices and printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from tutelage.errors import TutelageError

GREY = 127.5


@dataclass(frozen=True, eq=False)
class Plan:
    """What happens to each of B images.

    Attributes:
        matrix: (B, 2, 3) output coordinates to canvas coordinates, both x, y in [-1, 1] from edge
            to edge (``torch.nn.functional.affine_grid`` with ``align_corners=False``).
        table: (B, 3, 256) new value 0..255 of each grey level and channel; linear in between.
        color: (B, 3, 3) mixes the channels; the result is clamped to 0..255.
        stencil: (B, 3, 3) correlates each channel in output pixels (border pixels are kept);
            the result is clamped to 0..255.
        table2: (B, 3, 256) a second table, after the stencil.
        erase: (B, 4) box x0, y0, x1, y1 in fractions of the output; an empty box erases nothing.
        fill: (B, 3) value 0..255 of what lies outside the canvas and inside the erased box. Colour
            operations do not change it.
    """

    matrix: Tensor
    table: Tensor
    color: Tensor
    stencil: Tensor
    table2: Tensor
    erase: Tensor
    fill: Tensor

    @classmethod
    def identity(cls, batch: int, device: torch.device | str = "cpu") -> Plan:
        """The plan that shows each of ``batch`` whole canvases unchanged."""
        levels = torch.arange(256.0, device=device).expand(batch, 3, 256)
        delta = torch.zeros(3, 3, device=device)
        delta[1, 1] = 1.0
        return cls(
            matrix=torch.eye(2, 3, device=device).repeat(batch, 1, 1),
            table=levels.clone(),
            color=torch.eye(3, device=device).repeat(batch, 1, 1),
            stencil=delta.repeat(batch, 1, 1),
            table2=levels.clone(),
            erase=torch.zeros(batch, 4, device=device),
            fill=torch.full((batch, 3), GREY, device=device),
        )

    @classmethod
    def cat(cls, plans: Iterable[Plan]) -> Plan:
        """Join plans along the batch."""
        parts = [plan.tensors() for plan in plans]
        return cls(**{name: torch.cat([part[name] for part in parts]) for name in _NAMES})

    def tensors(self) -> dict[str, Tensor]:
        """The parts by name."""
        return {name: getattr(self, name) for name in _NAMES}

    def to(self, device: torch.device | str) -> Plan:
        """The same plan on another device."""
        return Plan(**{name: part.to(device) for name, part in self.tensors().items()})

    def __len__(self) -> int:
        """Number of images."""
        return len(self.matrix)

    def __getitem__(self, index: int | slice | Tensor) -> Plan:
        """The plan of some images; one index gives a plan of one image."""
        if isinstance(index, int):
            index = range(len(self))[index]
            index = slice(index, index + 1)
        return Plan(**{name: part[index] for name, part in self.tensors().items()})

    def used(self, name: str) -> Tensor:
        """(B,) bool: which images do something in the part ``name``."""
        part: Tensor = getattr(self, name)
        if name == "erase":
            return (part[:, 2] > part[:, 0]) & (part[:, 3] > part[:, 1])
        still: Tensor = getattr(Plan.identity(1, part.device), name)
        return (part != still).flatten(1).any(dim=1)

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
        """One line an image: the parts that are used."""
        used = {name: self.used(name).tolist() for name in _NAMES}
        return "\n".join(
            f"image {i}: "
            + ("; ".join(_words(name, self, i) for name in _NAMES if used[name][i]) or "identity")
            for i in range(len(self))
        )


_NAMES = tuple(field.name for field in fields(Plan))


def _words(name: str, plan: Plan, i: int) -> str:
    part = getattr(plan, name)[i]
    if name.startswith("table"):
        levels = range(0, 256, 51)
        pairs = ", ".join(f"{level}>{part[1, level]:.0f}" for level in levels)
        return f"{name} (green) {pairs}"
    numbers = " ".join(f"{value:.3g}" for value in part.flatten().tolist())
    return f"{name} {numbers}"
