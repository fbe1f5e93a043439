"""Choosing the strong view by measurement: which augmentation covers the real images best.

Every candidate is looked at through the frozen trunk. It must stay as close to the pool as a weak
view (fidelity held); of those, the one that covers most of the pool is taken, if a head that
learned from its views does not make held-out labels less likely than the default's views do.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.augment import Center, Policy, Weak
from tutelage.chain.frozen import feature_metrics
from tutelage.chain.load import LoadedData
from tutelage.chain.machine import nearest_size
from tutelage.chain.plan import (
    FOLDS,
    TUNE_CROPS,
    TUNE_FINALISTS,
    TUNE_GRID,
    TUNE_LABELED,
    TUNE_POOL,
    TUNE_REFINED,
    TUNE_SIZE,
    TUNE_VIEWS,
)
from tutelage.chain.recipe import strong_policy
from tutelage.chain.types import Fold, make_folds, one_hot
from tutelage.config import TransferConfig
from tutelage.heads.bank import Look, look
from tutelage.heads.probe import Metric, fit_head
from tutelage.models.forward import Forward
from tutelage.models.joint import Columns
from tutelage.models.sizes import with_input_size
from tutelage.stats.calibrate import calibrated_losses
from tutelage.stats.coverage import LEAST_POOL, LEAST_SOURCES, Figures, measure
from tutelage.stats.intervals import Interval, t_quantile
from tutelage.stats.metrics import Floats, Ints
from tutelage.training.loader import Canvases, Rows

STRENGTHS = (3.0, 30.0)  # of the heads that a view is judged by


@dataclass(frozen=True)
class ViewSample:
    """The images that coverage is measured on, and the trunk that looks at them."""

    canvases: Canvases  # pixels by store row
    labeled: Rows  # (n,) store rows with labels
    labels: Ints  # (n,) their classes
    pool: Rows  # (N,) store rows of real images without labels
    n_classes: int  # K
    forward: Look  # the frozen trunk, views to features
    size: int  # side of the views in pixels
    crop_pct: float  # of the evaluation view
    seed: int  # of views, folds and half samples
    pretrained_head: Tensor | None = None  # (K', D) weight of the pretrained fc layer

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

    def clean(self, rows: Rows) -> Tensor:
        """Features (N, D) of the evaluation view."""
        return look(self.canvases, rows, Center(self.crop_pct), self.forward, self.size)

    def views(self, policy: Policy, count: int) -> Tensor:
        """Features (V, n, D) of ``count`` views of each labelled image.

        View ``v`` of every policy draws from the same seed, so that policies differ by as little
        as they can.
        """
        parts = []
        for number in range(count):
            draws = torch.Generator().manual_seed(1000 * self.seed + number)
            parts.append(
                look(self.canvases, self.labeled, policy, self.forward, self.size, generator=draws)
            )
        return torch.stack(parts)


def view_sample(data: LoadedData, canvases: Canvases, most_pool: int = TUNE_POOL) -> ViewSample:
    """Some labelled images and ``most_pool`` of the pool, to measure coverage on."""
    spec, config = data.base.spec, data.config
    head = data.base.pretrained_head
    size = nearest_size(data.base, min(TUNE_SIZE, spec.input_size))
    labeled = data.split.indices("labeled")
    rows, labels, pool = draw_sample(
        labeled,
        data.split.labels[labeled],
        data.split.indices("unlabeled"),
        most_labeled=TUNE_LABELED,
        most_pool=most_pool,
        seed=config.data.seed,
    )
    return ViewSample(
        canvases=canvases,
        labeled=rows,
        labels=labels,
        pool=pool,
        n_classes=len(data.catalog.classes),
        forward=Forward(with_input_size(data.base, size).to(data.device), "features"),
        size=size,
        crop_pct=spec.crop_pct,
        seed=config.data.seed,
        pretrained_head=None if head is None else head.cpu(),
    )


def draw_sample(
    labeled: Rows, labels: Ints, pool: Rows, *, most_labeled: int, most_pool: int, seed: int
) -> tuple[Rows, Ints, Rows]:
    """Labelled rows, their labels and pool rows, at most so many; labels go round the classes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labeled))
    turn = np.empty(len(labeled), dtype=np.intp)  # how many of its class come before an image
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    kept = np.sort(order[np.argsort(turn[order], kind="stable")][:most_labeled])
    some = np.sort(rng.permutation(len(pool))[:most_pool])
    return labeled[kept], labels[kept], pool[some]


