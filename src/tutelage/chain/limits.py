"""Which student keeps the limits of latency and size, measured before it is trained.

The cost of a network does not depend on its weights, so students are exported and timed before
anything is trained, and a limit that no student keeps is reported at once.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.chain.student import create_student
from tutelage.config import DistillConfig, RunConfig
from tutelage.deploy.bench import latencies, onnx_call
from tutelage.deploy.onnx import export_onnx
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.models.sizes import set_input_size
from tutelage.models.zoo import can_be_cut, count_stages, first_trunk
from tutelage.report.model import DeploymentRow
from tutelage.system.errors import TutelageError

Shape = tuple[str, int]  # the setting ``student``, and the side of the views in pixels


@dataclass(frozen=True)
class Offer:
    """One student that could be trained, and what it costs."""

    student: str  # as the setting of that name: a cut, or a timm architecture
    size: int  # side of its views in pixels
    parameters: int
    latency_ms: float  # median of one image on one core, preprocessing included
    megabytes: float  # of the exported file

    @property
    def shape(self) -> Shape:
        """What it is, without its cost."""
        return self.student, self.size

    def __str__(self) -> str:
        return (
            f"{self.student} at {self.size} px ({self.latency_ms:.2f} ms, {self.megabytes:.2f} MB)"
        )


Measure = Callable[[Sequence[Shape]], list[Offer]]


class Untrained:
    """Measures students that are not trained yet."""

    def __init__(self, config: RunConfig, base: Classifier) -> None:
        self._config, self._base = config, base
        self._models: dict[str, Classifier] = {}
        self._exported: dict[Shape, tuple[Callable[[], object], float]] = {}

    def __call__(self, shapes: Sequence[Shape]) -> list[Offer]:
        """Export the students, each once, and time them in turns."""
        exported = [self._export(shape) for shape in shapes]
        timed = latencies([call for call, _ in exported])
        return [
            Offer(name, size, count_parameters(self._models[name]), time.p50_ms, megabytes)
            for (name, size), (_, megabytes), time in zip(shapes, exported, timed, strict=True)
        ]

    def _export(self, shape: Shape) -> tuple[Callable[[], object], float]:
        if shape not in self._exported:
            name, size = shape
            if name not in self._models:
                config = self._config.changed("distill", student=name)
                self._models[name] = create_student(config, self._base)
            model = self._models[name]
            set_input_size(model, size)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "student.onnx"
                export_onnx(model, path)
                self._exported[shape] = onnx_call(path), path.stat().st_size / 1e6
        return self._exported[shape]


def choose_student(
    settings: DistillConfig,
    planned: Shape,
    names: Sequence[str],
    sizes: Sequence[int],
    measure: Measure,
) -> tuple[Offer, str]:
    """The student to train, and a note on why it was chosen.

    It is the planned one where that fits the limits, else the slowest that does. A student that
    another beats in latency with as many parameters and as large views is not on offer.
    """
    (first,) = measure([planned])
    note = f"the planned student, {first},"
    if _fitting(settings, [first]):
        return first, f"{note} fits {_limits(settings)}"
    chosen = _slowest_that_fits(settings, _offers(settings, names, sizes, measure), measure)
    note += f" does not fit {_limits(settings)}; the slowest that does takes its place"
    return chosen, f"{note}: {chosen}"


def names_on_offer(config: RunConfig, base: Classifier) -> list[str]:
    """Values of the setting ``student``: every cut where it is "cut", else what the user named.

    Where the trunk cannot be cut there is only the default student in its place.
    """
    student = config.distill.student
    if student != "cut" or not can_be_cut(base):
        return [student]
    return ["cut", *(f"cut:{stages}" for stages in range(1, count_stages(first_trunk(base)) + 1))]


def excess(settings: DistillConfig, latency_ms: float, megabytes: float) -> list[str]:
    """Each limit that a student exceeds, in words."""
    figures = (
        (settings.max_latency_ms, latency_ms, "--max-latency-ms", "ms"),
        (settings.max_size_mb, megabytes, "--max-size-mb", "MB"),
    )
    return [
        f"{value:.2f} {unit} exceeds {option} {limit:g}"
        for limit, value, option, unit in figures
        if limit is not None and value > limit
    ]


def exceeded(settings: DistillConfig, deployed: Sequence[DeploymentRow]) -> list[str]:
    """A note where the finished student exceeds a limit that it kept when it was chosen."""
    student = next((row for row in deployed if row["name"] == "student"), None)
    if student is None:
        return []
    found = excess(settings, student["latency_ms_p50"], student["bytes"] / 1e6)
    return [
        f"the finished student does not keep its limit: {words}; it did when it was chosen, so the "
        "machine may be busy now; measure it again with tutelage bench"
        for words in found
    ]


def _limits(settings: DistillConfig) -> str:
    options = {"--max-latency-ms": settings.max_latency_ms, "--max-size-mb": settings.max_size_mb}
    return " and ".join(f"{name} {limit:g}" for name, limit in options.items() if limit is not None)


def _fitting(settings: DistillConfig, offers: Iterable[Offer]) -> list[Offer]:
    return [one for one in offers if not excess(settings, one.latency_ms, one.megabytes)]


def _offers(
    settings: DistillConfig, names: Sequence[str], sizes: Sequence[int], measure: Measure
) -> list[Offer]:
    """What fits and is worth its time, fastest first; only the ends of ``sizes`` are measured.

    Between them a network's latency rises with the square of the side.
    """
    low, high = min(sizes), max(sizes)
    least = measure([(name, low) for name in names])
    fitting = _fitting(settings, least)
    if not fitting:
        raise _nothing_fits(settings, least)
    greatest = fitting if low == high else measure([(one.student, high) for one in fitting])
    offers = [
        _between(small, large, size)
        for small, large in zip(fitting, greatest, strict=True)
        for size in sizes
    ]
    fitting = _fitting(settings, offers)
    worth = [offer for offer in fitting if not any(_beats(other, offer) for other in fitting)]
    return sorted(worth, key=lambda offer: offer.latency_ms)


def _beats(other: Offer, offer: Offer) -> bool:
    """Whether another has as many parameters and as large views in less time.

    The first stages of a trunk have few channels and large maps, on which a new neck is slow.
    """
    as_large = other.parameters >= offer.parameters and other.size >= offer.size
    return as_large and other.latency_ms < offer.latency_ms


def _between(small: Offer, large: Offer, size: int) -> Offer:
    span = large.size**2 - small.size**2
    share = (size**2 - small.size**2) / span if span else 0.0
    latency = small.latency_ms + share * (large.latency_ms - small.latency_ms)
    return dataclasses.replace(small, size=size, latency_ms=latency)


def _slowest_that_fits(settings: DistillConfig, offers: Sequence[Offer], measure: Measure) -> Offer:
    """The slowest offer that, when it is measured itself, keeps the limits."""
    tried = []
    for offer in reversed(offers):
        tried += measure([offer.shape])
        if _fitting(settings, tried[-1:]):
            return tried[-1]
    raise _nothing_fits(settings, tried)


def _nothing_fits(settings: DistillConfig, measured: Sequence[Offer]) -> TutelageError:
    fastest = min(measured, key=lambda offer: offer.latency_ms)
    smallest = min(measured, key=lambda offer: offer.megabytes)
    found = f"the fastest is {fastest}"
    if smallest.megabytes < fastest.megabytes:
        found += f", the smallest {smallest}"
    mend = "allow more than that"
    if settings.max_latency_ms is not None and fastest.latency_ms > settings.max_latency_ms:
        mend += ", or store the images on a smaller --canvas, which takes less time to resize to"
    return TutelageError(
        f"no student fits {_limits(settings)}: {found}, as measured on this machine; {mend}"
    )
