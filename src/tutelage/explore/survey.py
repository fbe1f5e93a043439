"""``tutelage augment``: how the strong view covers the pool, its holes, and a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tutelage import pages
from tutelage.augment import Center, Policy, RandAugment, Weak, apply, draw_cutmix
from tutelage.augment.randaugment import RANDAUGMENT
from tutelage.chain import prepare
from tutelage.chain.load import LoadedData, say_images
from tutelage.chain.machine import nearest_size
from tutelage.chain.recipe import strong_policy
from tutelage.chain.sheets import pictures
from tutelage.config import RunConfig, TransferConfig
from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import command_line, results_folder
from tutelage.heads.bank import look
from tutelage.models.forward import Forward
from tutelage.models.sizes import with_input_size
from tutelage.pages.wording import interval_of_change, now, percent, points, signed, title
from tutelage.report.html import encode_sheet, jpeg_uri
from tutelage.report.model import Sheet, Thumb
from tutelage.stats.coverage import (
    LEAST_POOL,
    LEAST_SOURCES,
    METRICS,
    NEAREST,
    Figures,
    Hole,
    coverage_of_equals,
    holes,
    measure,
)
from tutelage.stats.intervals import Interval
from tutelage.stats.metrics import Ints
from tutelage.system.console import Console
from tutelage.system.files import write_atomically
from tutelage.training.loader import Canvases, Rows

SIZE = 128  # side of the views that are measured, in pixels, at most
POOL = 1000  # pool images that coverage is measured on, and among which holes are looked for
LABELED = 60
VIEWS = 4  # of each labelled image
SHOWN_HOLES = 18
MAGNITUDES = (3, 9, 15, 21, 30)
COLUMNS = 1 + len(MAGNITUDES)  # the picture as it is comes first
EXAMPLES = 2  # labelled images on the contact sheet
TILE = 96  # side of a picture on it, in pixels
STILL = Weak(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)
STRONG = ("augment", "num_ops", "magnitude", "crop_scale")  # settings of the strong view
Strip = tuple[str, list[str]]  # a name, and its rows of pictures as URIs


def augment(
    config: RunConfig,
    opened: tuple[Catalog, str],
    out: Path | None,
    settings: dict[str, Any],
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Survey the data and write page and figures; ``tutelage.api.augment`` has the arguments."""
    catalog, name = opened
    out = results_folder(out, "augment", name, config.to_dict())
    with prepare.opened("augment", catalog, name, out, config, quiet=quiet) as work:
        data, folder, console = work
        say_images(data, console)
        began, sample, strong = monotonic(), ViewSample(data), config.transfer
        content: dict[str, Any] = {
            "command": command_line("augment", name, str(out), settings),
            "created": now(),
            "labeled": len(sample.labeled),
            "pool": len(sample.pool),
            "size": sample.size,
            "seed": sample.seed,
            "strong_view": {"name": policy_name(strong), **{n: getattr(strong, n) for n in STRONG}},
            "measured": not sample.lack,
            "reason": sample.lack,
        }
        sheet: dict[str, Any] | None = None
        if not sample.lack:
            found, uncovered = _measured(sample, strong, console)
            content |= found
            content["holes"], sheet = _holes(uncovered, sample)
        content["seconds"] = round(monotonic() - began, 1)
        folder.write_json("augment.json", content)
        context = {
            "title": title("tutelage augment", data.catalog.classes),
            "content": content,
            "architecture": data.base.spec.architecture,
            "warnings": [*data.catalog.facts, *data.catalog.warnings, *data.split.warnings],
            "views": [f"view {number}" for number in range(1, COLUMNS + 1)],
            "magnitudes": ["as it is", *(f"magnitude {m}" for m in MAGNITUDES)],
            "policies": _policy_strips(sample, strong),
            "operations": _operation_strips(sample),
            "sheet": sheet,
        }
        write_atomically(folder.path / "augment.html", pages.render("augment.html.j2", **context))
        for cloud, figures in content.get("clouds", {}).items():
            said = [
                "{} {value:.2f} [{low:.2f}, {high:.2f}]".format(metric, **figures[metric])
                for metric in ("coverage", "density")
            ]
            console.say(f"  {cloud:<12} {'  '.join(said)}")
        console.say(content.get("verdict", f"not measured: {sample.lack}"))
        console.point("page", folder.path / "augment.html")
        return content


