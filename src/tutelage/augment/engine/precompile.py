"""Compiles the CPU kernel for what training asks of it; ``ahead`` runs this in a process."""

from __future__ import annotations

import torch

from tutelage.augment.apply import apply
from tutelage.augment.policy import Center


def compile_kernel() -> None:
    """Make a view as training does, for which numba compiles the kernel unless it has."""
    canvas = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    plan = Center(1.0).plan(torch.ones(1), torch.Generator().manual_seed(0))
    apply(canvas, plan, 8, backend="cpu")


if __name__ == "__main__":
    compile_kernel()