@dataclass(frozen=True)
class ViewCandidate:
    """One strong view and how it did."""

    settings: dict[str, Any]  # as from ``settings_of``
    figures: dict[str, Interval]  # metric -> interval, of its views against the pool
    gain: Interval  # its coverage minus the default's; all candidates' intervals hold together
    lost: tuple[str, ...]  # the figures in which fidelity fell below the bound; empty if it is held
    log_loss: float | None = None  # mean, held-out, of a head on its views; None if not checked
    worse: Interval | None = None  # its log-loss minus the default's, paired by image; or None

    @property
    def name(self) -> str:
        """The settings in words."""
        return policy_name(**self.settings)

    @property
    def coverage(self) -> str:
        """The share of the pool that its views cover, in words."""
        return f"{self.figures['coverage'].value:.0%}"

    @property
    def operations(self) -> str:
        """The settings in words, without the crop."""
        return self.name.replace(f", crop from {self.settings['crop_scale']:g}", "")


@dataclass(frozen=True)
class Tuning:
    """A finished search."""

    candidates: tuple[ViewCandidate, ...]  # all of them, the default first
    bounds: dict[str, float]  # figure -> what a candidate must reach ("distance": must not exceed)
    chosen: dict[str, Any]  # settings to train with
    reason: str  # why, in words
    seconds: float  # how long it took
    looks: int  # views that were looked at

    @property
    def name(self) -> str:
        """The chosen settings in words."""
        return policy_name(**self.chosen)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as augment.json keeps them."""
        rows = []
        for one in self.candidates:
            row = {"name": one.name, **dataclasses.asdict(one)}
            row["figures"] = {name: plain(value) for name, value in one.figures.items()}
            row["gain"] = plain(one.gain)
            row["worse"] = None if one.worse is None else plain(one.worse)
            row["lost"] = list(one.lost)
            rows.append(row)
        return {**dataclasses.asdict(self), "name": self.name, "candidates": rows}


def plain(interval: Interval) -> dict[str, float]:
    """An interval for JSON."""
    return {name: round(value, 6) for name, value in interval._asdict().items()}


def policy_name(augment: str, num_ops: int, magnitude: int, crop_scale: float) -> str:
    """Settings of a strong view in words."""
    if augment == "center":
        return "centre view"
    crop = f"crop from {crop_scale:g}"
    if augment == "none":
        return f"no operations, {crop}"
    if augment == "trivialaugment":
        return f"TrivialAugment, {crop}"
    return f"RandAugment {num_ops}/{magnitude}, {crop}"


def settings_of(config: TransferConfig) -> dict[str, Any]:
    """The settings that a search may change."""
    names = ("augment", "num_ops", "magnitude", "crop_scale")
    return {name: getattr(config, name) for name in names}


DEFAULT = settings_of(TransferConfig())
FIDELITY = ("density", "precision", "distance")
Seen = dict[str, tuple[dict[str, Any], Tensor, Figures]]  # name -> settings, views, figures


def tune(sample: ViewSample, *, progress: Callable[[int], None] | None = None) -> Tuning:
    """Search number of operations, magnitude and crop of the strong view.

    First a grid of operations and magnitudes, TrivialAugment and the bare crop; then other crops
    for the best of them; then the best few and the default are checked on folds of the labels.

    Fidelity is held if density and precision are not below, and the kernel distance not above,
    those of the weak view by more than half the weak view's own interval: a smaller difference may
    be chance. The distance is there because density alone rewards views that crowd where
    the pool is densest.

    Args:
        sample: what to look at.
        progress: called with the number of candidates looked at.
    """
    began = time.monotonic()
    default = policy_name(**DEFAULT)
    if lack := _no_choice(sample):
        reason = f"kept the default {default}: {lack}"
        return Tuning((), {}, DEFAULT, reason, time.monotonic() - began, 0)
    pool, labeled = sample.clean(sample.pool), sample.clean(sample.labeled)
    weak = measure(pool, {"weak": sample.views(Weak(), TUNE_VIEWS)}, seed=sample.seed)["weak"]
    bounds = fidelity_bounds(weak)
    seen = _search(sample, pool, bounds, progress)
    others = [name for name in _faithful(seen, bounds) if name != default]
    finalists = [default, *others[:TUNE_FINALISTS]]
    center = torch.cat([labeled, pool])
    own = Columns(slice(center.shape[1]), slice(0))
    metrics = list(feature_metrics(center, own, sample.pretrained_head).values())
    losses = {name: view_losses(sample, labeled, seen[name][1], metrics) for name in finalists}
    gains = joint_gains({name: figures for name, (_, _, figures) in seen.items()}, default)
    candidates = tuple(
        ViewCandidate(
            settings,
            figures.values,
            gains[name],
            lost_fidelity(figures, bounds),
            float(losses[name].mean()) if name in losses else None,
            _mean_interval(losses[name] - losses[default]) if name in losses else None,
        )
        for name, (settings, _, figures) in seen.items()
    )
    chosen, reason = choose_view(candidates)
    looks = len(pool) + len(labeled) * (1 + TUNE_VIEWS * (1 + len(seen)))
    return Tuning(candidates, bounds, chosen, reason, time.monotonic() - began, looks)


def _search(
    sample: ViewSample,
    pool: Tensor,
    bounds: dict[str, float],
    progress: Callable[[int], None] | None,
) -> Seen:
    """Look at the default and the grid, then at other crops for the best of them."""
    seen: Seen = {}

    def see(settings: dict[str, Any]) -> None:
        name = policy_name(**settings)
        if name not in seen:
            views = sample.views(policy_of(settings), TUNE_VIEWS)
            figures = measure(pool, {name: views}, seed=sample.seed)[name]
            seen[name] = settings, views, figures
            if progress is not None:
                progress(len(seen))

    for changes in ({}, *TUNE_GRID):
        see({**DEFAULT, **changes})
    for name in _faithful(seen, bounds)[:TUNE_REFINED]:
        for crop in TUNE_CROPS:
            see({**seen[name][0], "crop_scale": crop})
    return seen


def _faithful(seen: Seen, bounds: dict[str, float]) -> list[str]:
    """The names of the views that hold fidelity, the one that covers most of the pool first."""
    held = [name for name, (_, _, figures) in seen.items() if not lost_fidelity(figures, bounds)]
    return sorted(held, key=lambda name: -seen[name][2].values["coverage"].value)


def joint_gains(figures: dict[str, Figures], default: str) -> dict[str, Interval]:
    """Gains in coverage over the default, with 95% intervals that hold for all of them together.

    The best of many candidates flatters itself. In 95% of the half samples no candidate's gain
    strays from its mean by more standard errors than ``widest`` (the maximum of the studentised
    differences). Half an interval is as many, times the ratio of the t to the normal quantile.
    """
    names = [name for name in figures if name != default]
    base = figures[default]
    strays = torch.stack([figures[n].halves["coverage"] - base.halves["coverage"] for n in names])
    strays = strays - strays.mean(dim=1, keepdim=True)
    error = strays.std(dim=1, keepdim=True).clamp_min(1e-12)
    widest = float((strays / error).abs().amax(dim=0).quantile(0.95))
    factor = widest * base.quantile / 1.959964
    gains = {default: Interval(0.0, 0.0, 0.0)}
    for name, sd in zip(names, error[:, 0].tolist(), strict=True):
        value = figures[name].values["coverage"].value - base.values["coverage"].value
        gains[name] = Interval(value, value - factor * sd, value + factor * sd)
    return gains


def _no_choice(sample: ViewSample) -> str:
    if sample.lack:
        return sample.lack
    if np.bincount(sample.labels).max() < 2:
        return "every class has a single label, so no label can be held out to check a choice"
    return ""


def policy_of(settings: dict[str, Any]) -> Policy:
    """The strong view of some settings, as every stage makes it."""
    return strong_policy(TransferConfig(**settings))


def fidelity_bounds(weak: Figures) -> dict[str, float]:
    """What a candidate's figures may not pass: the weak view's, less half its interval."""
    half = {m: weak.quantile * float(weak.halves[m].std()) for m in FIDELITY}
    return {m: weak.values[m].value + half[m] * (1 if m == "distance" else -1) for m in FIDELITY}


def lost_fidelity(figures: Figures, bounds: dict[str, float]) -> tuple[str, ...]:
    """The fidelity figures that are worse than their bounds."""
    sign = {m: -1 if m == "distance" else 1 for m in FIDELITY}
    return tuple(m for m in FIDELITY if sign[m] * (figures.values[m].value - bounds[m]) < 0)


def choose_view(candidates: Sequence[ViewCandidate]) -> tuple[dict[str, Any], str]:
    """Settings and reason: the most coverage among views that keep the held-out likelihood.

    The default comes first; candidates with a log-loss were checked.
    """
    default = candidates[0]
    checked = [one for one in candidates[1:] if one.log_loss is not None]
    better = [one for one in checked if one.gain.value > 0]
    passed = [one for one in better if one.worse is not None and one.worse.value <= 0]
    kept = f"kept the default {default.name}: "
    if not checked:
        return (
            default.settings,
            kept + "no other candidate is as close to the pool as the weak view",
        )
    if not better:
        return default.settings, kept + "no candidate that is as close covers more of the pool"
    if not passed:
        best = max(better, key=lambda one: one.gain.value)
        return default.settings, kept + (
            f"{best.name} covers {best.coverage} of the pool instead of "
            f"{default.coverage}, but held-out labels are less likely "
            f"with it (log-loss {best.log_loss:.3f} instead of {default.log_loss:.3f})"
        )
    best = max(passed, key=lambda one: one.gain.value)
    sure = "more than chance explains" if best.gain.low > 0 else "which may be chance"
    return best.settings, (
        f"{best.name} covers {best.coverage} of the pool instead of the "
        f"default's {default.coverage} ({sure}), its views stay as close to the pool as the weak "
        f"view's, and held-out labels are no less likely with it (log-loss {best.log_loss:.3f}, "
        f"default {default.log_loss:.3f})"
    )


def view_losses(
    sample: ViewSample, clean: Tensor, views: Tensor, metrics: Sequence[Metric]
) -> Floats:
    """Log-loss (J,) of each held-out label under heads fitted on the views of the others.

    As in the stage "transfer", the head's metric and strength are the best ones for these views,
    and the temperature is fitted on the held-out answers. Heads learn from ``views`` (V, n, D)
    and are judged on ``clean`` (n, D), the evaluation views.
    """
    folds = make_folds(sample.labels, 0, FOLDS, sample.seed)[1:]
    judged = np.concatenate([fold.judges for fold in folds])
    truth = sample.labels[judged]
    best: Floats | None = None
    for metric in metrics:
        for strength in STRENGTHS:
            logits = np.concatenate(
                [_fold_logits(sample, fold, clean, views, metric, strength) for fold in folds]
            )
            losses = calibrated_losses(logits, truth)
            if best is None or losses.mean() < best.mean():
                best = losses
    assert best is not None  # the plain metric is always there
    return best


def _fold_logits(
    sample: ViewSample,
    fold: Fold,
    clean: Tensor,
    views: Tensor,
    metric: Metric,
    strength: float,
) -> Floats:
    kept = views[:, torch.from_numpy(fold.keep)]
    targets = one_hot(sample.labels[fold.keep], sample.n_classes).repeat(len(kept), 1)
    weights = torch.full((len(targets),), 1.0 / len(kept))
    head = fit_head(kept.flatten(0, 1), targets, weights, metric, strength=strength)
    answers: Floats = head(clean[torch.from_numpy(fold.judges)]).numpy().astype(np.float64)
    return answers


def _mean_interval(differences: Floats) -> Interval:
    """Mean of paired differences with a t interval."""
    n, mean = len(differences), float(differences.mean())
    half = t_quantile(n - 1) * float(differences.std(ddof=1)) / n**0.5 if n > 1 else float("inf")
    return Interval(mean, mean - half, mean + half)