def policy_name(config: TransferConfig) -> str:
    """The strong view in words."""
    crop = f"crop from {config.crop_scale:g}"
    return {
        "center": "centre view",
        "none": f"no operations, {crop}",
        "trivialaugment": f"TrivialAugment, {crop}",
        "randaugment": f"RandAugment {config.num_ops}/{config.magnitude}, {crop}",
    }[config.augment]


class ViewSample:
    """Some labelled images and some of the pool, and the frozen trunk that looks at them."""

    def __init__(self, data: LoadedData) -> None:
        split, spec = data.split, data.base.spec
        self.seed = data.config.data.seed  # of views and half samples
        labeled = split.indices("labeled")
        self.labeled, self.pool = draw_sample(
            labeled, split.labels[labeled], split.indices("unlabeled"), self.seed
        )
        self.examples = self.labeled[:: max(1, len(self.labeled) // EXAMPLES)][:EXAMPLES]
        self.names = data.catalog.names
        self.canvases = Canvases(data.store, np.flatnonzero(split.roles != "unused"), data.device)
        self.size = nearest_size(data.base, min(SIZE, spec.input_size))
        trunk = with_input_size(data.base, self.size).to(data.device)
        forward = Forward(trunk, "features")
        self._look = partial(look, self.canvases, forward=forward, size=self.size)
        # Features (N, D) of the evaluation view of rows.
        self.clean = partial(self._look, policy=Center(spec.crop_pct))

    @property
    def lack(self) -> str:
        """What is missing for coverage to be measured, in words; empty if nothing is."""
        if len(self.pool) < LEAST_POOL:
            return (
                f"coverage needs {LEAST_POOL} unlabelled images to be measured against, "
                f"found {len(self.pool)}"
            )
        if len(self.labeled) < LEAST_SOURCES:
            return f"coverage needs {LEAST_SOURCES} labelled images, found {len(self.labeled)}"
        return ""

    def views(self, policy: Policy) -> Tensor:
        """Features (V, n, D) of ``VIEWS`` views of each labelled image.

        View ``v`` of every policy draws from the same seed, so that policies differ by as little
        as they can.
        """
        seeds = [1000 * self.seed + number for number in range(VIEWS)]
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([self._look(self.labeled, policy, generator=one) for one in draws])

    def shown(self, rows: Rows, policy: Policy, seed: int = 0) -> Tensor:
        """Views (B, 3, H, W) of store rows, for people to look at."""
        images, aspect = self.canvases.take(rows)
        draws = torch.Generator().manual_seed(seed)
        return apply(images.cpu(), policy.plan(aspect.cpu(), draws), TILE)


def draw_sample(labeled: Rows, labels: Ints, pool: Rows, seed: int) -> tuple[Rows, Rows]:
    """At most ``LABELED`` labelled rows, going round the classes, and ``POOL`` rows of the pool."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labeled))
    turn = np.empty(len(labeled), dtype=np.intp)  # how many of its class come before an image
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    kept = np.sort(order[np.argsort(turn[order], kind="stable")][:LABELED])
    return labeled[kept], pool[np.sort(rng.permutation(len(pool))[:POOL])]


def _measured(
    sample: ViewSample, strong: TransferConfig, console: Console
) -> tuple[dict[str, Any], list[Hole]]:
    """The figures of both policies and of the plain labelled images, in words, and the holes."""
    policies: dict[str, Policy] = {"weak view": Weak(), "strong view": strong_policy(strong)}
    views = {"labelled": sample.clean(sample.labeled)[None]}
    with console.bar("coverage", 1 + len(policies), "cloud") as done:
        pool = sample.clean(sample.pool)
        done(1)
        for number, (name, policy) in enumerate(policies.items(), start=2):
            views[name] = sample.views(policy)
            done(number)
    trained_on = torch.cat([views["labelled"], views["strong view"]]).flatten(0, 1)
    figures = measure(pool, views, seed=sample.seed)
    found = figures_in_words(figures, len(sample.labeled), len(sample.pool))
    return found, holes(pool, trained_on, count=SHOWN_HOLES)


def figures_in_words(figures: Mapping[str, Figures], n_labeled: int, n_pool: int) -> dict[str, Any]:
    """The clouds of views by name, and a headline on whether augmentation helped to cover the pool.

    The strong view is compared with the weak view, which has as many views of each image: nearly
    anything covers more than one view does.
    """
    strong, weak = figures["strong view"], figures["weak view"]
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
        f"Coverage, strong minus weak view: {points(covers.value, 0)} points, "
        f"{interval_of_change(covers, 0)}.",
        f"Kernel distance to the real images, strong minus weak view: {_signed(away)} "
        "(below 0: nearer).",
    ]
    dense = strong.minus(weak, "density")
    if dense.high < 0:
        said.append(f"Worse: density fell by {-dense.value:.2f} ({_signed(dense)}).")
    fresh, more = (coverage_of_equals(n_pool, n_labeled * v) for v in (1, strong.n_views))
    said.append(
        f"{n_labeled} other images drawn evenly from the pool would cover about "
        f"{percent(fresh, 0)} of it, {n_labeled * strong.n_views} of them {percent(more, 0)}."
    )
    return {
        "verdict": head,
        "sentences": said,
        "neighbours": NEAREST,
        "clouds": {
            name: {"views": one.n_views, **{m: _rounded(one.values[m]) for m in METRICS}}
            for name, one in figures.items()
        },
        "strong_minus_weak": {m: _rounded(strong.minus(weak, m)) for m in METRICS},
        "coverage_of_equals": {"one view each": round(fresh, 4), "all views": round(more, 4)},
    }


def _coverage(figures: Figures) -> str:
    return percent(figures.values["coverage"].value, 0)


def _signed(change: Interval) -> str:
    value, low, high = (signed(part, 3) for part in change)
    return f"{value}, 95% interval {low} to {high}"


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, 6) for name, value in interval._asdict().items()}


def _holes(
    found: Sequence[Hole], sample: ViewSample
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The holes for augment.json, and their pictures for the page."""
    listed, thumbs = [], []
    for hole in found:
        row = sample.pool[hole.row]
        name = sample.names[row]
        measured = {"distance": round(hole.distance, 4), "radius": round(hole.radius, 4)}
        listed.append({"image": name, **measured})
        (picture,) = pictures(sample.shown(row[None], Center(1.0)))
        thumbs.append(Thumb(picture, f"{hole.distance / max(hole.radius, 1e-12):.1f}, {name}"))
    sheet = encode_sheet(Sheet("Holes", "", thumbs))
    return listed, sheet


def _policy_strips(sample: ViewSample, strong: TransferConfig) -> list[Strip]:
    """Random views of a few of the user's pictures by each policy, and by CutMix."""
    views: dict[str, Policy] = {"weak view": Weak(), "strong view": strong_policy(strong)}
    strips: list[Strip] = []
    for name, policy in views.items():
        shown = [
            sample.shown(np.repeat(row, COLUMNS), policy, number)
            for number, row in enumerate(sample.examples)
        ]
        strips.append((name, [_beside(one) for one in shown]))
    pairs = sample.shown(np.resize(sample.examples, COLUMNS), Weak())
    mixed = draw_cutmix(COLUMNS, torch.Generator().manual_seed(0)).images(pairs)
    return [*strips, ("CutMix", [_beside(mixed)])]


def _operation_strips(sample: ViewSample) -> list[Strip]:
    """A few of the user's pictures as they are, and by each of RandAugment's operations."""
    strips = []
    for operation in RANDAUGMENT:
        if operation == "identity":
            continue
        alone = partial(RandAugment, num_ops=1, magnitude_std=0.0, operations=(operation,))
        policies = [STILL, *(alone(magnitude=float(m), view=STILL) for m in MAGNITUDES)]
        # One seed: the crop and the direction are the same at every magnitude.
        rows = [
            torch.cat([sample.shown(np.array([row]), policy) for policy in policies])
            for row in sample.examples
        ]
        strips.append((operation.replace("_", " "), [_beside(row) for row in rows]))
    return strips


def _beside(views: Tensor, gap: int = 4) -> str:
    """Views (C, 3, H, W) in one picture, with a grey gap that shows on light and dark pages."""
    count, _, height, width = views.shape
    sheet = np.full((height, count * (width + gap) - gap, 3), 128, dtype=np.uint8)
    for number, picture in enumerate(pictures(views)):
        left = number * (width + gap)
        sheet[:, left : left + width] = picture
    return jpeg_uri(Image.fromarray(sheet))
