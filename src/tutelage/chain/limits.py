"""Which student keeps the limits of latency and size, measured before it is trained.

The cost of a network does not depend on its weights, so students are exported and timed before
anything is trained, and a limit that no student keeps is reported at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.chain.student import create_student
from tutelage.config import DistillConfig, RunConfig
from tutelage.deploy.bench import onnx_latency
from tutelage.deploy.onnx import export_onnx
from tutelage.models.classifier import Classifier
from tutelage.models.sizes import set_input_size
from tutelage.models.zoo import can_be_cut, count_stages, first_trunk
from tutelage.report.model import DeploymentRow
from tutelage.system.errors import TutelageError


@dataclass(frozen=True)
class Offer:
    """One student that could be trained, and what it costs."""

    student: str  # as the setting of that name: a cut, or a timm architecture
    size: int  # side of its views in pixels
    latency_ms: float  # median of one image on one core, preprocessing included
    megabytes: float  # of the exported file

    def __str__(self) -> str:
        return (
            f"{self.student} at {self.size} px ({self.latency_ms:.2f} ms, {self.megabytes:.2f} MB)"
        )


def measure(config: RunConfig, base: Classifier, name: str, size: int) -> Offer:
    """What a student that is not trained yet costs."""
    model = create_student(config.changed("distill", student=name), base)
    set_input_size(model, size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        export_onnx(model, path)
        return Offer(name, size, onnx_latency(path).p50_ms, path.stat().st_size / 1e6)


def choose_student(
    config: RunConfig, base: Classifier, planned: int, sizes: Sequence[int]
) -> tuple[Offer, str]:
    """The student to train, and a note on why it was chosen.

    It is the one whose views are ``planned`` where that fits the limits; else it has the most
    stages, and then the largest of the falling ``sizes``, with which one does. What the user named
    keeps its stages.
    """
    settings, name = config.distill, config.distill.student
    limits = " and ".join(f"{option} {limit:g}" for limit, option, _ in _limits(settings))

    def keeps(one: Offer) -> bool:
        return not _excess(settings, one.latency_ms, one.megabytes)

    first = measure(config, base, name, planned)
    note = f"the planned student, {first},"
    if keeps(first):
        return first, f"{note} fits {limits}"
    names = [name]
    if name == "cut" and can_be_cut(base):
        names += [f"cut:{n}" for n in range(count_stages(first_trunk(base)) - 1, 0, -1)]
    smallest = []
    for name in names:
        smallest.append(measure(config, base, name, sizes[-1]))
        if keeps(smallest[-1]):
            larger = (measure(config, base, name, size) for size in sizes[:-1])
            found = next(filter(keeps, larger), smallest[-1])
            return found, f"{note} does not fit {limits}; this one takes its place: {found}"
    fastest = min(smallest, key=lambda offer: offer.latency_ms)
    least = min(smallest, key=lambda offer: offer.megabytes)
    said = f"the fastest is {fastest}"
    if least.megabytes < fastest.megabytes:
        said += f", the smallest {least}"
    mend = "allow more than that"
    if settings.max_latency_ms is not None and fastest.latency_ms > settings.max_latency_ms:
        mend += ", or store the images on a smaller --canvas, which takes less time to resize to"
    raise TutelageError(f"no student fits {limits}: {said}, as measured on this machine; {mend}")


def exceeded(settings: DistillConfig, deployed: Sequence[DeploymentRow]) -> list[str]:
    """A note where the finished student exceeds a limit that it kept when it was chosen."""
    return [
        f"the finished student does not keep its limit: {words}; it did when it was chosen, so the "
        "machine may be busy now; measure it again with tutelage bench"
        for row in deployed
        if row["name"] == "student"
        for words in _excess(settings, row["latency_ms_p50"], row["bytes"] / 1e6)
    ]


def _excess(settings: DistillConfig, latency_ms: float, megabytes: float) -> list[str]:
    """Each limit that a student exceeds, in words."""
    figures = {"ms": latency_ms, "MB": megabytes}
    return [
        f"{figures[unit]:.2f} {unit} exceeds {option} {limit:g}"
        for limit, option, unit in _limits(settings)
        if figures[unit] > limit
    ]


def _limits(settings: DistillConfig) -> list[tuple[float, str, str]]:
    """Each limit that was given, its option, and its unit."""
    limits = (
        (settings.max_latency_ms, "--max-latency-ms", "ms"),
        (settings.max_size_mb, "--max-size-mb", "MB"),
    )
    return [(limit, option, unit) for limit, option, unit in limits if limit is not None]
