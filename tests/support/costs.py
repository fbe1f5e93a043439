"""What students cost on a machine that is made up, so that nothing is exported or timed."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.chain.limits import Offer, Shape

PARAMETERS = {"cut": 500, "cut:1": 10, "cut:2": 100, "cut:3": 400, "cut:4": 2000}


class Fake:
    """A machine on which time rises with parameters and pixels; it notes what was timed."""

    def __init__(self, **slower: float) -> None:
        self.timed: list[Shape] = []
        self.slower = slower

    def __call__(self, shapes: Sequence[Shape]) -> list[Offer]:
        self.timed += shapes
        return [self.cost(*shape) for shape in shapes]

    def cost(self, name: str, size: int) -> Offer:
        parameters = PARAMETERS.get(name, 3000)
        latency = 0.1 + parameters * (size / 224) ** 2 / 100
        latency *= self.slower.get(f"{name}@{size}", 1.0)
        return Offer(name, size, parameters, latency, parameters / 100)
