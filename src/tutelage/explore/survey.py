"""What ``tutelage augment`` looks at and says: coverage, holes, the search, and a contact sheet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment import Center, Policy, RandAugment, Weak, apply, draw_cutmix
from tutelage.augment.randaugment import RANDAUGMENT
from tutelage.chain import prepare, tune
from tutelage.chain.load import LoadedData, say_images
from tutelage.chain.plan import TUNE_MOST, TUNE_POOL, TUNE_VIEWS
from tutelage.chain.sheets import pictures
from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import repeating_line, results_folder
from tutelage.explore.page import AugmentPage, Cloud, Strip, render
from tutelage.report.html import write_page
from tutelage.report.model import Sheet, Thumb
from tutelage.report.wording import interval_of_change, now, percent, points, signed, title
from tutelage.stats.coverage import (
    METRICS,
    NEAREST,
    Figures,
    Holes,
    coverage_of_equals,
    farthest,
    fit_plane,
    holes,
    measure,
)
from tutelage.stats.intervals import Interval
from tutelage.system.console import Console
from tutelage.training.loader import Canvases, Rows

SHOWN_POOL = 1000  # pool images that coverage is measured on, and among which holes are looked for
SHOWN_HOLES = 18
SHOWN_ALONE = 6
MAGNITUDES = (3, 9, 15, 21, 30)
EXAMPLES = 2  # labelled images on the contact sheet
TILE = 96  # side of a picture on it, in pixels
PRESETS: tuple[dict[str, Any], ...] = (
    tune.DEFAULT,
    {**tune.DEFAULT, "augment": "trivialaugment"},
)  # shown beside the strong view
STILL = Weak(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)


@dataclass(frozen=True)
class Measured:
    """How the training views lie relative to the pool."""

    figures: Mapping[str, Figures]  # by cloud
    holes: Holes  # pool images that the strong view leaves uncovered
    outliers: Holes  # the pool images farthest from any view by bare distance
    plane: Mapping[str, NDArray[np.float32]]  # cloud -> (.., 2) coordinates, among them "pool"
    share: float  # of the pool's variance that the plane shows


@dataclass(frozen=True)
class Survey:
    """Everything that was found."""

    sample: tune.ViewSample  # the images that were looked at
    strong: dict[str, Any]  # settings of the strong view: those given, or the search's choice
    tuning: tune.Tuning | None  # the search, if it was asked for
    measured: Measured | None  # None if there was too little to measure
    seconds: float

    @property
    def lack(self) -> str:
        """Why nothing was measured, in words; empty if it was."""
        return self.sample.lack


def augment(
    config: RunConfig,
    opened: tuple[Catalog, str],
    out: Path | None,
    settings: dict[str, Any],
    *,
    tune: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Survey the data and write page and figures; ``tutelage.api.augment`` has the arguments.

    ``settings`` are those that were given, which make ``config``; ``opened`` is what ``open_data``
    returned.
    """
    catalog, name = opened
    out = results_folder(out, "augment", name, config.to_dict())
    tuned = tune or config.transfer.augment == "auto"
    with prepare.opened("augment", catalog, name, out, config, quiet=quiet) as work:
        loaded, folder, console = work
        say_images(loaded, console)
        done = survey(loaded, console, tuned=tuned)
        line = repeating_line("augment", name, str(out), {**settings, "tune": tune or None})
        created = now()
        content = {"command": line, "created": created, **to_dict(done, catalog.names)}
        folder.write_json("augment.json", content)
        page = folder.path / "augment.html"
        write_page(render(make_page(done, loaded, line, created)), page)
        _say(console, content, done)
        console.point("page", page)
        return content


def _say(console: Console, content: Mapping[str, Any], done: Survey) -> None:
    for name, cloud in content.get("clouds", {}).items():
        figures = [
            f"{metric} {cloud[metric]['value']:.2f} [{cloud[metric]['low']:.2f}, "
            f"{cloud[metric]['high']:.2f}]"
            for metric in ("coverage", "density", "precision")
        ]
        console.say(f"  {name:<12} {'  '.join(figures)}")
    console.say(content.get("verdict", f"not measured: {done.lack}"))
    if done.tuning is not None:
        console.say(f"search: {done.tuning.reason} ({done.tuning.seconds:.0f} s)")


