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

    def __str__(self) -> str:
        return (
            f"{self.student} at {self.size} px ({self.latency_ms:.2f} ms, {self.megabytes:.2f} MB)"
        )


class Untrained:
    """Measures students that are not trained yet: each is exported once, all are timed in turns."""

    def __init__(self, config: RunConfig, base: Classifier) -> None:
        self._config, self._base = config, base
        self._exported: dict[Shape, tuple[int, float, Callable[[], object]]] = {}

    def __call__(self, shapes: Sequence[Shape]) -> list[Offer]:
        """What each costs."""
        for name, size in shapes:
            if (name, size) not in self._exported:
                self._exported[name, size] = self._export(name, size)
        exported = [self._exported[shape] for shape in shapes]
        timed = latencies([call for *_, call in exported])
        return [
            Offer(*shape, parameters, time.p50_ms, megabytes)
            for shape, (parameters, megabytes, _), time in zip(shapes, exported, timed, strict=True)
        ]

    def _export(self, name: str, size: int) -> tuple[int, float, Callable[[], object]]:
        model = create_student(self._config.changed("distill", student=name), self._base)
        set_input_size(model, size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.onnx"
            export_onnx(model, path)
            return count_parameters(model), path.stat().st_size / 1e6, onnx_call(path)


def choose_student(
    config: RunConfig, base: Classifier, planned: int, sizes: Sequence[int]
) -> tuple[Offer, str]:
    """The student to train, and a note on why it was chosen.

    It is the one whose views are ``planned`` where that fits the limits, else the slowest that
    does, of all cuts and ``sizes``. Where the user named a student it is that one in any case.
    """
    settings, name = config.distill, config.distill.student
    measure = Untrained(config, base)
    (first,) = measure([(name, planned)])
    limits = " and ".join(f"{option} {limit:g}" for limit, option, _ in _limits(settings))
    note = f"the planned student, {first},"
    if _fitting(settings, [first]):
        return first, f"{note} fits {limits}"
    names = [name]
    if name == "cut" and can_be_cut(base):
        names += [f"cut:{stages}" for stages in range(1, count_stages(first_trunk(base)) + 1)]
    tried = measure([(name, min(sizes)) for name in names])
    if fitting := _fitting(settings, tried):
        tried = []
        for offer in _worth_it(settings, fitting, sizes, measure):  # until one keeps what it says
            tried += measure([(offer.student, offer.size)])
            if _fitting(settings, tried[-1:]):
                note += f" does not fit {limits}; the slowest that does takes its place"
                return tried[-1], f"{note}: {tried[-1]}"
    raise _nothing_fits(settings, limits, tried)


def _worth_it(
    settings: DistillConfig,
    smallest: Sequence[Offer],
    sizes: Sequence[int],
    measure: Callable[[Sequence[Shape]], list[Offer]],
) -> list[Offer]:
    """What seems to fit, slowest first; only the ends of ``sizes`` are measured.

    Between them a network's latency rises with the square of the side. A student that another beats
    in latency with as many parameters and as large views is left out: the first stages of a trunk
    have few channels and large maps, on which a new neck is slow.
    """
    low, high = min(sizes), max(sizes)
    largest = measure([(one.student, high) for one in smallest]) if low < high else smallest
    offers = []
    for small, large in zip(smallest, largest, strict=True):
        for size in sizes:
            share = (size**2 - low**2) / (high**2 - low**2) if low < high else 0.0
            latency = small.latency_ms + share * (large.latency_ms - small.latency_ms)
            offers.append(dataclasses.replace(small, size=size, latency_ms=latency))
    fitting = _fitting(settings, offers)

    def beaten(one: Offer) -> bool:
        return any(
            other.parameters >= one.parameters
            and other.size >= one.size
            and other.latency_ms < one.latency_ms
            for other in fitting
        )

    return sorted((one for one in fitting if not beaten(one)), key=lambda one: -one.latency_ms)


def _limits(settings: DistillConfig) -> list[tuple[float, str, str]]:
    """Each limit that was given, its option, and its unit."""
    limits = (
        (settings.max_latency_ms, "--max-latency-ms", "ms"),
        (settings.max_size_mb, "--max-size-mb", "MB"),
    )
    return [(limit, option, unit) for limit, option, unit in limits if limit is not None]


def _excess(settings: DistillConfig, latency_ms: float, megabytes: float) -> list[str]:
    """Each limit that a student exceeds, in words."""
    figures = {"ms": latency_ms, "MB": megabytes}
    return [
        f"{figures[unit]:.2f} {unit} exceeds {option} {limit:g}"
        for limit, option, unit in _limits(settings)
        if figures[unit] > limit
    ]


def _fitting(settings: DistillConfig, offers: Iterable[Offer]) -> list[Offer]:
    return [one for one in offers if not _excess(settings, one.latency_ms, one.megabytes)]


def exceeded(settings: DistillConfig, deployed: Sequence[DeploymentRow]) -> list[str]:
    """A note where the finished student exceeds a limit that it kept when it was chosen."""
    return [
        f"the finished student does not keep its limit: {words}; it did when it was chosen, so the "
        "machine may be busy now; measure it again with tutelage bench"
        for row in deployed
        if row["name"] == "student"
        for words in _excess(settings, row["latency_ms_p50"], row["bytes"] / 1e6)
    ]


def _nothing_fits(settings: DistillConfig, limits: str, measured: Sequence[Offer]) -> TutelageError:
    fastest = min(measured, key=lambda offer: offer.latency_ms)
    smallest = min(measured, key=lambda offer: offer.megabytes)
    found = f"the fastest is {fastest}"
    if smallest.megabytes < fastest.megabytes:
        found += f", the smallest {smallest}"
    mend = "allow more than that"
    if settings.max_latency_ms is not None and fastest.latency_ms > settings.max_latency_ms:
        mend += ", or store the images on a smaller --canvas, which takes less time to resize to"
    return TutelageError(f"no student fits {limits}: {found}, as measured on this machine; {mend}")