def survey(data: LoadedData, console: Console, *, tuned: bool) -> Survey:
    """Measure how the strong view covers the pool, and search for a better one if ``tuned``."""
    began = time.monotonic()
    rows = np.flatnonzero(data.split.roles != "unused")
    canvases = Canvases(data.store, rows, data.device)
    sample = tune.view_sample(data, canvases, SHOWN_POOL)
    settings = tune.settings_of(data.config.transfer)
    tuning = None
    if tuned:
        with console.bar("search", TUNE_MOST, "candidate") as done:
            # The same search as a run's, on as many pool images.
            tuning = tune.tune(tune.view_sample(data, canvases, TUNE_POOL), progress=done)
    if settings["augment"] == "auto":
        settings = tuning.chosen if tuning else tune.DEFAULT
    measured = None
    if not sample.lack:
        shown: dict[str, Policy] = {"weak view": Weak(), "strong view": tune.policy_of(settings)}
        if tuning is not None and tuning.chosen != settings:
            shown["tuned view"] = tune.policy_of(tuning.chosen)
        measured = _measure(sample, shown, console, data.config.data.seed)
    return Survey(sample, settings, tuning, measured, time.monotonic() - began)


def _measure(
    sample: tune.ViewSample, shown: Mapping[str, Policy], console: Console, seed: int
) -> Measured:
    """Compare the views of the ``shown`` policies, and the plain labelled images, with the pool."""
    views = {"labelled": sample.clean(sample.labeled)[None]}
    with console.bar("coverage", 1 + len(shown), "cloud") as done:
        pool = sample.clean(sample.pool)
        done(1)
        for number, (name, policy) in enumerate(shown.items(), start=2):
            views[name] = sample.views(policy, TUNE_VIEWS)
            done(number)
    plane = fit_plane(pool)
    trained_on = torch.cat([views["labelled"], views["strong view"]]).flatten(0, 1)
    flat = {"pool": pool, **{name: part.flatten(0, 1) for name, part in views.items()}}
    return Measured(
        figures=measure(pool, views, seed=seed),
        holes=holes(pool, trained_on, count=SHOWN_HOLES),
        outliers=farthest(pool, trained_on, count=SHOWN_ALONE),
        plane={name: plane(part).numpy() for name, part in flat.items()},
        share=plane.share,
    )


def verdict(figures: Mapping[str, Figures], n_labeled: int, n_pool: int) -> tuple[str, list[str]]:
    """A headline that answers whether augmentation helped to cover the pool, and more sentences.

    The strong view is compared with the weak view, which has as many views of each image: nearly
    anything covers more than one view does.
    """
    strong, weak, plain = (figures[name] for name in ("strong view", "weak view", "labelled"))
    covers, away = (strong.minus(weak, metric) for metric in ("coverage", "distance"))
    both = f"{_coverage(strong)} of the real images, the weak view {_coverage(weak)}"
    if covers.low > 0 and away.low <= 0:
        head = f"Yes: the strong view covers {both}."
    elif covers.low > 0:
        head = (
            f"In part: the strong view covers {both}, but its views as a whole moved away from the "
            "real images."
        )
    elif covers.high < 0 or away.low > 0:
        head = f"No: the strong view moves away from the real images. It covers {both}."
    else:
        head = f"Cannot tell: the strong view covers {both}; the difference may be chance."
    said = [
        f"Coverage, strong minus weak view: {_in_points(covers)}.",
        f"Kernel distance to the real images, strong minus weak view: {_signed(away)} "
        "(below 0: nearer).",
        f"Against the {n_labeled} labelled images as they are, which cover "
        f"{_coverage(plain)}: {_in_points(strong.minus(plain, 'coverage'))}. There are "
        f"{strong.n_views} strong views of each image, so part of the difference is their number.",
    ]
    for metric in ("density", "precision"):
        change = strong.minus(weak, metric)
        if change.high < 0:
            said.append(f"Worse: {metric} fell by {-change.value:.2f} ({_signed(change)}).")
    fresh = coverage_of_equals(n_pool, n_labeled)
    said.append(
        f"{n_labeled} other images drawn evenly from the pool would cover about "
        f"{percent(fresh, 0)} of it, {n_labeled * strong.n_views} of them "
        f"{percent(coverage_of_equals(n_pool, n_labeled * strong.n_views), 0)}."
    )
    return head, said


def _coverage(figures: Figures) -> str:
    return percent(figures.values["coverage"].value, 0)


def _in_points(change: Interval) -> str:
    return f"{points(change.value, 0)} points, {interval_of_change(change, 0)}"


def _signed(change: Interval) -> str:
    value, low, high = (signed(part, 3) for part in change)
    return f"{value}, 95% interval {low} to {high}"


def to_dict(done: Survey, names: Sequence[str]) -> dict[str, Any]:
    """The content of augment.json; ``names`` are those of the images, by store row."""
    sample = done.sample
    out: dict[str, Any] = {
        "labeled": len(sample.labeled),
        "pool": len(sample.pool),
        "size": sample.size,
        "seed": sample.seed,
        "strong_view": {"name": tune.policy_name(**done.strong), **done.strong},
        "measured": not done.lack,
        "reason": done.lack,
        "seconds": round(done.seconds, 1),
        "tuning": done.tuning.to_dict() if done.tuning else None,
    }
    if done.measured is None:
        return out
    figures = done.measured.figures
    head, said = verdict(figures, len(sample.labeled), len(sample.pool))
    strong = figures["strong view"]
    return out | {
        "verdict": head,
        "sentences": said,
        "neighbours": NEAREST,
        "clouds": {
            name: {"views": one.n_views, **{m: tune.plain(one.values[m]) for m in METRICS}}
            for name, one in figures.items()
        },
        "strong_minus": {
            name: {m: tune.plain(strong.minus(one, m)) for m in METRICS}
            for name, one in figures.items()
            if name != "strong view"
        },
        "coverage_of_equals": {
            name: round(coverage_of_equals(len(sample.pool), len(sample.labeled) * v), 4)
            for name, v in (("one view each", 1), ("all views", strong.n_views))
        },
        "plane_share": round(done.measured.share, 4),
        "holes": _hole_rows(done.measured.holes, sample.pool, names),
        "farthest": _hole_rows(done.measured.outliers, sample.pool, names),
    }


def _hole_rows(found: Holes, pool: Rows, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "image": names[pool[row]],
            "distance": round(float(found.distance[i]), 4),
            "radius": round(float(found.radius[i]), 4),
            "alone": bool(found.alone[i]),
        }
        for i, row in enumerate(found.rows.tolist())
    ]


def make_page(done: Survey, data: LoadedData, command: str, created: str) -> AugmentPage:
    """Everything the page shows."""
    sample, measured = done.sample, done.measured
    figures = measured.figures if measured else {}
    head, said = verdict(figures, len(sample.labeled), len(sample.pool)) if measured else ("", [])
    notes = {
        "labelled": "the evaluation view of the labelled images, one each",
        "weak view": "a crop and a mirror image: the control, as many views as the strong view has",
        "strong view": tune.policy_name(**done.strong),
        "tuned view": done.tuning.name if done.tuning else "",
    }
    return AugmentPage(
        title=title("tutelage augment", data.catalog.classes),
        command=command,
        created=created,
        headline=head,
        sentences=said,
        lack=done.lack,
        looked=f"{len(sample.labeled)} labelled images against {len(sample.pool)} of the pool, "
        f"features of {data.base.spec.architecture} at {sample.size} px",
        clouds=[Cloud(name, notes[name], one.n_views, one.values) for name, one in figures.items()],
        plane=measured.plane if measured else {},
        share=measured.share if measured else 0.0,
        sheets=_sheets(measured, data, sample) if measured else [],
        strips=contact_sheet(sample, done.strong, done.tuning),
        tuning=done.tuning,
        warnings=[*data.catalog.facts, *data.catalog.warnings, *data.split.warnings],
    )


def _sheets(measured: Measured, data: LoadedData, sample: tune.ViewSample) -> list[Sheet]:
    """The pool images that no training view is near to."""
    uncovered = (
        "Real images that have other real images near them, but no training view: the number is "
        "the distance to the nearest training view, in units of the distance to the "
        f"{NEAREST}th nearest real image. Images like these are worth a label."
    )
    far = (
        "By bare distance, covered or not. “Alone” means that the other real images are far, too: "
        "an odd image rather than a hole."
    )
    return [
        _sheet(measured.holes, data, sample, "Holes", uncovered),
        _sheet(measured.outliers, data, sample, "Farthest of all", far),
    ]


def _sheet(found: Holes, data: LoadedData, sample: tune.ViewSample, name: str, note: str) -> Sheet:
    if not len(found.rows):
        return Sheet(name, "None: every real image has a training view near it.", [])
    rows = sample.pool[found.rows.numpy()]
    images = _views(sample, rows, Center(1.0))
    ratios = (found.distance / found.radius.clamp_min(1e-12)).tolist()
    captions = [
        f"{ratio:.1f}{' alone' if alone else ''}, {data.catalog.names[row]}"
        for ratio, alone, row in zip(ratios, found.alone.tolist(), rows, strict=True)
    ]
    return Sheet(name, note, [Thumb(i, c) for i, c in zip(images, captions, strict=True)])


def _views(sample: tune.ViewSample, rows: Rows, policy: Policy, seed: int = 0) -> NDArray[np.uint8]:
    """Views uint8 (B, H, W, 3) of store rows, for people to look at."""
    return pictures(_floats(sample, rows, policy, seed))


def _floats(sample: tune.ViewSample, rows: Rows, policy: Policy, seed: int) -> Tensor:
    images, aspect = sample.canvases.take(rows)
    images, aspect = images.cpu(), aspect.cpu()
    draws = torch.Generator().manual_seed(seed)
    return apply(images, policy.plan(aspect, draws), TILE)


def contact_sheet(
    sample: tune.ViewSample, strong: dict[str, Any], tuning: tune.Tuning | None
) -> list[Strip]:
    """A strip of the user's own pictures per policy, and per operation at rising magnitude."""
    few = sample.labeled[:: max(1, len(sample.labeled) // EXAMPLES)][:EXAMPLES]
    views = {"weak view": Weak(), "strong view": tune.policy_of(strong)}
    if tuning is not None:
        views["tuned view"] = tune.policy_of(tuning.chosen)
    presets = {tune.policy_name(**one): tune.policy_of(one) for one in PRESETS}
    views |= {name: one for name, one in presets.items() if one not in views.values()}
    return [*_policy_strips(sample, few, views), *_operation_strips(sample, few)]


def _policy_strips(sample: tune.ViewSample, few: Rows, views: Mapping[str, Policy]) -> list[Strip]:
    """Random views of a few store rows by each policy, and by CutMix."""
    count = 1 + len(MAGNITUDES)
    columns = [f"view {number}" for number in range(1, count + 1)]
    strips = []
    for name, policy in views.items():
        rows = [_views(sample, np.repeat(row, count), policy, i) for i, row in enumerate(few)]
        strips.append(Strip("policies", name, columns, rows))
    pairs = _floats(sample, np.resize(few, count), Weak(), 0)
    mixed = draw_cutmix(count, torch.Generator().manual_seed(0)).images(pairs)
    return [*strips, Strip("policies", "CutMix", columns, [pictures(mixed)])]


def _operation_strips(sample: tune.ViewSample, few: Rows) -> list[Strip]:
    """A few store rows as they are, and by each of RandAugment's operations."""
    columns = ["as it is", *(f"magnitude {m}" for m in MAGNITUDES)]
    strips = []
    for operation in RANDAUGMENT:
        if operation == "identity":
            continue
        alone = partial(RandAugment, num_ops=1, magnitude_std=0.0, operations=(operation,))
        policies = [STILL, *(alone(magnitude=float(m), view=STILL) for m in MAGNITUDES)]
        # One seed: the crop and the direction are the same at every magnitude.
        rows = [
            np.concatenate([_views(sample, np.array([row]), policy) for policy in policies])
            for row in few
        ]
        strips.append(Strip("operations", operation.replace("_", " "), columns, rows))
    return strips
